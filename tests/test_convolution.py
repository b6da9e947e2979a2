"""Every formulation is the one convolution, in values and derivatives."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from nfnets.models import convolution, onednn

# image side, in channels, out channels, kernel, stride, groups
SHAPES = [
  (8, 3, 16, 3, 2, 1),
  (7, 4, 5, 3, 1, 1),
  (7, 4, 5, 3, 2, 1),
  (6, 8, 4, 1, 1, 1),
  (7, 4, 6, 1, 2, 1),
  (9, 3, 4, 7, 2, 1),
  (8, 64, 128, 3, 1, 2),
  (8, 96, 96, 3, 2, 3),
  (5, 96, 96, 3, 2, 3),
  (6, 64, 64, 1, 1, 2),
  (6, 16, 16, 3, 1, 2),
  (5, 24, 24, 3, 2, 3),
  (1, 4, 4, 3, 1, 1),
  (5, 8, 16, 3, 1, 8),
  (6, 128, 64, 2, 1, 2),
  (7, 128, 256, 3, 2, 2),
]


@pytest.fixture(params=['library', 'portable'], autouse=True)
def kind(request):
  """Both ways on the CPU: by oneDNN, where this jaxlib has it, and by XLA."""
  if request.param == 'portable':
    with onednn.portable():
      yield request.param
  else:
    yield request.param


def oracle(images, weights, strides=(1, 1), groups=1):
  return jax.lax.conv_general_dilated(
    images,
    weights,
    strides,
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def example(shape, dtype=np.float32, lead=()):
  size, inputs, outputs, kernel, stride, groups = shape
  random = np.random.default_rng(0)
  images = random.standard_normal((*lead, 3, size, size, inputs))
  weights = random.standard_normal(
    (*lead, kernel, kernel, inputs // groups, outputs)
  )
  fan_in = kernel**2 * inputs // groups
  settings = {'strides': (stride, stride), 'groups': groups}
  weights = weights / np.sqrt(fan_in)
  return images.astype(dtype), weights.astype(dtype), settings


def value_and_gradients(convolve, images, weights, settings):
  out, transpose = jax.vjp(
    functools.partial(convolve, **settings), images, weights
  )
  random = np.random.default_rng(1)
  cotangent = jnp.asarray(random.standard_normal(out.shape), out.dtype)
  return out, *transpose(cotangent)


def assert_close(actual, expected, tolerance):
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    assert a.shape == b.shape and a.dtype == b.dtype
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def gradients_under(transform, images, weights, settings):
  """Gradients of a nonlinear function of the output, under a transform."""

  def loss(convolve, images, weights):
    return jnp.sum(jnp.sin(convolve(images, weights, **settings)))

  run = transform(
    jax.grad(functools.partial(loss, convolution.conv2d), argnums=(0, 1))
  )
  expected = jax.grad(functools.partial(loss, oracle), argnums=(0, 1))
  return run, expected


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_value_and_both_gradients_are_laxs_to_float32_rounding(shape):
  images, weights, settings = example(shape)
  actual, expected = (
    jax.jit(
      functools.partial(value_and_gradients, convolve, settings=settings)
    )(images, weights)
    for convolve in (convolution.conv2d, oracle)
  )
  assert_close(actual, expected, 3e-6)


@pytest.mark.parametrize('batch_size', [16, 17, 32, 300])
@pytest.mark.parametrize('kernel, stride', [(3, 1), (3, 2), (2, 1)])
def test_gradient_in_parts_of_the_batch_is_laxs(batch_size, kernel, stride):
  images, weights, settings = example((4, 3, 20, kernel, stride, 1))
  images = np.random.default_rng(2).standard_normal((batch_size, 4, 4, 3))
  images = images.astype(np.float32)
  actual, expected = (
    jax.jit(
      functools.partial(value_and_gradients, convolve, settings=settings)
    )(images, weights)
    for convolve in (convolution.conv2d, oracle)
  )
  assert_close(actual, expected, 3e-6)


@pytest.mark.parametrize('batch_size, parts', [(16, 1), (40, 3), (512, 16)])
def test_parts_are_of_16_images_but_no_more_than_16(batch_size, parts):
  images = jnp.zeros((batch_size, 4, 4, 3))
  weights = jnp.zeros((3, 3, 3, 8))

  def gradient(images, weights):
    value = lambda w: jnp.sum(convolution.conv2d(images, w))
    return jax.grad(value)(weights)

  text = jax.jit(gradient).lower(images, weights).as_text()
  assert text.count('[f, 0, 1, b]x[i, 0, 1, o]') == parts


def test_no_images_give_a_gradient_of_zeros():
  images, weights, settings = example((4, 64, 64, 1, 1, 1))
  gradient = jax.jit(
    lambda x, w: jax.grad(lambda w: convolution.conv2d(x, w).sum())(w)
  )
  assert not np.any(gradient(images[:0], weights))


@pytest.mark.parametrize('shape', SHAPES[6:10], ids=str)
def test_bfloat16_follows_the_images_and_stays_near_float32(shape):
  images, weights, settings = example(shape)
  expected = value_and_gradients(oracle, images, weights, settings)
  low = jnp.asarray(images, jnp.bfloat16)
  out, d_images, d_weights = value_and_gradients(
    convolution.conv2d, low, weights, settings
  )
  assert out.dtype == d_images.dtype == jnp.bfloat16
  assert d_weights.dtype == jnp.float32
  actual = [x.astype(jnp.float32) for x in (out, d_images, d_weights)]
  assert_close(actual, expected, 2e-2)


@pytest.mark.parametrize('transform', [jax.jit, jax.checkpoint, jax.vmap])
@pytest.mark.parametrize('shape', [SHAPES[8], SHAPES[14]], ids=str)
def test_gradients_survive_transformations(shape, transform):
  lead = (2,) if transform is jax.vmap else ()
  images, weights, settings = example(shape, lead=lead)
  run, expected = gradients_under(transform, images, weights, settings)
  if lead:
    expected = jax.vmap(expected)
  assert_close(run(images, weights), expected(images, weights), 3e-6)


def test_gradients_survive_pmap_and_shard_map():
  images, weights, settings = example(SHAPES[7], lead=(2,))
  weights = weights[0]
  mesh = Mesh(np.array(jax.devices()[:2]), ('data',))
  split, whole = PartitionSpec('data'), PartitionSpec()

  def shards(grad):
    def per_device(images, weights):
      return jax.lax.pmean(grad(images[0], weights)[1], 'data')

    return jax.jit(
      jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=(split, whole),
        out_specs=whole,
        check_vma=False,
      )
    )

  def maps(grad):
    return jax.pmap(
      lambda images, weights: jax.lax.pmean(grad(images, weights)[1], 'data'),
      axis_name='data',
      in_axes=(0, None),
      out_axes=None,
      devices=jax.devices()[:2],
    )

  for transform in (shards, maps):
    run, expected = gradients_under(transform, images, weights, settings)
    mean = sum(expected(x, weights)[1] for x in images) / 2
    assert_close(run(images, weights), mean, 3e-6)


@pytest.mark.parametrize(
  'shape', [(5, 64, 64, 3, 2, 2), (5, 128, 64, 3, 1, 2)], ids=str
)
def test_gradient_of_a_gradient_is_laxs(shape):
  images, weights, settings = example(shape)

  def curvature(convolve):
    def slope(weights):
      value = lambda w: jnp.sum(jnp.sin(convolve(images, w, **settings)))
      return jnp.sum(jax.grad(value)(weights) ** 2)

    return jax.jit(jax.grad(slope))(weights)

  assert_close(curvature(convolution.conv2d), curvature(oracle), 2e-5)


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_lowered_for_an_accelerator_it_is_laxs_convolution(platform):
  images, weights, settings = example((8, 128, 128, 3, 2, 2))

  def convolutions(convolve, platform):
    run = jax.jit(
      functools.partial(value_and_gradients, convolve, settings=settings)
    )
    text = run.trace(images, weights).lower(lowering_platforms=(platform,))
    lines = text.as_text().splitlines()
    lines = [line for line in lines if 'stablehlo.convolution' in line]
    return [re.sub(r'%[\w#]+', '%', line.strip()) for line in lines]

  expected = convolutions(oracle, platform)
  assert len(expected) == 3
  assert convolutions(convolution.conv2d, platform) == expected
  assert convolutions(convolution.conv2d, 'cpu') != expected
