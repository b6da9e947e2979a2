"""The convolution by oneDNN, which jaxlib's CPU backend holds."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from nfnets.models import cpu_convolution, onednn, plain_convolution

MIN_PRODUCT = 64  # channels of a group; why is in `_weights_gradient`


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
  """For each place in the kernel a product over all pixels; else XLA's.

  oneDNN's products run at 1.3 to 1.7 times the speed of XLA's convolution of
  the same gradient from `MIN_PRODUCT` channels on, and at half of it for 16.
  """
  height, width, inputs, outputs = weights.shape
  is_narrow = cpu_convolution.is_narrow(images, weights)
  is_empty = 0 in (*images.shape, *cotangent.shape)  # whose sums it leaves open
  if is_empty or inputs < MIN_PRODUCT or (is_narrow and height * width > 1):
    return cpu_convolution.transpose(
      images, weights, cotangent, strides, groups
    )[1]
  padded = jnp.pad(
    images, ((0, 0), *plain_convolution.same(images, weights, strides), (0, 0))
  )
  rows, columns = (
    (side - 1) * stride + 1
    for side, stride in zip(cotangent.shape[1:3], strides)
  )
  right = cotangent.reshape(-1, groups, outputs // groups).swapaxes(0, 1)
  found = []
  for row in range(height):
    for column in range(width):
      left = padded[
        :,
        row : row + rows : strides[0],
        column : column + columns : strides[1],
      ]
      left = left.reshape(-1, groups, inputs).swapaxes(0, 1)
      found.append(_product(left, right))
  shape = height, width, groups, inputs, outputs // groups
  products = jnp.stack(found).reshape(shape).swapaxes(2, 3)
  return products.reshape(weights.shape)


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
