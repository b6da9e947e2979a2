"""FixUp ResNets equal the published function and its initialization."""

import golden_lib
import haiku as hk
import jax
import numpy as np
import pytest

from nfnets.models import activations, fixup_resnet


def test_resnet_50_equals_the_golden_numbers():
  want = golden_lib.load('fixup_resnet50')
  assert golden_lib.difference('fixup_resnet_50', want) < 1e-4


def test_convolutions_start_with_fixup_s_deviations():
  def forward(x):
    relu = activations.get('relu', scaled=False)
    block = fixup_resnet.FixUpBlock(
      64, 256, 2, num_blocks=16, activation=relu, name='block'
    )
    return block(x, False, None, 0.0)

  net = hk.transform(forward)
  params = net.init(jax.random.key(0), golden_lib.images((1, 4, 4, 64)))
  shrink = 16**-0.25
  for name, std in (
    ('conv0', (2 / 64) ** 0.5 * shrink),
    ('conv1', (2 / (9 * 64)) ** 0.5 * shrink),
    ('conv_shortcut', (2 / 256) ** 0.5),
  ):
    got = np.asarray(params[f'block/~/{name}']['w']).std()
    assert got == pytest.approx(std, rel=0.03), name
  assert not np.any(params['block/~/conv2']['w'])
