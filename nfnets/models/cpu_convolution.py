"""The convolution in pieces that XLA's own CPU backend runs fast."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from nfnets.models import plain_convolution

# Why is in the docstrings of convolve, _dense and _weights_gradient.
# In channels:
MIN_GROUP_WIDTH = 32
MAX_NARROW = 64
MAX_THREADED = 16
# In images, and in parts:
PART = 16
MAX_PARTS = 16


def convolve(
  images: jax.Array,
  weights: jax.Array,
  strides: tuple[int, int],
  groups: int,
) -> jax.Array:
  """One dense convolution per group, and a matrix product for 1x1.

  A 3x3 convolution of 6 groups of 128 channels at 12 pixels runs at 48 GFLOP/s
  in one piece and at 140 in six, its weights' gradient at 4 and at 74. Groups
  below `MIN_GROUP_WIDTH` channels stay in one piece: they would be hundreds
  of tiny convolutions.
  """
  if groups > 1 and weights.shape[2] >= MIN_GROUP_WIDTH:
    parts = zip(*(jnp.split(x, groups, -1) for x in (images, weights)))
    outs = [convolve(*part, strides, 1) for part in parts]
    return jnp.concatenate(outs, -1)
  if groups > 1:
    return plain_convolution.convolve(images, weights, strides, groups)
  if weights.shape[:2] == (1, 1):
    return images[:, :: strides[0], :: strides[1]] @ weights[0, 0]
  if strides == (1, 1):
    return _dense(
      images, weights, plain_convolution.same(images, weights, strides)
    )
  return plain_convolution.convolve(images, weights, strides)


def _dense(
  images: jax.Array, weights: jax.Array, padding: plain_convolution.Padding
) -> jax.Array:
  """A convolution of stride 1 that runs on all threads.

  XLA's CPU backend gives float32 convolutions of more than 16 channels to a
  library that runs each on one thread, unless the output is larger than the
  input. So it is made a column larger, which is cut off: 128 images of 16
  pixels and 32 channels take 3.9 ms instead of 6.9 on two cores.
  """
  extra = int(
    is_narrow(images, weights)
    and images.dtype == jnp.float32
    and max(images.shape[-1], weights.shape[-1]) > MAX_THREADED
  )
  rows, (left, right) = padding
  out = lax.conv_general_dilated(
    images,
    weights,
    window_strides=(1, 1),
    padding=(rows, (left, right + extra)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return out[:, :, :-1] if extra else out


def is_narrow(images: jax.Array, weights: jax.Array) -> bool:
  """Whether it is a large batch of few channels, as small networks have.

  Elsewhere the one convolution is faster: what small networks gain costs
  NFNet-F0 7 to 13 % of its step at a batch of 4.
  """
  channels = max(images.shape[-1], weights.shape[-1])
  # An exported program's batch may be open: no number to compare.
  is_large = isinstance(images.shape[0], int) and images.shape[0] > PART
  return is_large and channels <= MAX_NARROW


def transpose(
  images: jax.Array,
  weights: jax.Array,
  cotangent: jax.Array,
  strides: tuple[int, int],
  groups: int,
) -> tuple[jax.Array, jax.Array]:
  """The gradients of `convolve`."""
  arrays = images, weights, cotangent
  if groups > 1 and weights.shape[2] >= MIN_GROUP_WIDTH:
    parts = zip(*(jnp.split(x, groups, -1) for x in arrays))
    pairs = [transpose(*part, strides, 1) for part in parts]
    return tuple(jnp.concatenate(gradients, -1) for gradients in zip(*pairs))
  if (
    groups > 1 or weights.shape[:2] == (1, 1) or not is_narrow(images, weights)
  ):
    return plain_convolution.transpose(*arrays, strides, groups, convolve)
  return (
    _images_gradient(*arrays, strides),
    _weights_gradient(*arrays, strides),
  )


def _images_gradient(
  images: jax.Array,
  weights: jax.Array,
  cotangent: jax.Array,
  strides: tuple[int, int],
) -> jax.Array:
  if strides != (1, 1):
    run = functools.partial(
      plain_convolution.convolve, weights=weights, strides=strides
    )
    return jax.vjp(run, images)[1](cotangent)[0]
  turned = weights[::-1, ::-1].swapaxes(2, 3)
  return _dense(
    cotangent,
    turned,
    [pair[::-1] for pair in plain_convolution.same(images, weights, strides)],
  )


def _weights_gradient(
  images: jax.Array,
  weights: jax.Array,
  cotangent: jax.Array,
  strides: tuple[int, int],
) -> jax.Array:
  """The sum of the gradients of parts of the batch.

  To XLA this is a convolution whose input channels are the images. Of 128 at
  once it runs on one thread; in parts of 16, at 1.4 to 1.6 times the speed
  (13 ms and 8.2 for 32 pixels and 16 channels).
  """
  size = max(PART, -(-images.shape[0] // MAX_PARTS))
  starts = range(size, images.shape[0], size)

  def gradient(images: jax.Array, cotangent: jax.Array) -> jax.Array:
    run = functools.partial(plain_convolution.convolve, images, strides=strides)
    return jax.vjp(run, weights)[1](cotangent)[0]

  parts = zip(*(jnp.split(x, list(starts)) for x in (images, cotangent)))
  return sum(gradient(*part) for part in parts)


def materialize(images: jax.Array) -> jax.Array:
  """The images, times the identity matrix.

  XLA's CPU backend repeats the whole chain of elementwise operations that made
  the images, strided, where the weights' gradient rearranges them (a third of
  ResNet-20's step; 2 to 10 % of it where oneDNN convolves), and drops
  `lax.optimization_barrier` before it fuses. It doesn't fuse through a matrix
  product.
  """
  return images @ jnp.eye(images.shape[-1], dtype=images.dtype)
