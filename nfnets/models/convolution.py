"""The convolution of every network here: one place to choose a formulation.

Which one runs is decided when a program is lowered, by the platform it is
lowered for, so that a TPU program compiled on a CPU host gets the TPU's.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

MIN_GROUP_WIDTH = 32  # below it, splitting makes too many small convolutions


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
    cpu=functools.partial(_split, **settings),
    default=functools.partial(plain, **settings),
  )


def _forward(
  images: jax.Array, weights: jax.Array, strides: tuple[int, int], groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _conv2d(images, weights, strides, groups), (images, weights)


def _backward(
  strides: tuple[int, int],
  groups: int,
  residuals: tuple[jax.Array, jax.Array],
  cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  def transpose(convolve):  # noqa: ANN001, ANN202
    def run(images, weights, cotangent):  # noqa: ANN001, ANN202
      bound = functools.partial(convolve, strides=strides, groups=groups)
      return jax.vjp(bound, images, weights)[1](cotangent)

    return run

  # Chosen here again: a derivative through the choice above would keep every
  # platform's intermediate values.
  return lax.platform_dependent(
    *residuals, cotangent, cpu=transpose(_split), default=transpose(plain)
  )


_conv2d.defvjp(_forward, _backward)


def plain(
  images: jax.Array,
  weights: jax.Array,
  strides: Sequence[int] = (1, 1),
  groups: int = 1,
) -> jax.Array:
  """`conv2d` as one XLA convolution."""
  return lax.conv_general_dilated(
    images,
    weights,
    window_strides=tuple(strides),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def _split(
  images: jax.Array,
  weights: jax.Array,
  strides: tuple[int, int],
  groups: int,
) -> jax.Array:
  """One dense convolution per group, and matrix products for 1x1.

  XLA's CPU backend computes a 6-group 3x3 convolution's weight gradient at
  under 10 GFLOP/s, a dense one's at about 100.
  """
  if groups > 1 and weights.shape[2] >= MIN_GROUP_WIDTH:
    parts = [
      _split(part, kernel, strides, 1)
      for part, kernel in zip(
        jnp.split(images, groups, -1), jnp.split(weights, groups, -1)
      )
    ]
    return jnp.concatenate(parts, -1)
  if groups == 1 and weights.shape[:2] == (1, 1):
    return images[:, :: strides[0], :: strides[1]] @ weights[0, 0]
  return plain(images, weights, strides, groups)
