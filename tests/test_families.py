"""Every family is the published function, of the published size."""

import golden_lib
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import models
from nfnets.models import activations, fixup_resnet

KEY = jax.random.key(0)
IMAGE = golden_lib.images((1, 32, 32, 3))


@pytest.mark.parametrize(
  'golden, name',
  [
    ('nfnet_f0', 'nfnet_f0'),
    pytest.param('nfnet_f0_odd', 'nfnet_f0', marks=pytest.mark.slow),
    ('nf_resnet50', 'nf_resnet_50'),
    ('nf_regnet_b0', 'nf_regnet_b0'),
    ('resnet50', 'resnet_50'),
    ('skipinit_resnet50', 'skipinit_resnet_50'),
    ('fixup_resnet50', 'fixup_resnet_50'),
  ],
)
def test_logits_and_paths_equal_the_golden_numbers(golden, name):
  assert golden_lib.difference(name, golden_lib.load(golden)) < 1e-4


def test_squeeze_excite_follows_the_last_convolution_of_an_nf_resnet():
  shapes, _ = golden_lib.shapes('nf_resnet_50', use_se=True, se_ratio=0.125)
  path = 'NF_ResNet/~/nf_res_block_15/~/squeeze_excite/~/linear'
  assert shapes[path]['w'].shape == (2048, 256)


def test_none_is_plain_he_convolutions_with_the_same_scalars():
  shapes, _ = golden_lib.shapes('nf_resnet_50', normalizer='none')
  block = 'NF_ResNet/~/nf_res_block'
  assert set(shapes[f'{block}/~/conv0']) == {'w', 'b'}
  assert set(shapes[block]) == {'skip_gain'}


@pytest.mark.parametrize('name', ['nf_resnet_50', 'skipinit_resnet_50'])
@pytest.mark.parametrize('gain', [0.0, jnp.ones])
def test_the_skip_gain_starts_where_asked(name, gain):
  net = golden_lib.tiny(name, skipinit_gain=gain)
  params, _ = net.init(KEY, IMAGE, True)
  gains = [p['skip_gain'] for p in params.values() if 'skip_gain' in p]
  assert gains == [gain(()) if callable(gain) else gain] * 4


def test_the_batch_normalized_regnet_has_bn_before_every_activation():
  shapes, state = golden_lib.shapes('nf_regnet_b0', normalizer='batch')
  assert not any('skip_gain' in leaves for leaves in shapes.values())
  norms = [path for path in shapes if '/bn' in path or 'final_bn' in path]
  assert len(norms) == 3 * 16 + 1 and state


@pytest.mark.slow
def test_the_order_decides_what_a_branch_receives():
  images = golden_lib.images((4, 32, 32, 3))
  pools = []
  for order in ('bn_act', 'act_bn'):
    net = golden_lib.tiny('resnet_50', order=order)
    params, state = net.init(KEY, images, True)
    out, _ = net.apply(params, state, None, images, True)
    pools.append(np.asarray(out['pool']))
  # Normalized last, pooled features have mean zero over the batch.
  np.testing.assert_allclose(pools[1].mean(0), 0, atol=1e-5)
  assert pools[0].min() >= 0 and pools[0].mean() > 0.1


def test_convolutions_start_with_fixup_s_deviations():
  def forward(x):
    relu = activations.get('relu', scaled=False)
    block = fixup_resnet.FixUpBlock(
      64, 256, 2, num_blocks=16, activation=relu, name='block'
    )
    return block(x, False, None, 0.0)

  net = hk.transform(forward)
  params = net.init(KEY, golden_lib.images((1, 4, 4, 64)))
  shrink = 16**-0.25
  for name, std in (
    ('conv0', (2 / 64) ** 0.5 * shrink),
    ('conv1', (2 / (9 * 64)) ** 0.5 * shrink),
    ('conv_shortcut', (2 / 256) ** 0.5),
  ):
    got = np.asarray(params[f'block/~/{name}']['w']).std()
    assert got == pytest.approx(std, rel=0.03), name
  assert not np.any(params['block/~/conv2']['w'])


@pytest.mark.parametrize(
  'name, overrides, message',
  [
    ('nf_regnet_b0', {'group_size': 64}, 'conv0: .* 0 output.*group_size'),
    ('nf_regnet_b0', {'group_size': 0}, 'group_size=0: give 1'),
    ('nfnet_f0', {'group_size': 0}, 'group_size=0: give 1'),
    ('nf_resnet_50', {'depths': (1, 0, 1, 1)}, 'depths=.*0, 1, 1.: give 1'),
    ('nf_resnet_50', {'widths': (8, 8, 8, -8)}, 'widths=.*-8.: give 1'),
    ('nf_regnet_b0', {'width': 0.0}, 'initial_conv: .* 0 output.*width'),
    ('nf_regnet_b0', {'width': 0.1}, 'conv0: .* 0 output.*width'),
    ('nf_regnet_b0', {'expansion': 0.0}, 'conv0: .* 0 output.*expansion'),
    ('nfnet_f0', {'widths': (1,) * 4}, 'stem_conv3: .* 0 output.*widths'),
    *(
      (name, {'widths': (2,) * 4}, 'conv0: .* 0 output.*widths')
      for name in ('resnet_50', 'nf_resnet_50', 'fixup_resnet_50')
    ),
    ('cifar_resnet_20', {'widths': (8, 8, 8)}, '8 channels after 16: widths'),
    ('test_nfnet', {'normalizer': 'batch'}, 'skipinit_gain=0.0'),
    ('nf_resnet26', {'normalizer': 'none'}, 'skipinit_gain=0.0'),
  ],
)
def test_a_network_that_cannot_be_built_says_what_to_change(
  name, overrides, message
):
  with pytest.raises(ValueError, match=message) as error:
    golden_lib.shapes(name, **overrides)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'name, overrides',
  [
    ('nfnet_f0', {'normalizer': 'group'}),
    ('nfnet_f0', {'ws_eps': 'none'}),
    ('nfnet_f0', {'attention': 'cbam'}),
    ('nfnet_f0', {'widths': (64, 64)}),
    ('nf_resnet_50', {'normalizer': 'batch'}),
    ('resnet_50', {'order': 'relu_bn'}),
    ('resnet_50', {'conv_init': 'xavier'}),
    ('cifar_resnet_20', {'normalizer': 'layer'}),
  ],
)
def test_an_impossible_choice_is_one_line_that_names_it(name, overrides):
  ((key, value),) = overrides.items()
  with pytest.raises(ValueError, match=f'{key}.*{value[0]}') as error:
    models.create(name, **overrides).init(KEY, IMAGE, True)
  assert '\n' not in str(error.value)
