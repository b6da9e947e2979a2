"""Batch-normalized ResNets equal the published function and its inits."""

import golden_lib
import jax
import numpy as np
import pytest

from nfnets import models
from nfnets.models import resnet


def test_resnet_50_equals_the_golden_numbers():
  want = golden_lib.load('resnet50')
  assert golden_lib.difference('resnet_50', want) < 1e-4


# PAPER_FACTS 1.5, millions.
@pytest.mark.parametrize('depth, millions', [(50, 25.55), (101, 44.54)])
def test_parameters_are_the_published_count(depth, millions):
  count = golden_lib.count(f'resnet_{depth}')
  assert round(count / 1e6, 2) == millions


def test_state_is_haiku_s_batch_norm_state():
  _, state = golden_lib.shapes('resnet_50')
  path = 'ResNet/~/res_block_v2_3/~/bn1/~/mean_ema'
  assert set(state[path]) == {'average', 'counter', 'hidden'}
  assert state[path]['average'].shape == (1, 1, 1, 128)


@pytest.mark.slow
def test_evaluation_reads_the_averages_and_training_the_batch():
  net = golden_lib.tiny('resnet_50')
  images = golden_lib.images((4, 32, 32, 3))
  params, state = net.init(jax.random.key(0), images, True)
  apply = net.apply
  _, new = apply(params, state, None, images, True)
  _, same = apply(params, new, None, images, False)
  path = 'ResNet/~/final_bn/~/mean_ema'
  # Zero-debiased: one update of decay 0.9 leaves a tenth hidden.
  hidden, average = new[path]['hidden'], new[path]['average']
  np.testing.assert_allclose(hidden, 0.1 * average, rtol=1e-4)
  jax.tree.map(np.testing.assert_array_equal, new, same)


@pytest.mark.slow
def test_the_order_decides_what_a_branch_receives():
  images = golden_lib.images((4, 32, 32, 3))
  pools = []
  for order in resnet.ORDERS:
    net = golden_lib.tiny('resnet_50', order=order)
    params, state = net.init(jax.random.key(0), images, True)
    out, _ = net.apply(params, state, None, images, True)
    pools.append(np.asarray(out['pool']))
  # Normalized last, pooled features have mean zero over the batch.
  np.testing.assert_allclose(pools[1].mean(0), 0, atol=1e-5)
  assert pools[0].min() >= 0 and pools[0].mean() > 0.1


@pytest.mark.parametrize(
  'overrides', [{'order': 'relu_bn'}, {'conv_init': 'xavier'}]
)
def test_an_unknown_choice_is_one_clear_line(overrides):
  name = next(iter(overrides))
  with pytest.raises(ValueError, match=f'no {name}'):
    models.create('resnet_50', **overrides).init(
      jax.random.key(0), golden_lib.images((1, 32, 32, 3)), True
    )
