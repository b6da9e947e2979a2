"""Scaled weight standardization, squeeze-excite, stochastic depth, casts."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.models import layers

KEY = jax.random.key(0)


def transform(function):
  net = hk.transform_with_state(function)
  return net._replace(init=jax.jit(net.init), apply=jax.jit(net.apply))


def formula(w, gain, eps):
  n = w.size // w.shape[-1]
  centred = w - jnp.mean(w, axis=(0, 1, 2), keepdims=True)
  var = jnp.mean(centred**2, axis=(0, 1, 2), keepdims=True)
  floored = jnp.maximum(var * n, 1e-4)
  root = floored if eps == 'published' else (var + 1e-5) * n
  return centred * gain[None, None, None] / jnp.sqrt(root)


@pytest.mark.parametrize('eps', layers.WS_EPS)
@pytest.mark.parametrize('scale', [1.0, 1e-4])  # 1e-4: the floor holds
@pytest.mark.parametrize('mean', [0.0, 3.0])
def test_standardize_and_two_derivatives_are_the_formulas(eps, scale, mean):
  random = np.random.RandomState(0)
  draw = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
  w, gain, weight = scale * (draw(3, 3, 4, 6) + mean), draw(6), draw(3, 3, 4, 6)

  def derivatives(function):
    loss = lambda w, gain: jnp.sum(weight * function(w, gain, eps) ** 2)
    grad = jax.grad(loss, (0, 1))
    return jax.jit(
      lambda w, gain: jax.jvp(grad, (w, gain), (scale * weight, gain))
    )(w, gain)

  np.testing.assert_allclose(
    layers.standardize(w, gain, eps), formula(w, gain, eps), 2e-4, 1e-6
  )
  got, want = derivatives(layers.standardize), derivatives(formula)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


@pytest.mark.parametrize('mean', [0.0, 10.0, 1000.0])
def test_rounding_to_bfloat16_loses_nothing_to_a_mean(mean):
  w = mean + jax.random.normal(KEY, (1, 1, 64, 8))
  exact = layers.standardize(w, jnp.ones(8))
  rounded = layers.standardize(w, jnp.ones(8), dtype=jnp.bfloat16)
  assert rounded.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    rounded.astype(jnp.float32), exact, atol=2**-7 * np.abs(exact).max()
  )


def test_a_convolution_keeps_the_variance_of_a_unit_normal():
  net = transform(lambda x: layers.WSConv2D(64, 3)(x))
  x = jax.random.normal(KEY, (4, 32, 32, 16))
  params, _ = net.init(KEY, x)
  out, _ = net.apply(params, {}, None, x)
  assert float(out[:, 1:-1, 1:-1].var()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_parameters_are_float32_and_outputs_follow_the_input(dtype):
  def net(x):
    x = layers.WSConv2D(8, 3, groups=2)(x)
    x = layers.Conv2D(8, 3, 2, with_bias=True)(x)
    x = layers.BatchNorm()(x, True)
    x = x * layers.SqueezeExcite(8, 0.5)(x)
    return layers.Linear(3)(x.mean((1, 2)))

  x = jnp.ones((2, 8, 8, 4), dtype)
  (params, state) = transform(net).init(KEY, x)
  out, _ = transform(net).apply(params, state, None, x)
  assert out.dtype == dtype and out.shape == (2, 3)
  leaves = jax.tree.leaves((params, state))
  assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in leaves)


def test_batch_norm_is_haiku_s_own_in_state_and_value():
  x = jax.random.normal(KEY, (4, 5, 5, 3)) * 3 + 1

  def trained_and_evaluated(make):
    net = hk.transform_with_state(lambda x, train: make(name='bn')(x, train))
    params, state = net.init(KEY, x, True)
    out, state = net.apply(params, state, None, x, True)
    return params, state, out, net.apply(params, state, None, x, False)

  jax.tree.map(
    np.testing.assert_array_equal,
    trained_and_evaluated(layers.BatchNorm),
    trained_and_evaluated(functools.partial(hk.BatchNorm, True, True, 0.9)),
  )


@pytest.mark.parametrize(
  'name, variance', [('he', 2.0), ('lecun', 1.0), ('truncated', 0.774)]
)
def test_weights_start_with_the_variance_of_their_initializer(name, variance):
  parts = layers.parts('batch', 'relu', conv_init=name)
  net = transform(lambda x: parts.conv(128, 3)(x))
  (w,) = jax.tree.leaves(net.init(KEY, jnp.ones((1, 1, 1, 64))))
  assert float(w.var()) * 9 * 64 == pytest.approx(variance, rel=0.02)


def test_squeeze_excite_equals_its_equation():
  net = transform(lambda x: layers.SqueezeExcite(6, 0.5)(x))
  x = jax.random.normal(KEY, (2, 3, 3, 6))
  params, _ = net.init(KEY, x)
  gate, _ = net.apply(params, {}, None, x)
  first, second = (np.asarray(leaf['w'], float) for leaf in params.values())
  hidden = np.maximum(np.asarray(x).mean((1, 2)) @ first, 0)
  want = 1 / (1 + np.exp(-hidden @ second))
  assert first.shape == (6, 3) and gate.shape == (2, 1, 1, 6)
  np.testing.assert_allclose(gate[:, 0, 0], want, rtol=1e-5)


def test_stochastic_depth_drops_whole_images_and_rescales_nothing():
  x = jnp.ones((4000, 2, 2, 3))
  out = np.asarray(layers.stoch_depth(x, 0.25, KEY, True)).reshape(4000, -1)
  assert set(np.unique(out)) == {0.0, 1.0}
  np.testing.assert_array_equal(out.min(1), out.max(1))
  assert out[:, 0].mean() == pytest.approx(0.75, abs=0.03)


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero():
  x = jnp.ones((8, 2, 2, 3))
  assert layers.stoch_depth(x, 0.9, None, False) is x
  assert layers.stoch_depth(x, 0.0, None, True) is x
  assert layers.dropout(x, 0.5, None, False) is x


def test_dropout_rescales_what_it_keeps():
  out = layers.dropout(jnp.ones((100, 100)), 0.2, KEY, True)
  assert set(np.unique(out)) == {0.0, 1.25}


@pytest.mark.parametrize(
  'draw, override',
  [
    (lambda x: layers.stoch_depth(x, 0.1, None, True), 'stochdepth_rate=0'),
    (lambda x: layers.dropout(x, 0.1, None, True), 'drop_rate=0'),
  ],
)
def test_a_missing_key_is_one_clear_line(draw, override):
  with pytest.raises(ValueError, match=f'pass a key.*{override}'):
    draw(jnp.ones((2, 2, 2, 2)))


def test_groups_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match='conv9: groups=3'):
    net = transform(lambda x: layers.WSConv2D(6, 3, groups=3, name='conv9')(x))
    net.init(KEY, jnp.ones((1, 4, 4, 4)))
