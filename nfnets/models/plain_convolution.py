"""The convolution as one of XLA's: what accelerators run."""

import functools
from collections.abc import Callable, Sequence

import jax
from jax import lax

Padding = Sequence[tuple[int, int]]


def convolve(
  images: jax.Array,
  weights: jax.Array,
  strides: Sequence[int] = (1, 1),
  groups: int = 1,
) -> jax.Array:
  """Of images `[N, H, W, C]` and weights `[kh, kw, C / groups, O]`."""
  return lax.conv_general_dilated(
    images,
    weights,
    window_strides=tuple(strides),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def transpose(
  images: jax.Array,
  weights: jax.Array,
  cotangent: jax.Array,
  strides: tuple[int, int],
  groups: int,
  run: Callable[..., jax.Array] = convolve,
) -> tuple[jax.Array, jax.Array]:
  """The gradients of `run`, for images and weights, by JAX."""
  run = functools.partial(run, strides=strides, groups=groups)
  return jax.vjp(run, images, weights)[1](cotangent)


def same(
  images: jax.Array, weights: jax.Array, strides: tuple[int, int]
) -> Padding:
  """What 'SAME' pads before and after height and width."""
  pads = []
  for side, kernel, stride in zip(images.shape[1:3], weights.shape, strides):
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    pads.append((total // 2, total - total // 2))
  return tuple(pads)
