"""The gradients that oneDNN's products give are XLA's."""

import jax
import jaxlib
import numpy as np
import pytest

from nfnets.models import cpu_library, onednn

needs_library = pytest.mark.skipif(
  not onednn.is_here(), reason=f'jaxlib {jaxlib.__version__} was not tried'
)


def arrays(*shapes):
  random = np.random.default_rng(0)
  return [random.standard_normal(s).astype(np.float32) for s in shapes]


def check_against_xla(images, weights, cotangent, strides, groups, products):
  """Also that so many products are in the program."""
  run = lambda x, w: jax.lax.conv_general_dilated(
    x, w, strides, 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )  # fmt: skip
  gradients = jax.jit(cpu_library.transpose, static_argnums=(3, 4))
  arguments = images, weights, cotangent, strides, groups
  text = gradients.lower(*arguments).as_text()
  assert text.count('__onednn$matmul') == products
  expected = jax.vjp(run, images, weights)[1](cotangent)
  for a, b in zip(gradients(*arguments), expected):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@needs_library
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('kernel', [1, 2, 3, 5])
@pytest.mark.parametrize('side', [7, 8])
def test_weights_gradient_is_a_product_for_rows_that_meet_the_same_rows(
  side, kernel, stride
):
  out = -(-side // stride)
  shapes = (2, side, side, 32), (kernel, kernel, 16, 48), (2, out, out, 48)
  products = min(stride, kernel)
  check_against_xla(*arrays(*shapes), (stride, stride), 2, products)


@needs_library
def test_weights_gradient_of_a_kernel_with_sides_and_strides_of_its_own():
  shapes = (2, 9, 5, 64), (3, 2, 64, 8), (2, 5, 5, 8)
  check_against_xla(*arrays(*shapes), (2, 1), 1, 2)


@needs_library
@pytest.mark.parametrize('count', [2, 17])
@pytest.mark.parametrize('groups, products', [(16, 1), (4, 1), (2, 0), (1, 1)])
def test_groups_that_xla_takes_one_by_one_stay_with_it(count, groups, products):
  shapes = (count, 6, 6, 96), (3, 3, 96 // groups, 96), (count, 6, 6, 96)
  check_against_xla(*arrays(*shapes), (1, 1), groups, products)


@needs_library
@pytest.mark.parametrize(
  'count, channels, products', [(2, 63, 0), (2, 64, 1), (17, 64, 0)]
)
def test_dense_weights_gradient_of_few_channels_stays_with_xla(
  count, channels, products
):
  shapes = (count, 4, 4, channels), (3, 3, channels, 8), (count, 4, 4, 8)
  check_against_xla(*arrays(*shapes), (1, 1), 1, products)


@needs_library
def test_other_types_go_the_other_way():
  images = np.zeros((1, 2, 2, 3), np.float16)
  assert cpu_library.takes(images.astype(np.float32))
  assert not cpu_library.takes(images)
