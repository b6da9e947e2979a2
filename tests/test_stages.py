"""Expected stds, stochastic depth's ramp, and keys that ignore call order."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.models import stages

# PAPER_FACTS 1.1, of F0 and of ResNet-50.
F0 = [1, 1.0198, 1.0198, 1.0392, 1.0198, 1.0392, 1.0583, 1.0770, 1.0954]
F0 += [1.1136, 1.0198, 1.0392]
RESNET_50 = [1, 1.0198, 1.0392, 1.0583, 1.0198, 1.0392, 1.0583, 1.0770, 1.0198]
RESNET_50 += [1.0392, 1.0583, 1.0770, 1.0954, 1.1136, 1.0198, 1.0392]


@pytest.mark.parametrize(
  'depths, want', [((1, 2, 6, 3), F0), ((3, 4, 6, 3), RESNET_50)]
)
def test_expected_stds_are_the_published_ones(depths, want):
  got = sum(stages.expected_stds(depths, 0.2), [])
  np.testing.assert_allclose(got, want, atol=5e-5)


def test_the_last_block_drops_at_the_rate_short_of_one_step():
  rows = sum(stages.numbers((1, 2, 6, 3), 0.25), [])
  rates = [row['stochdepth_rate'] for row in rows]
  assert rates[0] == 0
  assert rates[-1] == pytest.approx(0.25 * 11 / 12)
  np.testing.assert_allclose(np.diff(rates), 0.25 / 12)


class Draws(hk.Module):
  """Adds what its key gives; keeps a parameter."""

  def __call__(self, x, is_training, key, stochdepth_rate):
    w = hk.get_parameter('w', (), init=jnp.ones)
    return x * w + jax.random.uniform(key) * 10**stochdepth_rate


def draw(remat, key, extra=0):
  def forward():
    for _ in range(extra):
      hk.next_rng_key()
    blocks = stages.build(lambda *_: Draws(), (1, 2), (4, 8), 3, (1, 2))
    numbers = stages.numbers((1, 2), 0.0)
    return stages.run(blocks, numbers, jnp.zeros(()), key, True, remat)

  net = hk.transform(forward)
  params = net.init(jax.random.key(1))
  return params, net.apply(params, jax.random.key(1))


@pytest.mark.parametrize('remat', [False, True])
def test_a_block_draws_from_its_index_alone(remat):
  key = jax.random.key(7)
  want = sum(jax.random.uniform(jax.random.fold_in(key, i)) for i in range(3))
  for extra in (0, 2):
    _, (x, outputs) = draw(remat, key, extra)
    assert float(x) == pytest.approx(float(want))
    assert len(outputs) == 2


def test_remat_keeps_parameter_paths():
  plain, _ = draw(False, jax.random.key(7))
  remat, _ = draw(True, jax.random.key(7))
  assert sorted(plain) == sorted(remat) == ['draws', 'draws_1', 'draws_2']


def test_strides_double_from_stage_to_stage():
  assert list(stages.with_strides(['a', 'b', 'c'], first=4)) == [4, 8, 16]
