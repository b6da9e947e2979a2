"""oneDNN's calls compute what XLA computes, where this jaxlib takes them."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from jax import export

from nfnets.models import convolution, onednn

needs_library = pytest.mark.skipif(
  not onednn.is_here(), reason=f'jaxlib {jaxlib.__version__} was not tried'
)


def arrays(*shapes):
  random = np.random.default_rng(0)
  return [random.standard_normal(s).astype(np.float32) for s in shapes]


def windows(images, weights, strides, padding, groups):
  """A loop over outputs: NumPy alone, in double precision."""
  images = np.pad(images.astype(np.float64), ((0, 0), *padding, (0, 0)))
  high, wide, inputs, outputs = weights.shape
  rows = range(0, images.shape[1] - high + 1, strides[0])
  columns = range(0, images.shape[2] - wide + 1, strides[1])
  out = np.zeros((len(images), len(rows), len(columns), outputs))
  each = outputs // groups
  for group in range(groups):
    x = images[..., group * inputs : (group + 1) * inputs]
    w = weights[..., group * each : (group + 1) * each].reshape(-1, each)
    for i, row in enumerate(rows):
      for j, column in enumerate(columns):
        patch = x[:, row : row + high, column : column + wide]
        out[:, i, j, group * each : (group + 1) * each] = (
          patch.reshape(len(x), -1) @ w
        )
  return out


@needs_library
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('strides', [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize('padding', [((0, 0), (0, 0)), ((0, 1), (1, 2))])
def test_a_convolution_is_a_loop_over_its_outputs(groups, strides, padding):
  images, weights = arrays((3, 6, 7, 8), (3, 2, 8 // groups, 6))
  settings = strides, padding, groups
  actual = jax.jit(onednn.convolve, static_argnums=(2, 3, 4))(
    images, weights, *settings
  )
  expected = windows(images, weights, *settings)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@needs_library
def test_turned_weights_have_their_last_axes_exchanged():
  images, weights = arrays((2, 5, 5, 8), (3, 3, 4, 6))
  settings = (1, 1), ((1, 1), (1, 1)), 2
  turned = jnp.asarray(weights).swapaxes(2, 3)
  actual = onednn.convolve(images, turned, *settings, is_turned=True)
  expected = windows(images, weights, *settings)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@needs_library
@pytest.mark.parametrize('groups', [1, 3])
def test_a_product_sums_over_pixels_group_by_group(groups):
  left, right = arrays((groups, 50, 4), (groups, 50, 6))
  actual = jax.jit(onednn.product)(left, right)
  expected = np.einsum('gpm,gpn->gmn', left, right, dtype=np.float64)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@needs_library
def test_a_portable_program_has_none_of_it_and_the_setting_ends():
  convolve = jax.jit(lambda x, w: convolution.conv2d(x, w))
  images, weights = arrays((1, 4, 4, 3), (3, 3, 3, 2))
  with onednn.portable():
    assert not onednn.is_here()
    assert '__onednn' not in convolve.lower(images, weights).as_text()
  assert onednn.is_here()
  assert (
    '__onednn' in jax.jit(convolution.conv2d).lower(images, weights).as_text()
  )


@needs_library
def test_programs_that_are_to_be_kept_go_without_it(tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  try:
    assert not onednn.is_here()
  finally:
    jax.config.update('jax_compilation_cache_dir', None)
  assert onednn.is_here()


@needs_library
def test_the_environment_can_refuse_it():
  code = 'from nfnets.models import onednn; print(onednn.is_here())'
  done = subprocess.run(
    [sys.executable, '-c', code],
    env={'NFNETS_ONEDNN': 'off', 'PATH': ''},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == 'False\n'


@needs_library
def test_a_program_for_export_has_to_be_portable():
  run = jax.jit(convolution.conv2d)
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays(
    (1, 4, 4, 3), (3, 3, 3, 2)
  )]  # fmt: skip
  with pytest.raises(ValueError, match='no compatibility guarantees'):
    export.export(run)(*shapes)
  with onednn.portable():
    export.export(jax.jit(lambda x, w: convolution.conv2d(x, w)))(*shapes)


def test_a_jaxlib_that_was_not_tried_goes_without(monkeypatch):
  monkeypatch.setattr(jaxlib, '__version__', '0.0.1')
  assert not onednn._is_known.__wrapped__()
