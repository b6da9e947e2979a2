"""Weight standardization's own gradient, and its rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.models import standardization


def by_jax(w, gain, eps):
  """The formula, for JAX to differentiate."""
  n = w.size // w.shape[-1]
  centred = w - jnp.mean(w, axis=(0, 1, 2), keepdims=True)
  var = jnp.mean(centred**2, axis=(0, 1, 2), keepdims=True)
  floored = jnp.maximum(var * n, 1e-4)
  root = floored if eps == 'published' else (var + 1e-5) * n
  return centred * gain[None, None, None] / jnp.sqrt(root)


@pytest.mark.parametrize('eps', standardization.WS_EPS)
@pytest.mark.parametrize('scale', [1.0, 1e-4])  # 1e-4: the floor holds
@pytest.mark.parametrize('mean', [0.0, 3.0])
def test_the_gradient_is_that_of_the_formula(eps, scale, mean):
  random = np.random.RandomState(0)
  draw = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
  w, gain, weight = scale * (draw(3, 3, 4, 6) + mean), draw(6), draw(3, 3, 4, 6)

  def loss(function, w, gain):
    return jnp.sum(weight * function(w, gain, eps) ** 2)

  got, want = (
    jax.jit(jax.grad(loss, (1, 2)), static_argnums=0)(function, w, gain)
    for function in (standardization.standardize, by_jax)
  )
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


def test_a_gradient_changes_neither_mean_nor_scale():
  w = jax.random.normal(jax.random.key(0), (3, 3, 4, 6))
  weight = jax.random.normal(jax.random.key(1), w.shape)
  grad = jax.grad(
    lambda w: jnp.sum(weight * standardization.standardize(w, jnp.ones(6)))
  )(w)
  np.testing.assert_allclose(grad.sum((0, 1, 2)), 0, atol=1e-5)
  along = jnp.sum(grad * (w - w.mean((0, 1, 2), keepdims=True)), (0, 1, 2))
  np.testing.assert_allclose(along, 0, atol=1e-4)


@pytest.mark.parametrize('mean', [0.0, 10.0, 1000.0])
def test_rounding_to_bfloat16_loses_nothing_to_a_mean(mean):
  w = mean + jax.random.normal(jax.random.key(0), (1, 1, 64, 8))
  exact = standardization.standardize(w, jnp.ones(8))
  rounded = standardization.standardize(w, jnp.ones(8), dtype=jnp.bfloat16)
  assert rounded.dtype == jnp.bfloat16
  largest = np.abs(exact).max()
  np.testing.assert_allclose(
    rounded.astype(jnp.float32), exact, atol=2**-7 * largest
  )


def test_an_unknown_eps_is_named():
  with pytest.raises(ValueError, match="no ws_eps 'exact'"):
    standardization.standardize(jnp.ones((1, 1, 2, 2)), jnp.ones(2), 'exact')


@pytest.mark.parametrize(
  ('platform', 'pinned'), [('tpu', 2), ('cuda', 2), ('cpu', 0)]
)
def test_accelerators_lay_weights_and_gradients_as_parameters(platform, pinned):
  """Two constraints: of the rounded weights, and of what comes back."""

  def loss(w):
    out = standardization.standardize(w, jnp.ones(8), dtype=jnp.bfloat16)
    return jnp.sum(out.astype(jnp.float32) ** 2)

  traced = jax.jit(jax.grad(loss)).trace(jnp.ones((3, 3, 4, 8)))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  constraints = [line for line in text.splitlines() if 'LayoutConst' in line]
  assert len(constraints) == pinned
  # Of what is rounded, not of the float32 parameters; the last axis densest.
  for line in constraints:
    assert 'tensor<3x3x4x8xbf16>' in line and '[3, 2, 1, 0]' in line


def test_narrow_weights_have_narrow_gradients():
  w = jax.random.normal(jax.random.key(0), (3, 3, 4, 8), jnp.bfloat16)

  def loss(w):
    out = standardization.standardize(w, jnp.ones(8))
    return jnp.sum(out**3) + jnp.sum(w.astype(jnp.float32) ** 2)

  found = jax.grad(loss)(w)  # w is used twice: both gradients are added
  assert found.dtype == jnp.bfloat16
  exact = jax.grad(loss)(w.astype(jnp.float32))
  np.testing.assert_allclose(
    found.astype(jnp.float32), exact, atol=2**-6 * np.abs(exact).max()
  )
