"""The drift report, and finding where a NaN begins."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nfnets.analysis import numerics


@pytest.fixture(scope='module')
def network_and_batch():
  config = tiny.config(model__depths=(2, 1, 1))
  network, _, state = tiny.network_and_state(config)
  images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
  labels = jax.nn.one_hot(jnp.arange(4), 10)
  return network, state, images, labels


@pytest.fixture(scope='module')
def report(network_and_batch):
  network, state, images, labels = network_and_batch
  return numerics.drift(
    network, state.params, state.state, jax.random.key(1), images, labels
  )


def test_the_report_has_a_row_for_each_block_in_the_order_of_the_network(
  report,
):
  rows, _ = report
  names = [row.module for row in numerics.blocks(rows)]
  root = 'CIFAR_ResNet'
  assert names == [
    f'{root}/~/initial_conv',
    f'{root}/~/nf_block',
    f'{root}/~/nf_block_1',
    f'{root}/~/nf_block_2',
    f'{root}/~/nf_block_3',
    f'{root}/~/linear',
    root,
  ]
  assert len(rows) > len(names)


def test_bfloat16_drifts_by_a_little_and_not_at_all_nowhere(report):
  rows, _ = report
  for row in numerics.blocks(rows):
    assert 1e-4 < row.forward < 0.05, row
    assert 1e-4 < row.gradient < 0.2, row
    assert row.finite == (True, True)


def test_a_layers_drift_is_that_of_its_outputs_by_numpy(
  report, network_and_batch
):
  rows, found = report
  exact, rough = (found[name][0].value for name in ('float32', 'bfloat16'))
  assert exact.shape == (4, 8, 8, 16)
  expected = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
  assert rows[0].forward == pytest.approx(expected, rel=1e-4)
  network, state, images, _ = network_and_batch
  logits = network.apply(state.params, state.state, None, images, True)[0]
  np.testing.assert_allclose(
    found['float32'][-1].value, logits['logits'], rtol=1e-4, atol=1e-5
  )


def test_an_infinite_gain_is_found_in_its_own_module(network_and_batch):
  network, state, images, _ = network_and_batch
  params = jax.tree.map(np.copy, state.params)
  culprit = 'CIFAR_ResNet/~/nf_block_1/~/conv1'
  params[culprit]['gain'][0] = np.inf
  found = numerics.outputs(
    network, params, state.state, jax.random.key(0), images
  )
  assert numerics.first_nonfinite(found) == culprit
  assert not np.isfinite(found[-1].value).all()


def test_an_infinity_between_modules_is_blamed_on_the_caller():
  class Net(hk.Module):
    def __call__(self, x):
      x = hk.Linear(4, name='before')(x)
      return hk.Linear(2, name='after')(jnp.exp(1e4 * jnp.abs(x)))

  network = hk.transform_with_state(lambda x, _: Net(name='net')(x))
  x = jnp.ones((3, 5))
  params, state = network.init(jax.random.key(0), x, True)
  found = numerics.outputs(network, params, state, jax.random.key(0), x)
  assert numerics.first_nonfinite(found) == 'net, before net/after'


def test_finite_outputs_blame_nobody(report):
  _, found = report
  assert numerics.first_nonfinite(found['bfloat16']) is None
