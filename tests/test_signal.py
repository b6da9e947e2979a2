"""The signal of networks at initialization, and the contract's alarm."""

import golden_lib
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.analysis import signal
from nfnets.models import cifar_resnet, layers, resnet

KEY = jax.random.key(0)
ROW = {'widths': (32, 32, 32), 'drop_rate': 0.0, 'stochdepth_rate': 0.0}


class Small(cifar_resnet.CIFARResNet):
  """Five of the CIFAR ResNet's blocks; a fork changes one of them."""

  def __init__(self, fork=None, depths=(3, 1, 1), **overrides):
    overrides = {'normalizer': 'nf', 'skipinit_gain': 1.0, **overrides}
    super().__init__(2, {**ROW, 'depths': depths}, **overrides)
    if fork:
      fork(self.blocks[0][1])


def measure(build):
  images = jax.random.normal(KEY, (4, 32, 32, 3))
  return signal.measure(build, KEY, images)


def test_variance_before_block_j_is_one_plus_alpha_squared_j():
  rows = measure(Small)
  expected = [row.expected_variance for row in rows]
  np.testing.assert_allclose(expected, [1.04, 1.08, 1.12, 1.04, 1.04])
  for row in rows:
    assert row.variance == pytest.approx(row.expected_variance, rel=0.15)
    assert row.branch_variance == pytest.approx(1, abs=0.25)
    assert row.squared_mean < 0.1


@pytest.mark.slow
def test_batch_normalized_branches_have_he_s_variance():
  # 2 Var(relu(z)) = 1 - 1 / pi = 0.68, as in paper B's Figure 1.
  rows = measure(lambda: golden_lib.tiny_module(resnet.ResNet, conv_init='he'))
  assert rows[0].expected_variance is None
  assert rows[0].branch_variance == pytest.approx(1 - 1 / np.pi, rel=0.3)


def test_plain_relu_convolutions_shift_the_mean():
  forked = measure(lambda: Small(without_standardization))
  assert forked[1].squared_mean > 3 * measure(Small)[1].squared_mean


def test_published_blocks_keep_the_contract():
  signal.check_contract(Small, KEY)


def without_standardization(block):
  block.conv1 = layers.Conv2D(32, 3, name='conv1')


def without_gamma(block):
  block.activation = jax.nn.relu


@pytest.mark.parametrize('fork', [without_standardization, without_gamma])
def test_a_broken_block_is_named(fork):
  with pytest.raises(ValueError, match='branch has variance') as error:
    signal.check_contract(lambda: Small(fork), KEY)
  path = 'CIFAR_ResNet/~/nf_block_1 (stage 1, block 1)'
  assert str(error.value).startswith(path)


class Shrinks(cifar_resnet.NFBasicBlock):
  """Scales its shortcut, which no block may."""

  def __call__(self, x, *args, **kwargs):
    return super().__call__(x, *args, **kwargs) - 0.5 * x


def test_a_changed_shortcut_is_named():
  def build():
    net = Small()
    block = net.blocks[0][1]
    block.__class__ = Shrinks
    return net

  with pytest.raises(ValueError, match='nf_block_1 .*unchanged input'):
    signal.check_contract(build, KEY)


class Gated(cifar_resnet.NFBasicBlock):
  """Multiplies its branch by 3 after the fact, in a method that says so."""

  def gate(self, branch):
    return 3 * jnp.ones((len(branch), 1, 1, 1))

  def __call__(self, x, is_training, key, stochdepth_rate, expected_std=1.0):
    branch = self.branch(self.activation(x) / expected_std)
    return x + self.alpha * branch * self.gate(branch)


def test_a_gate_counts_as_part_of_the_branch():
  def build():
    net = Small()
    net.blocks[0][1].__class__ = Gated
    return net

  assert measure(build)[1].branch_variance == pytest.approx(9, rel=0.25)
  with pytest.raises(ValueError, match='nf_block_1 .*branch has variance'):
    signal.check_contract(build, KEY)


@pytest.mark.slow
def test_a_model_goes_by_its_name():
  images = jax.random.normal(KEY, (2, 32, 32, 3))
  rows = signal.measure('cifar_resnet_20', KEY, images, normalizer='nf')
  assert [(row.stage, row.position) for row in rows] == [
    (stage, position) for stage in (1, 2, 3) for position in range(3)
  ]
  assert rows[0].block == 'CIFAR_ResNet/~/nf_block'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['nfnet_f0', 'nf_resnet_50', 'nf_regnet_b0'])
def test_published_models_keep_the_contract(name):
  signal.check_contract(name, KEY)
