"""The convolution of every network here: one place to choose a formulation.

Which one runs is decided when a program is lowered, by the platform it is
lowered for, so that a TPU program compiled on a CPU host gets the TPU's.
"""

import functools
from collections.abc import Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
from jax import lax

from nfnets.models import cpu_convolution, cpu_library, plain_convolution


def conv2d(
  images: jax.Array,
  weights: jax.Array,
  strides: Sequence[int] = (1, 1),
  groups: int = 1,
) -> jax.Array:
  """Convolves with TensorFlow's 'SAME' padding.

  Args:
    images: `[N, H, W, C]`.
    weights: `[kh, kw, C / groups, O]`.
    strides: of height and width.
    groups: that C and O are split into.

  Returns:
    `[N, ceil(H / stride), ceil(W / stride), O]`, of the images' type.
    Differentiable in reverse, any number of times; not in forward mode.
  """
  weights = weights.astype(images.dtype)
  return _conv2d(images, weights, tuple(strides), groups)


def pad_symmetrically(
  x: jax.Array, kernel: int, stride: int, padding: str, value: float = 0.0
) -> jax.Array:
  """Makes a 'SAME' window start where symmetric padding lets it start.

  The two differ for strided windows on even sides alone: 'SAME' then pads one
  less at the top and left. The result's own output has a row and a column too
  many; cut it to `ceil(H / stride)`, `ceil(W / stride)`.

  Args:
    x: `[N, H, W, C]`.
    kernel: side of the window.
    stride: 1 or 2.
    padding: 'symmetric', or 'same', which returns x.
    value: what is padded with.
  """
  if padding == 'same' or stride == 1 or kernel == 1:
    return x
  pads = [(1, 1) if side % 2 == 0 else (0, 0) for side in x.shape[1:3]]
  return jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(
  images: jax.Array, weights: jax.Array, strides: tuple[int, int], groups: int
) -> jax.Array:
  settings = {'strides': strides, 'groups': groups}
  return lax.platform_dependent(
    images,
    weights,
    cpu=functools.partial(_on_cpu(images).convolve, **settings),
    default=functools.partial(plain_convolution.convolve, **settings),
  )


def _forward(
  images: jax.Array, weights: jax.Array, strides: tuple[int, int], groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  if weights.shape[0] > 1 and images.shape[-1] <= cpu_convolution.MAX_NARROW:
    images = lax.platform_dependent(
      images, cpu=cpu_convolution.materialize, default=lambda images: images
    )
  return _conv2d(images, weights, strides, groups), (images, weights)


def _backward(
  strides: tuple[int, int],
  groups: int,
  residuals: tuple[jax.Array, jax.Array],
  cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  # Chosen here again: a derivative through the choice above would keep every
  # platform's intermediate values.
  settings = {'strides': strides, 'groups': groups}
  return lax.platform_dependent(
    *residuals,
    cotangent,
    cpu=functools.partial(_on_cpu(residuals[0]).transpose, **settings),
    default=functools.partial(plain_convolution.transpose, **settings),
  )


_conv2d.defvjp(_forward, _backward)


def _on_cpu(images: jax.Array) -> ModuleType:
  return cpu_library if cpu_library.takes(images) else cpu_convolution
