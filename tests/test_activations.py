"""Gamma-scaled activations keep a unit normal's variance."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.models import activations

# Functions with a slope of their own, and JAX's of the same name.
WITH_SLOPE = {
  'gelu': functools.partial(jax.nn.gelu, approximate=True),
  'silu': jax.nn.silu,
}
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


def test_relu_gamma_is_the_closed_form():
  exact = math.sqrt(2 / (1 - 1 / math.pi))
  assert activations.GAMMAS['relu'] == pytest.approx(exact, rel=1e-3)


def test_gelu_is_the_tanh_form_unless_asked():
  x = jnp.linspace(-3, 3, 61)
  erf = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in np.asarray(x)]
  gamma = activations.GAMMAS['gelu']
  difference = activations.get('gelu')(x) / gamma - np.asarray(erf)
  assert 1e-4 < np.abs(difference).max() < 1e-3
  exact = activations.get('gelu_erf')(x) / gamma
  np.testing.assert_allclose(exact, erf, atol=1e-6)


@pytest.mark.parametrize('name', activations.GAMMAS)
def test_bfloat16_stays_bfloat16(name):
  x = jnp.ones((2, 4), jnp.bfloat16)
  assert activations.get(name)(x).dtype == jnp.bfloat16


def test_unscaled_is_the_plain_function():
  np.testing.assert_array_equal(
    activations.get('relu', scaled=False)(jnp.array([-1.0, 2.0])), [0.0, 2.0]
  )


@pytest.mark.parametrize('name, near', [('swish', 'silu'), ('reluu', 'relu')])
def test_an_unknown_name_gets_the_nearest(name, near):
  with pytest.raises(ValueError, match=f'did you mean {near}'):
    activations.get(name)


def summed(function):
  return lambda x: jnp.sum(function(x))


def in_double(function, x):
  """The gradient of `function` at x, in double precision, by JAX."""
  with jax.enable_x64(True):
    x = jnp.asarray(np.asarray(x, np.float64))
    return np.asarray(jax.grad(summed(function))(x))


@pytest.mark.parametrize('name', WITH_SLOPE)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_slopes_are_no_more_than_twice_as_far_off_as_jax_s_own(name, dtype):
  x = np.concatenate([np.linspace(-12, 12, 4_801), [-1e4, -88.0, 88.0, 1e4]])
  x = jnp.asarray(x, dtype)
  exact = in_double(WITH_SLOPE[name], x)
  ours, theirs = (
    jax.grad(summed(function))(x)
    for function in (activations.FUNCTIONS[name], WITH_SLOPE[name])
  )
  assert ours.dtype == dtype
  off, of_jax = (np.abs(np.float64(y) - exact) for y in (ours, theirs))
  assert off.max() < {jnp.float32: 2e-6, jnp.bfloat16: 2**-8}[dtype]
  assert off.max() <= 2 * of_jax.max()


@pytest.mark.parametrize('name', WITH_SLOPE)
def test_slopes_of_closed_gates_do_not_cancel(name):
  # Further down JAX's own has no digits left, in double precision either.
  x = jnp.linspace({'gelu': -5.5, 'silu': -80}[name], -4, 401)
  exact = in_double(WITH_SLOPE[name], x)
  ours = jax.grad(summed(activations.FUNCTIONS[name]))(x)
  np.testing.assert_allclose(ours, exact, rtol=2e-5)


@pytest.mark.parametrize('name', WITH_SLOPE)
def test_slopes_have_a_slope_again(name):
  x = jnp.linspace(-6, 6, 121)
  second = jax.grad(summed(jax.grad(summed(activations.FUNCTIONS[name]))))(x)
  exact = in_double(jax.grad(summed(WITH_SLOPE[name])), x)
  np.testing.assert_allclose(second, exact, atol=2e-5)


@pytest.mark.parametrize('name', WITH_SLOPE)
def test_the_backward_pass_is_kept_the_input_alone(name):
  x = jnp.linspace(-6, 6, 121)
  function = activations.get(name)
  kept = jax.tree.leaves(jax.vjp(function, x)[1])
  large = [array for array in kept if array.size == x.size]
  assert len(large) == 1
  np.testing.assert_array_equal(large[0], x)

  def layers(x, weights, function):
    for w in weights:
      x = function(x @ w)
    return jnp.sum(x)

  # A network of layers needs less memory with it than with JAX's derivative.
  shapes = jnp.ones((4096, 32)), [jnp.ones((32, 32))] * 8
  needed = [
    jax.jit(jax.grad(functools.partial(layers, function=f), argnums=1))
    .lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    for f in (function, WITH_SLOPE[name])
  ]  # fmt: skip
  assert needed[0] < 0.8 * needed[1]


@pytest.mark.parametrize('name', WITH_SLOPE)
def test_a_tpu_keeps_the_slope_of_jax(name):
  def exponentials(function, platform):
    traced = jax.jit(jax.value_and_grad(summed(function))).trace(jnp.ones(8))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return text.count('stablehlo.exp'), text.count('stablehlo.tanh')

  # That of JAX has none of its own.
  forward = {'gelu': (0, 1), 'silu': (1, 0)}[name]
  ours = activations.FUNCTIONS[name]
  assert exponentials(WITH_SLOPE[name], 'tpu') == forward
  assert exponentials(ours, 'tpu') == (2 * forward[0], 2 * forward[1])
  for platform in ('cpu', 'cuda'):
    found = exponentials(ours, platform)
    own = {'gelu': 1, 'silu': 2}[name]
    assert found == (forward[0] + own, forward[1])
