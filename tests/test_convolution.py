"""The CPU's form of the convolution is lax's, in values and derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.models import layers

# image side, in channels, out channels, kernel, stride, groups
SHAPES = [
  (8, 3, 16, 3, 2, 1),
  (7, 4, 6, 1, 2, 1),
  (9, 3, 4, 7, 2, 1),
  (8, 64, 128, 3, 1, 2),
  (5, 96, 96, 3, 2, 3),
  (6, 64, 64, 1, 1, 2),
  (5, 8, 16, 3, 1, 8),
  (1, 4, 4, 3, 1, 1),
]


def oracle(images, weights, stride=1, groups=1, padding='SAME'):
  return jax.lax.conv_general_dilated(
    images,
    weights,
    (stride, stride),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def example(shape, dtype=np.float32):
  size, inputs, outputs, kernel, stride, groups = shape
  random = np.random.default_rng(0)
  images = random.standard_normal((3, size, size, inputs))
  weights = random.standard_normal((kernel, kernel, inputs // groups, outputs))
  weights /= np.sqrt(kernel**2 * inputs // groups)
  settings = {'stride': stride, 'groups': groups}
  return images.astype(dtype), weights.astype(dtype), settings


def value_and_gradients(convolve, images, weights, settings):
  run = functools.partial(convolve, **settings)
  out, transpose = jax.vjp(run, images, weights)
  random = np.random.default_rng(1)
  return out, *transpose(
    jnp.asarray(random.standard_normal(out.shape), out.dtype)
  )


def assert_close(actual, expected, tolerance):
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_value_and_both_gradients_are_laxs_to_float32_rounding(shape):
  images, weights, settings = example(shape)
  actual, expected = (
    jax.jit(
      functools.partial(value_and_gradients, convolve, settings=settings)
    )(images, weights)
    for convolve in (layers.conv2d, oracle)
  )
  assert_close(actual, expected, 3e-6)


@pytest.mark.parametrize('shape', SHAPES[3:5], ids=str)
def test_a_gradients_derivative_is_laxs(shape):
  images, weights, settings = example(shape)

  def curvature(convolve):
    loss = lambda w: jnp.sum(jnp.sin(convolve(images, w, **settings)))
    return jax.jvp(jax.grad(loss), (weights,), (weights,))[1]

  assert_close(curvature(layers.conv2d), curvature(oracle), 2e-5)


@pytest.mark.parametrize('size', [7, 8])
@pytest.mark.parametrize('kernel', [1, 3, 7])
def test_symmetric_padding_is_pytorchs(size, kernel):
  images, weights, settings = example((size, 4, 5, kernel, 2, 1))
  half = (kernel // 2, kernel // 2)
  expected = oracle(images, weights, 2, padding=(half, half))
  actual = layers.conv2d(images, weights, padding='symmetric', **settings)
  assert_close(actual, expected, 3e-6)


def test_bfloat16_follows_the_images():
  images, weights, settings = example(SHAPES[3])
  out, to_images, to_weights = value_and_gradients(
    layers.conv2d, jnp.asarray(images, jnp.bfloat16), weights, settings
  )
  assert out.dtype == to_images.dtype == jnp.bfloat16
  assert to_weights.dtype == jnp.float32
  expected = oracle(images, weights, **settings)
  assert_close(out.astype(jnp.float32), expected, 2e-2)


def test_only_a_program_for_a_cpu_is_split():
  images, weights, settings = example((8, 128, 128, 3, 2, 2))

  def convolutions(platform):
    with layers.traced_for(platform):
      run = lambda x, w: layers.conv2d(x, w, **settings)
      return str(jax.make_jaxpr(run)(images, weights)).count('conv_general')

  assert (convolutions('cpu'), convolutions('tpu')) == (2, 1)
  assert layers.traced_platform() == 'cpu'
