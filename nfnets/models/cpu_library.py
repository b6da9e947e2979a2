"""The convolution by oneDNN, which jaxlib's CPU backend holds."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from nfnets.models import cpu_convolution, onednn, plain_convolution

MIN_PRODUCT = 64  # input channels; why is in `_weights_gradient`


def takes(images: jax.Array) -> bool:
  """Whether images `[N, H, W, C]` go that way on the CPU."""
  return onednn.is_here() and images.dtype == jnp.float32


def convolve(
  images: jax.Array,
  weights: jax.Array,
  strides: tuple[int, int],
  groups: int,
) -> jax.Array:
  """All groups at once, 1.1 to 2 times as fast as XLA's (`results/speed.md`).

  Args:
    images: float32 `[N, H, W, C]`.
    weights: `[kh, kw, C / groups, O]`.
    strides: of height and width.
    groups: that C and O are split into.
  """
  padding = plain_convolution.same(images, weights, strides)
  return _convolve(images, weights, strides, padding, groups, False)


def transpose(
  images: jax.Array,
  weights: jax.Array,
  cotangent: jax.Array,
  strides: tuple[int, int],
  groups: int,
) -> tuple[jax.Array, jax.Array]:
  """The gradients of `convolve`."""
  arrays = images, weights, cotangent
  return (
    _images_gradient(*arrays, strides, groups),
    _weights_gradient(*arrays, strides, groups),
  )


def _images_gradient(
  images: jax.Array,
  weights: jax.Array,
  cotangent: jax.Array,
  strides: tuple[int, int],
  groups: int,
) -> jax.Array:
  """For stride 1 a convolution with the kernel turned round; else XLA's."""
  if strides != (1, 1):
    return cpu_convolution.transpose(
      images, weights, cotangent, strides, groups
    )[0]
  height, width, inputs, _ = weights.shape
  turned = weights[::-1, ::-1].reshape(height, width, inputs, groups, -1)
  turned = turned.swapaxes(2, 3).reshape(height, width, groups * inputs, -1)
  padding = tuple(
    pair[::-1] for pair in plain_convolution.same(images, weights, strides)
  )
  return _convolve(cotangent, turned, (1, 1), padding, groups, True)


def _weights_gradient(
  images: jax.Array,
  weights: jax.Array,
  cotangent: jax.Array,
  strides: tuple[int, int],
  groups: int,
) -> jax.Array:
  """A product over pixels, of all places in the kernel at once; else XLA's.

  The images stand beside themselves, shifted by each column of the kernel, and
  the cotangent beside itself, shifted by each row that meets the same rows of
  the images: all of them with stride 1, every second with stride 2, which then
  takes two products. XLA's convolution has what whole steps are faster with:
  below `MIN_PRODUCT` channels, and kernels of small networks, unless the groups
  are so narrow that it would take a hundred times as long
  (`results/speed.md`).
  """
  height, width, inputs, _ = weights.shape
  is_narrow = cpu_convolution.is_narrow(images, weights)
  is_empty = 0 in (*images.shape, *cotangent.shape)  # whose sums it leaves open
  is_small = inputs < MIN_PRODUCT or (is_narrow and height * width > 1)
  is_whole = groups > 1 and inputs < cpu_convolution.MIN_GROUP_WIDTH
  if is_empty or (is_small and not is_whole):
    return cpu_convolution.transpose(
      images, weights, cotangent, strides, groups
    )[1]
  padding = plain_convolution.same(images, weights, strides)
  images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
  count, rows, columns, _ = cotangent.shape
  images = images.reshape(*images.shape[:3], groups, 1, inputs)
  cotangent = cotangent.reshape(count, rows, columns, groups, 1, -1)
  extent = (columns - 1) * strides[1] + 1
  found = {}
  for first in range(min(strides[0], height)):
    places = range(first, height, strides[0])
    more = len(places) - 1
    seen = images[:, first :: strides[0]][:, : rows + more]
    left = [seen[:, :, x : x + extent : strides[1]] for x in range(width)]
    padded = jnp.pad(cotangent, ((0, 0), (more, more), *4 * [(0, 0)]))
    right = [padded[:, more - y :][:, : rows + more] for y in range(more + 1)]
    product = _product(_by_pixels(left), _by_pixels(right))
    product = product.reshape(groups, width, inputs, more + 1, -1)
    product = product.transpose(3, 1, 2, 0, 4).reshape(-1, *weights.shape[1:])
    if more + 1 == height:
      return product
    found |= {y: product[i : i + 1] for i, y in enumerate(places)}
  return jnp.concatenate([found[y] for y in range(height)])


def _by_pixels(shifted: Sequence[jax.Array]) -> jax.Array:
  """`[N, H, W, G, 1, C]` of each shift to `[G, N H W, shifts C]`."""
  together = jnp.concatenate(shifted, 4)
  groups, shifts, channels = together.shape[3:]
  return together.reshape(-1, groups, shifts * channels).swapaxes(0, 1)


# What follows has XLA's derivative: the derivative of a gradient.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _convolve(
  images: jax.Array,
  weights: jax.Array,
  strides: tuple[int, int],
  padding: plain_convolution.Padding,
  groups: int,
  is_turned: bool,
) -> jax.Array:
  return onednn.convolve(images, weights, strides, padding, groups, is_turned)


def _convolve_forward(
  images: jax.Array, weights: jax.Array, *settings: object
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _convolve(images, weights, *settings), (images, weights)


def _convolve_backward(
  strides: tuple[int, int],
  padding: plain_convolution.Padding,
  groups: int,
  is_turned: bool,
  residuals: tuple[jax.Array, jax.Array],
  cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  run = functools.partial(
    lax.conv_general_dilated,
    window_strides=strides,
    padding=padding,
    dimension_numbers=('NHWC', 'HWOI' if is_turned else 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )
  return jax.vjp(run, *residuals)[1](cotangent)


_convolve.defvjp(_convolve_forward, _convolve_backward)


@jax.custom_vjp
def _product(left: jax.Array, right: jax.Array) -> jax.Array:
  return onednn.product(left, right)


def _product_forward(
  left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _product(left, right), (left, right)


def _product_backward(
  residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  run = functools.partial(jnp.einsum, 'gpm,gpn->gmn')
  return jax.vjp(run, *residuals)[1](cotangent)


_product.defvjp(_product_forward, _product_backward)
