"""SAM: the equation, and which examples share a perturbation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets.models import layers
from nfnets.optim import sam

N = 32
RNG = np.random.RandomState(0)
PARAMS = {
  'net': {
    'w': RNG.standard_normal((5, 3)).astype(np.float32),
    'b': np.zeros(3, np.float32),
  }
}
BATCH = {
  'x': RNG.standard_normal((N, 5)).astype(np.float32),
  'y': RNG.standard_normal((N, 3)).astype(np.float32),
}


def loss_fn(params, batch):
  hidden = jnp.tanh(batch['x'] @ params['net']['w'])
  return jnp.mean(jnp.square(hidden + params['net']['b'][None] - batch['y']))


GRAD = jax.jit(jax.grad(loss_fn))


def grad_fn(params, state, key, batch):
  loss, grads = jax.value_and_grad(loss_fn)(params, batch)
  return grads, ({'loss': loss}, {'passes': state['passes'] + 1})


def start(passes=0):
  return {'passes': jnp.int32(passes)}


def gradient(params=PARAMS, batch=BATCH, rho=0.1, **kwargs):
  sharp = sam.sharpness_aware(grad_fn, rho, **kwargs)
  return jax.jit(sharp)(params, start(), None, batch)


def oracle(params, ascent_batch, batch, rho=0.1):
  """Foret et al.'s algorithm 1 in NumPy and float64, but for the gradients."""
  ascent = GRAD(params, ascent_batch)
  flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(ascent)])
  norm = np.linalg.norm(flat.astype(np.float64))
  moved = jax.tree.map(
    lambda p, g: (p + rho * np.asarray(g, np.float64) / norm).astype(p.dtype),
    params,
    ascent,
  )
  return GRAD(moved, batch)


def spied(change=lambda leaf: leaf):
  """A gradient function, and a list of the parameters it is called with."""
  seen = []

  def spy(params, *rest):
    seen.append(params)
    grads, aux = grad_fn(params, *rest)
    return jax.tree.map(change, grads), aux

  return spy, seen


def rows(batch, index):
  return jax.tree.map(lambda x: x[index], batch)


def assert_close(a, b, rtol=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b
  )


def differ(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b))
  return any(not np.allclose(x, y, rtol=1e-3, atol=1e-5) for x, y in pairs)


def test_the_gradient_is_taken_at_the_published_distance():
  grads, _ = gradient()
  assert_close(grads, oracle(PARAMS, BATCH, BATCH))
  assert differ(grads, GRAD(PARAMS, BATCH))


def test_metrics_and_state_are_those_of_the_second_pass():
  grads, (metrics, state) = gradient()
  assert state == {'passes': 1}
  assert metrics['loss'] > loss_fn(PARAMS, BATCH)


def test_a_part_of_the_batch_ascends_and_the_whole_descends():
  # 20 % of 32 are 6, spread over the batch.
  index = [0, 5, 10, 16, 21, 26]
  grads, _ = gradient(ascent_fraction=0.2)
  assert_close(grads, oracle(PARAMS, rows(BATCH, np.array(index)), BATCH))


def test_a_zero_gradient_gives_a_zero_perturbation():
  batch = {'x': np.zeros((4, 5), np.float32), 'y': np.zeros((4, 3), np.float32)}
  grads, (metrics, _) = gradient(batch=batch)
  assert metrics['loss'] == 0
  assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_the_perturbation_is_float32_under_bfloat16():
  spy, seen = spied(lambda grad: grad.astype(jnp.bfloat16))
  sam.sharpness_aware(spy, 1e-4)(PARAMS, start(), None, BATCH)
  moved = jax.tree.map(lambda a, b: a - b, seen[1], seen[0])
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(seen[1]))
  # A bfloat16 of size 1 can't hold a step of 1e-4.
  np.testing.assert_allclose(optax.tree.norm(moved), 1e-4, rtol=5e-3)


def test_a_complex_parameter_moves_as_a_complex_one():
  seen = []

  def spy(params, state, key, batch):
    seen.append(params)
    return {'w': jnp.full(1, 3 + 4j)}, ({}, state)

  sharp = sam.sharpness_aware(spy, 0.1)
  sharp({'w': jnp.array([1 + 2j])}, start(), None, BATCH)
  assert seen[1]['w'].dtype == jnp.complex64
  np.testing.assert_allclose(seen[1]['w'], [1.06 + 2.08j], rtol=1e-6)


