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


@needs_library
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel', [1, 3])
def test_gradients_of_wide_groups_are_products(kernel, stride):
  images, weights, cotangent = arrays(
    (2, 8, 8, 128),
    (kernel, kernel, 64, 192),
    (2, 8 // stride, 8 // stride, 192),
  )
  settings = (stride, stride), 2
  run = lambda x, w: jax.lax.conv_general_dilated(
    x, w, settings[0], 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=2,
  )  # fmt: skip
  gradients = jax.jit(cpu_library.transpose, static_argnums=(3, 4))
  text = gradients.lower(images, weights, cotangent, *settings).as_text()
  assert text.count('__onednn$matmul') == kernel**2
  actual = gradients(images, weights, cotangent, *settings)
  expected = jax.vjp(run, images, weights)[1](cotangent)
  for a, b in zip(actual, expected):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@needs_library
def test_few_channels_keep_xlas_gradient():
  images, weights, cotangent = arrays(
    (2, 8, 8, 32), (3, 3, 32, 64), (2, 8, 8, 64)
  )
  gradients = jax.jit(cpu_library.transpose, static_argnums=(3, 4))
  text = gradients.lower(images, weights, cotangent, (1, 1), 1).as_text()
  assert '__onednn$matmul' not in text
  assert text.count('__onednn$convolution') == 1


@needs_library
def test_other_types_go_the_other_way():
  images = np.zeros((1, 2, 2, 3), np.float16)
  assert cpu_library.takes(images.astype(np.float32))
  assert not cpu_library.takes(images)
