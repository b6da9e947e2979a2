"""Losses: against NumPy in float64 and optax; top-k against a sort."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets import losses

LOGITS = np.random.RandomState(0).standard_normal((6, 5)).astype(np.float32)
SOFT = np.random.RandomState(1).dirichlet(np.ones(5), 6).astype(np.float32)


def test_cross_entropy_equals_numpy_and_optax():
  shifted = np.exp(LOGITS.astype(np.float64))
  probs = shifted / shifted.sum(-1, keepdims=True)
  oracle = -(SOFT * np.log(probs)).sum(-1)
  got = losses.cross_entropy(LOGITS, SOFT)
  assert got.shape == (6,)
  np.testing.assert_allclose(got, oracle, rtol=1e-5)
  np.testing.assert_allclose(
    got, optax.softmax_cross_entropy(LOGITS, SOFT), rtol=1e-6
  )


def test_sigmoid_cross_entropy_equals_optax_and_stays_finite():
  np.testing.assert_allclose(
    losses.sigmoid_cross_entropy(LOGITS, SOFT),
    optax.sigmoid_binary_cross_entropy(LOGITS, SOFT).sum(-1),
    rtol=1e-5,
  )
  extreme = jnp.array([[1e4, -1e4]])
  exact = losses.sigmoid_cross_entropy(extreme, jnp.array([[0.0, 0.0]]))
  np.testing.assert_allclose(exact, [1e4])


def test_losses_are_computed_in_float32_from_bfloat16_logits():
  logits = LOGITS.astype(jnp.bfloat16)
  for loss in (losses.cross_entropy, losses.sigmoid_cross_entropy):
    got = loss(logits, SOFT)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, loss(logits.astype(np.float32), SOFT))


def test_smoothing_keeps_a_distribution_and_is_the_published_formula():
  one_hot = jax.nn.one_hot(jnp.array([2]), 5)
  smoothed = losses.smooth(one_hot, 0.1)
  np.testing.assert_allclose(
    smoothed, [[0.02, 0.02, 0.92, 0.02, 0.02]], rtol=1e-6
  )
  np.testing.assert_allclose(losses.smooth(SOFT, 0.3).sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize('k', [1, 2, 5])
def test_top_k_equals_a_stable_sort_with_ties(k):
  logits = np.random.RandomState(2).randint(0, 3, (200, 5)).astype(np.float32)
  labels = np.random.RandomState(3).randint(0, 5, 200)
  best = np.argsort(-logits, axis=-1, kind='stable')[:, :k]
  oracle = (best == labels[:, None]).any(-1)
  np.testing.assert_array_equal(losses.top_k_correct(logits, labels, k), oracle)


def test_equal_logits_count_once_per_class():
  correct = losses.top_k_correct(jnp.zeros((4, 4)), jnp.arange(4), 1)
  assert correct.tolist() == [True, False, False, False]


def test_a_nan_is_never_a_correct_guess():
  logits = jnp.array([[jnp.nan, 1.0], [jnp.nan, 1.0], [jnp.nan, jnp.nan]])
  labels = jnp.array([0, 1, 0])
  assert losses.top_k_correct(logits, labels, 1).tolist() == [False] * 3
  assert losses.top_k_correct(logits, labels, 2).tolist() == [
    False,
    True,
    False,
  ]


def test_wrong_shapes_and_amounts_are_refused():
  with pytest.raises(ValueError, match='shape'):
    losses.cross_entropy(LOGITS, SOFT[:, :4])
  with pytest.raises(ValueError, match='shape'):
    losses.sigmoid_cross_entropy(LOGITS, SOFT[:3])
  with pytest.raises(ValueError, match=r'\[N\]'):
    losses.top_k_correct(LOGITS, SOFT, 1)
  with pytest.raises(ValueError, match='1.1'):
    losses.smooth(SOFT, 1.1)
