"""NF-ResNets equal the published function, counts and options."""

import golden_lib
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import models
from nfnets.models import activations, layers, nf_resnet

KEY = jax.random.key(0)
# PAPER_FACTS 1.5, millions.
PUBLISHED = {50: 25.56, 101: 44.55, 152: 60.19}
DEEP = {200: 64.67, 288: 146.46, 600: 300.65}


def test_resnet_50_equals_the_golden_numbers():
  want = golden_lib.load('nf_resnet50')
  assert golden_lib.difference('nf_resnet_50', want) < 1e-4


@pytest.mark.parametrize('depth, millions', PUBLISHED.items())
def test_parameters_are_the_published_count(depth, millions):
  count = golden_lib.count(f'nf_resnet_{depth}')
  assert round(count / 1e6, 2) == millions


@pytest.mark.slow
@pytest.mark.parametrize('depth, millions', DEEP.items())
def test_parameters_of_deep_variants_are_the_published_count(depth, millions):
  count = golden_lib.count(f'nf_resnet_{depth}')
  assert round(count / 1e6, 2) == millions


def test_squeeze_excite_follows_the_last_convolution():
  shapes, _ = golden_lib.shapes('nf_resnet_50', use_se=True, se_ratio=0.125)
  path = 'NF_ResNet/~/nf_res_block_15/~/squeeze_excite/~/linear'
  assert shapes[path]['w'].shape == (2048, 256)


def test_a_block_equals_its_equation():
  def forward(x, stochdepth_rate):
    parts = layers.parts('nf', 'relu')
    block = nf_resnet.NFResBlock(
      8, 16, 2, parts=parts, alpha=0.2, skipinit_gain=0.7, name='block'
    )
    return block(x, False, None, stochdepth_rate, expected_std=1.3)

  net = hk.transform(forward)
  x = golden_lib.images((2, 6, 6, 8))
  params = net.init(KEY, x, 0.0)
  act = activations.get('relu')

  def conv(name, x, stride=1):
    leaf = params[f'block/~/{name}']
    w = layers.standardize(leaf['w'], leaf['gain'])
    return layers.conv2d(x, w, (stride, stride))

  a = act(x) / 1.3
  branch = conv('conv2', act(conv('conv1', act(conv('conv0', a)), 2)))
  want = conv('conv_shortcut', a, 2) + 0.2 * 0.7 * branch
  np.testing.assert_allclose(
    net.apply(params, None, x, 0.0), want, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('gain', [0.5, jnp.ones])
def test_the_skip_gain_starts_where_asked(gain):
  net = golden_lib.tiny('nf_resnet_50', skipinit_gain=gain)
  params, _ = net.init(KEY, golden_lib.images((1, 32, 32, 3)), True)
  gains = [p['skip_gain'] for p in params.values() if 'skip_gain' in p]
  assert gains == [gain(()) if callable(gain) else gain] * 4


def test_none_is_plain_he_convolutions_with_the_same_scalars():
  shapes, _ = golden_lib.shapes('nf_resnet_50', normalizer='none')
  block = 'NF_ResNet/~/nf_res_block'
  assert set(shapes[f'{block}/~/conv0']) == {'w', 'b'}
  assert set(shapes[block]) == {'skip_gain'}


def test_the_batch_normalized_twin_is_pointed_to():
  net = models.create('nf_resnet_50', normalizer='batch')
  with pytest.raises(ValueError, match='create resnet_50'):
    net.init(KEY, golden_lib.images((1, 32, 32, 3)), True)
