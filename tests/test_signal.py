"""The signal of networks at initialization, and the contract's alarm."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import models
from nfnets.analysis import signal
from nfnets.models import cifar_resnet, layers, nf_block

KEY = jax.random.key(0)
ROW = {'depths': (3, 1, 1), 'widths': (32, 32, 32)}
ROW |= {'drop_rate': 0.0, 'stochdepth_rate': 0.0}


def small(fork=lambda block: None):
  """Five of the CIFAR ResNet's blocks; a fork changes one of them."""
  net = cifar_resnet.CIFARResNet(2, ROW, normalizer='nf', skipinit_gain=1.0)
  fork(net.blocks[0][1])
  return net


def measure(build):
  images = jax.random.normal(KEY, (4, 32, 32, 3))
  return signal.measure(build, KEY, images)


def test_variance_before_block_j_is_one_plus_alpha_squared_j():
  rows = measure(small)
  places = [(row.stage, row.position) for row in rows]
  assert places == [(1, 0), (1, 1), (1, 2), (2, 0), (3, 0)]
  expected = [row.expected_variance for row in rows]
  np.testing.assert_allclose(expected, [1.04, 1.08, 1.12, 1.04, 1.04])
  for row in rows:
    assert row.variance == pytest.approx(row.expected_variance, rel=0.15)
    assert row.branch_variance == pytest.approx(1, abs=0.25)
    assert row.squared_mean < 0.1


@pytest.mark.slow
def test_batch_normalized_branches_have_he_s_variance():
  # 2 Var(relu(z)) = 1 - 1 / pi = 0.68, as in paper B's Figure 1.
  sizes = {'depths': (1, 1, 1, 1), 'widths': (32, 32, 64, 64)}
  rows = measure(models.create('resnet_50', 3, **sizes, conv_init='he'))
  assert rows[0].expected_variance is None
  assert rows[0].branch_variance == pytest.approx(1 - 1 / np.pi, rel=0.3)


def test_plain_relu_convolutions_shift_the_mean():
  forked = measure(lambda: small(without_standardization))
  assert forked[1].squared_mean > 3 * measure(small)[1].squared_mean


def test_published_blocks_keep_the_contract():
  signal.check_contract(small, KEY)


def without_standardization(block):
  block.convs[1] = layers.Conv2D(32, 3, name='conv1')


def without_gamma(block):
  block.activations = [lambda x, is_training: jax.nn.relu(x)] * 2


@pytest.mark.parametrize('fork', [without_standardization, without_gamma])
def test_a_broken_block_is_named(fork):
  with pytest.raises(ValueError, match='branch has variance') as error:
    signal.check_contract(lambda: small(fork), KEY)
  assert str(error.value).startswith('CIFAR_ResNet/~/nf_block_1: ')


class Shrinks(nf_block.NFBlock):
  """Scales its shortcut, which no block may."""

  def __call__(self, x, *args, **kwargs):
    return super().__call__(x, *args, **kwargs) - 0.5 * x


class Gated(nf_block.NFBlock):
  """Multiplies its branch by 3 after the fact, in a method that says so."""

  def gate(self, branch):
    return 3 * jnp.ones((len(branch), 1, 1, 1))


@pytest.mark.parametrize(
  ('kind', 'says'),
  [
    (Shrinks, 'nf_block_1: .*unchanged input'),
    (Gated, 'nf_block_1: .*branch has variance (8|9)'),
  ],
)
def test_shortcuts_and_gates_are_looked_at_too(kind, says):
  with pytest.raises(ValueError, match=says):
    signal.check_contract(
      lambda: small(lambda block: setattr(block, '__class__', kind)), KEY
    )


def test_a_named_network_has_its_skip_gains_opened():
  images = jax.random.normal(KEY, (2, 16, 16, 3))
  net = {'normalizer': 'nf', 'depths': (2, 1, 1)}
  rows = signal.measure('cifar_resnet_20', KEY, images, **net)
  assert rows[0].block == 'CIFAR_ResNet/~/nf_block'
  assert rows[1].variance > 1.02 * rows[0].variance
  shut = signal.measure('cifar_resnet_20', KEY, images, skipinit_gain=0, **net)
  assert shut[1].variance == pytest.approx(shut[0].variance, rel=1e-5)
  # What create returns is taken too.
  same = models.create('cifar_resnet_20', **net)
  assert signal.measure(same, KEY, images) == rows


def test_a_network_without_blocks_is_refused():
  with pytest.raises(ValueError, match='no blocks'):
    signal.measure(lambda: lambda x, _: hk.Linear(2)(x), KEY, jnp.ones([1] * 4))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['nfnet_f0', 'nf_resnet_50', 'nf_regnet_b0'])
def test_published_models_keep_the_contract(name):
  signal.check_contract(name, KEY)
