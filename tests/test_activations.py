"""Gamma-scaled activations keep a unit normal's variance."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.analysis import gamma
from nfnets.models import activations

ELEMENTWISE = sorted(set(activations.GAMMAS) - {'glu', 'log_softmax'})


@pytest.mark.parametrize('name', ELEMENTWISE)
def test_variance_of_a_unit_normal_stays_one(name):
  # A sum over a fine grid rather than samples: no noise.
  z = np.linspace(-10, 10, 20_001)
  density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * 1e-3
  y = np.asarray(activations.get(name)(jnp.asarray(z, jnp.float32)), float)
  mean = np.sum(density * y)
  variance = np.sum(density * (y - mean) ** 2)
  assert variance == pytest.approx(1, abs=2.5e-3)


def test_gelu_is_the_tanh_form_unless_asked():
  x = jnp.linspace(-3, 3, 61)
  erf = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in np.asarray(x)]
  scale = activations.GAMMAS['gelu']
  difference = activations.get('gelu')(x) / scale - np.asarray(erf)
  assert 1e-4 < np.abs(difference).max() < 1e-3
  exact = activations.get('gelu_erf')(x) / scale
  np.testing.assert_allclose(exact, erf, atol=1e-6)


@pytest.mark.parametrize('name', activations.GAMMAS)
def test_bfloat16_stays_bfloat16(name):
  x = jnp.ones((2, 4), jnp.bfloat16)
  assert activations.get(name)(x).dtype == jnp.bfloat16


@pytest.mark.parametrize('name', ['gelu', 'silu'])
def test_the_backward_pass_keeps_the_input_alone(name):
  x = jnp.linspace(-6, 6, 121)
  kept = jax.tree.leaves(jax.vjp(activations.get(name), x)[1])
  (large,) = [array for array in kept if array.size == x.size]
  np.testing.assert_array_equal(large, x)


@pytest.mark.parametrize('name', activations.GAMMAS)
def test_every_activation_is_differentiable_both_ways(name):
  x = jnp.linspace(-3, 3, 8)
  slope = jax.grad(lambda x: jnp.sum(activations.get(name)(x)))
  _, bend = jax.jvp(slope, (x,), (jnp.ones(8),))
  assert np.isfinite(bend).all()


# PAPER_FACTS 1.2: the exact values.
EXACT = {
  'relu': 1.7128586,
  'gelu': 1.700917,
  'gelu_erf': 1.700926,
  'silu': 1.787187,
  'elu': 1.270843,
  'leaky_relu': 1.704832,
  'sigmoid': 4.801313,
  'tanh': 1.592537,
}


@pytest.mark.parametrize('name, want', EXACT.items())
def test_gamma_is_the_exact_value(name, want):
  assert gamma.derive(name) == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize('name', sorted(set(activations.GAMMAS) - {'glu'}))
def test_gamma_agrees_with_the_published_constant(name):
  assert gamma.derive(name) == pytest.approx(activations.GAMMAS[name], rel=1e-3)


def test_glu_s_published_constant_is_a_tenth_of_a_per_cent_off():
  # E[sigmoid(z)^2] = Var + 1/4 with sigmoid's exact gamma.
  exact = 1 / math.sqrt(1 / EXACT['sigmoid'] ** 2 + 0.25)
  assert gamma.derive('glu') == pytest.approx(exact, rel=5e-4)
  assert activations.GAMMAS['glu'] == pytest.approx(exact, rel=1.2e-3)


def test_any_function_has_a_gamma():
  assert gamma.derive(lambda z: 3 * z + 2) == pytest.approx(1 / 3, rel=1e-6)
