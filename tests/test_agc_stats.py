"""The observatory's numbers against the clipper's own doing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import optim
from nfnets.optim import agc_stats

RNG = np.random.RandomState(0)


def noise(*shape):
  return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope='module')
def network():
  params = {
    'Net/~/stem_conv0': {'w': noise(3, 3, 3, 8), 'bias': noise(8)},
    'Net/~/nf_block': {'skip_gain': np.zeros((), np.float32)},
    'Net/~/nf_block/~/conv0': {'w': noise(1, 1, 8, 16), 'gain': noise(16)},
    'Net/~/nf_block_1/~/conv0': {'w': noise(1, 1, 16, 16)},
    'Net/~/nf_block_2/~/conv0': {'w': noise(1, 1, 16, 32)},
    'Net/~/linear': {'w': noise(32, 5), 'b': np.zeros(5, np.float32)},
  }
  # Around half of the units pass lambda = 0.01.
  grads = jax.tree.map(
    lambda p: (
      noise(*p.shape)
      * np.exp(2 * noise(*p.shape[-1:]))[(None,) * (p.ndim - 1)]
      * np.float32(0.01)
      if p.ndim
      else np.float32(1e-7)
    ),
    params,
  )
  return params, grads


def test_shares_equal_what_the_clipper_changes(network):
  params, grads = network
  values = jax.jit(lambda p, g: agc_stats.observe(p, g, 0.01))(params, grads)
  clipper = optim.sgd(-1.0, momentum=0, clipping=0.01)
  clipped, _ = clipper.update(grads, clipper.init(params), params)
  total = units = 0
  for module, leaves in params.items():
    for name, param in leaves.items():
      if (module, name) == ('Net/~/linear', 'w'):
        continue
      hit = np.array(clipped[module][name] != grads[module][name])
      if param.squeeze().ndim <= 1:
        hit = np.any(hit).reshape(1)
      else:
        hit = hit.reshape(-1, param.shape[-1]).any(0)
      total, units = total + hit.sum(), units + hit.size
      if name == 'w':
        np.testing.assert_allclose(
          values[f'agc/{module}/clipped_fraction'], hit.mean(), rtol=1e-6
        )
  np.testing.assert_allclose(
    values['agc/clipped_fraction'], total / units, rtol=1e-6
  )
  assert 0.1 < total / units < 0.9


def test_quantiles_equal_numpy(network):
  values = agc_stats.observe(*network, 0.01)
  first, second = 'Net/~/nf_block/~/conv0', 'Net/~/nf_block_1/~/conv0'
  param_norms, grad_norms = (
    np.concatenate(
      [
        np.linalg.norm(tree[first]['w'].reshape(-1, 16), axis=0),
        np.linalg.norm(tree[second]['w'].reshape(-1, 16), axis=0),
        [np.linalg.norm(tree[first]['gain'])],
      ]
    )
    for tree in network
  )
  ratios = [*grad_norms / param_norms, 1e-7 / 1e-3]  # and the skip gain
  for key, want in (
    ('q10', np.quantile(ratios, 0.1)),
    ('q50', np.quantile(ratios, 0.5)),
    ('q90', np.quantile(ratios, 0.9)),
    ('max', np.max(ratios)),
  ):
    got = values[f'agc/stage/stage_1/ratio_{key}']
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_groups_are_whole_and_the_unclipped_have_no_share(network):
  values = agc_stats.observe(*network, 0.01)
  assert all(v.shape == () and v.dtype == jnp.float32 for v in values.values())
  for kind, names in (
    ('label', ('gain_or_bias', 'head', 'weight')),
    ('stage', ('stem', 'stage_1', 'stage_2', 'final')),
  ):
    found = {k.split('/')[2] for k in values if k.startswith(f'agc/{kind}/')}
    assert found == set(names)
  assert 'agc/label/head/clipped_fraction' not in values
  assert 'agc/label/head/ratio_q50' in values
  assert 'agc/Net/~/linear/clipped_fraction' not in values
  every = agc_stats.observe(*network, 0.01, unclipped=())
  assert 'agc/Net/~/linear/clipped_fraction' in every


def test_without_a_lambda_only_quantiles_are_left(network):
  values = agc_stats.observe(*network, 0.01)
  without = agc_stats.observe(*network, None)
  assert without == {k: v for k, v in values.items() if 'ratio' in k}


def test_extreme_lambdas_raise_the_warning_on_a_network(network):
  tight = agc_stats.observe(*network, 1e-9)
  assert 'larger' in agc_stats.warning(tight, 1e-9)
  middle = agc_stats.observe(*network, 0.01)
  assert agc_stats.warning(middle, 0.01) is None
  loose = agc_stats.observe(*network, 1e9)
  assert 'smaller' in agc_stats.warning(loose, 1e9)


def test_the_blocks_of_a_stack_are_reported_one_by_one(network):
  shape = (3, 1, 1, 8, 16)
  alone = [{'Net/~/linear': part['Net/~/linear']} for part in network]
  stacked = [dict(part) for part in alone]
  for part, whole in zip(alone, stacked):
    blocks = noise(*shape)
    whole['Net/stack_1_3/nf_block/~/conv0'] = {'w': blocks}
    for index in range(3):
      part[f'Net/~/nf_block_{index + 1}/~/conv0'] = {'w': blocks[index]}
  expected, found = (agc_stats.observe(*p, 1.0) for p in (alone, stacked))
  assert found.keys() == expected.keys()
  assert 'agc/Net/~/nf_block_2/~/conv0/clipped_fraction' in found
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5)