def test_only_the_chosen_parameters_move_and_count():
  spy, seen = spied()
  sharp = sam.sharpness_aware(spy, 0.1, perturbed=['net/w'])
  sharp(PARAMS, start(), None, BATCH)
  np.testing.assert_array_equal(seen[1]['net']['b'], PARAMS['net']['b'])
  moved = np.linalg.norm(seen[1]['net']['w'] - PARAMS['net']['w'])
  np.testing.assert_allclose(moved, 0.1, rtol=1e-5)


def on_devices(batch, **kwargs):
  """The mean over four devices of their SAM gradients."""
  sharp = sam.sharpness_aware(grad_fn, 0.1, **kwargs)

  def step(params, batch):
    grads, _ = sharp(params, start(), None, batch)
    return jax.lax.pmean(grads, 'data')

  mapped = jax.pmap(step, 'data', in_axes=(None, 0), out_axes=None)
  split = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)
  return mapped(PARAMS, split)


def in_groups(m):
  """The mean of the groups' gradients, one NumPy-sliced group at a time."""
  grads = [
    oracle(PARAMS, part, part)
    for part in (rows(BATCH, slice(i, i + m)) for i in range(0, N, m))
  ]
  return jax.tree.map(lambda *g: sum(g) / len(g), *grads)


def test_each_device_perturbs_by_itself_unless_synchronized():
  published = on_devices(BATCH)
  assert_close(published, in_groups(8))
  synchronized = on_devices(BATCH, axis_name='data')
  assert_close(synchronized, in_groups(32))
  assert differ(published, synchronized)


@pytest.mark.parametrize('m', [4, 16, 32])
def test_m_examples_share_a_perturbation_whatever_the_devices(m):
  assert_close(on_devices(BATCH, axis_name='data', m=m), in_groups(m))
  grads, (metrics, state) = gradient(m=m)
  assert_close(grads, in_groups(m))
  assert state == {'passes': N // m}
  assert metrics['loss'].shape == ()


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'rho': -1.0}, 'rho'),
    ({'ascent_fraction': 0.0}, 'ascent_fraction'),
    ({'ascent_fraction': 1.5}, 'ascent_fraction'),
    ({'m': 5}, 'm=5'),
    ({'m': 64}, 'm=64'),
    ({'perturbed': ['conv']}, 'conv'),
  ],
)
def test_impossible_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    gradient(**kwargs)


def test_accumulated_parts_average_and_hand_on_their_state():
  grads, (metrics, state) = jax.jit(sam.accumulate(grad_fn, 4))(
    PARAMS, start(), jax.random.key(0), BATCH
  )
  assert_close(grads, GRAD(PARAMS, BATCH))
  np.testing.assert_allclose(metrics['loss'], loss_fn(PARAMS, BATCH), rtol=1e-5)
  assert state == {'passes': 4}


def test_each_accumulated_part_draws_its_own_numbers():
  def draws(params, state, key, batch):
    number = jax.random.uniform(key)
    return {'w': number}, ({'square': number**2}, state)

  grads, (metrics, _) = sam.accumulate(draws, 4)(
    PARAMS, start(), jax.random.key(0), BATCH
  )
  assert metrics['square'] > grads['w'] ** 2 + 1e-3  # a variance


@pytest.mark.parametrize(
  ('platform', 'whiles'), [('cpu', 0), ('cuda', 1), ('tpu', 1)]
)
def test_only_a_cpu_s_program_is_unrolled(platform, whiles):
  with layers.traced_for(platform):
    accumulated = jax.jit(sam.accumulate(grad_fn, 4))
    text = accumulated.lower(PARAMS, start(), None, BATCH).as_text()
  assert text.count('stablehlo.while') == whiles


@pytest.mark.parametrize('kwargs', [{}, {'m': 8}])
def test_gradients_are_differentiable_forward(kwargs):
  """A Hessian-vector product of SAM's own objective; also accumulated."""

  def gradient(params):
    sharp = sam.sharpness_aware(sam.accumulate(grad_fn, 2), 0.1, **kwargs)
    return sharp(params, start(), None, BATCH)[0]

  along = jax.tree.map(jnp.ones_like, PARAMS)
  _, product = jax.jvp(gradient, (PARAMS,), (along,))
  step = lambda s: gradient(jax.tree.map(lambda p: p + s * 3e-3, PARAMS))
  secant = jax.tree.map(lambda a, b: (a - b) / 6e-3, step(1), step(-1))
  apart = optax.tree.norm(jax.tree.map(jnp.subtract, product, secant))
  assert apart < 1e-3 * optax.tree.norm(product)
