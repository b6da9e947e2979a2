"""oneDNN's convolution and product within XLA's CPU programs.

jaxlib's CPU backend holds the library, and takes the custom calls that a
rewriter of its own makes where a build of XLA switches that on.
"""

import contextlib
import contextvars
import functools
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jax.experimental import layout

SWITCH = 'NFNETS_ONEDNN'
# The calls are no public interface and their fields have changed before. With
# each of these jaxlibs tests/test_onednn.py, test_cpu_library.py and the
# float32 part of test_convolution.py passed, on Linux and x86-64.
VERSIONS = ('0.10.2', '0.11.0', '0.11.1', '0.11.2', '0.12.0', '0.12.0.1')

_portable = contextvars.ContextVar('portable', default=False)


def is_here() -> bool:
  """Whether programs may call it: this jaxlib holds it, and keeps none of them.

  XLA cannot write such a program to JAX's persistent compilation cache
  (`jax_compilation_cache_dir`), so there is none where that is set, nor where
  `NFNETS_ONEDNN=off`.
  """
  return (
    _is_known()
    and not _portable.get()
    and not jax.config.jax_compilation_cache_dir
  )


@contextlib.contextmanager
def portable() -> Iterator[None]:
  """Programs traced within the block don't use it: they run elsewhere too."""
  token = _portable.set(True)
  try:
    yield
  finally:
    _portable.reset(token)


@functools.cache
def _is_known() -> bool:
  return (
    jaxlib.__version__ in VERSIONS
    and sys.platform == 'linux'
    and platform.machine() == 'x86_64'
    and os.environ.get(SWITCH) != 'off'
  )


def convolve(
  images: jax.Array,
  weights: jax.Array,
  strides: tuple[int, int],
  padding: Sequence[tuple[int, int]],
  groups: int,
  is_turned: bool = False,
) -> jax.Array:
  """Convolves; on the CPU alone, and without a derivative.

  Args:
    images: float32 `[N, H, W, C]`.
    weights: float32 `[kh, kw, C / groups, O]`, or turned
      `[kh, kw, O, C / groups]`.
    strides: of height and width.
    padding: before and after height and width.
    groups: that C and O are split into.
    is_turned: whether the weights' last two axes are exchanged.

  Returns:
    `[N, H', W', O]`.
  """
  height, width = (
    (side + sum(pads) - kernel) // stride + 1
    for side, kernel, stride, pads in zip(
      images.shape[1:3], weights.shape, strides, padding
    )
  )
  inputs, outputs = (3, 2) if is_turned else (2, 3)
  shape = images.shape[0], height, width, weights.shape[outputs]
  before, after = zip(*padding)
  settings = {
    'dims': 4,
    'input': _axes(batch_dim=0, feature_dim=3, spatial_dims=(1, 2)),
    'kernel': {
      'dims': 4,
      'filter': {
        'input_feature_dim': inputs,
        'output_feature_dim': outputs,
        'spatial_dims': (0, 1),
      },
    },
    'output': _axes(batch_dim=0, feature_dim=3, spatial_dims=(1, 2)),
    'window': {
      'size': weights.shape[:2],
      'pad_left': before,
      'pad_right': after,
      'strides': strides,
      'window_dilations': (1, 1),
    },
    'feature_groups': groups,
  }
  config = {'onednn_conv_config': settings}
  return _call('convolution', shape, config)(images, weights)


def product(left: jax.Array, right: jax.Array) -> jax.Array:
  """Sums over p of left times right; on the CPU alone, without a derivative.

  Args:
    left: float32 `[G, P, M]`.
    right: float32 `[G, P, N]`. Both are laid out as `[P, G, ...]` is.

  Returns:
    `[G, M, N]`, laid out as `[M, G, N]` is.
  """
  shape = left.shape[0], left.shape[2], right.shape[2]
  config = {'onednn_matmul_config': {'transpose_a': True}}
  groups_second = layout.Layout((1, 0, 2))
  layouts = {
    'input_layouts': (groups_second, groups_second),
    'output_layouts': groups_second,
  }
  return _call('matmul', shape, config, **layouts)(left, right)


def _axes(**axes: int | Sequence[int]) -> dict:
  return {'dims': 4, 'data': axes}


def _call(
  name: str, shape: tuple[int, ...], config: dict, **layouts: Any
) -> Callable[..., jax.Array]:
  return jax.ffi.ffi_call(
    f'__onednn${name}',
    jax.ShapeDtypeStruct(shape, jnp.float32),
    vmap_method='sequential',
    custom_call_api_version=1,
    legacy_backend_config=json.dumps(config),
    **layouts,
  )
