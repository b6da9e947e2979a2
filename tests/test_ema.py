"""Averages: the published warm-up, against a loop in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.optim import ema


@pytest.mark.parametrize('decay', [0.99999, 0.9])
@pytest.mark.parametrize('mode', ['warmup', 'constant'])
def test_averages_follow_the_published_decay(mode, decay):
  values = np.random.RandomState(0).standard_normal(50).astype(np.float32)
  average, oracle = jnp.float32(values[0]), float(values[0])
  step_fn = jax.jit(lambda a, v, t: ema.update(a, v, t, decay, mode))
  for t, value in enumerate(values):
    average = step_fn(average, value, t)
    kept = min(decay, (1 + t) / (10 + t)) if mode == 'warmup' else decay
    oracle = kept * oracle + (1 - kept) * float(value)
  np.testing.assert_allclose(average, oracle, rtol=1e-5)


def test_mode_none_returns_the_new_values():
  new = {'w': jnp.ones(3)}
  assert ema.update({'w': jnp.zeros(3)}, new, 5, 0.9, 'none') is new


def test_counters_are_copied_and_types_kept():
  average = {'counter': jnp.int32(3), 'mean': jnp.float32(0)}
  new = {'counter': jnp.int32(4), 'mean': jnp.bfloat16(1)}
  moved = ema.update(average, new, 0, 0.99, 'warmup')
  assert moved['counter'] == 4
  assert moved['counter'].dtype == jnp.int32
  assert moved['mean'].dtype == jnp.float32
  np.testing.assert_allclose(moved['mean'], 0.9, rtol=1e-6)


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match='polyak'):
    ema.update({}, {}, 0, 0.9, 'polyak')
  with pytest.raises(ValueError, match='1.5'):
    ema.update({}, {}, 0, 1.5)
