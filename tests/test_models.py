"""`create`: names, overrides, and what it says when they are wrong."""

import subprocess
import sys

import golden_lib
import jax
import numpy as np
import pytest

from nfnets import models, variants
from nfnets.analysis import counts

TWINS = [
  ('nfnet_f0', {}),
  ('nf_resnet_50', {}),
  ('nf_regnet_b0', {}),
  ('resnet_50', {}),
  ('skipinit_resnet_50', {}),
  ('fixup_resnet_50', {}),
  ('cifar_resnet_20', {}),
  ('nfnet_f0', {'normalizer': 'batch'}),
  ('nfnet_f0', {'padding': 'symmetric', 'folded': True}),
  ('nf_resnet_50', {'pool_shortcut': True, 'padding': 'symmetric'}),
  ('nf_regnet_b0', {'normalizer': 'batch'}),
  ('cifar_resnet_20', {'normalizer': 'nf'}),
  ('cifar_resnet_20', {'normalizer': 'none'}),
]


@pytest.mark.parametrize('name, overrides', TWINS)
def test_outputs_have_the_promised_shapes(name, overrides):
  """A side that a stride doesn't divide is rounded up, as 'SAME' pads."""
  height, width = 45, 37
  row = variants.find(name)
  depths = (1,) * len(row['depths'])
  net = models.create(name, 3, features=True, depths=depths, **overrides)

  def forward(key, images):
    params, state = net.init(key, images, True)
    return net.apply(params, state, None, images, False)[0]

  images = jax.ShapeDtypeStruct((2, height, width, 3), np.float32)
  out = jax.eval_shape(forward, jax.random.key(0), images)
  assert out['logits'].shape == (2, 3) and out['logits'].dtype == 'float32'
  assert out['pool'].shape[0] == 2 and out['pool'].ndim == 2
  assert out.keys() == {'logits', 'pool', 'features'}
  features = out['features']
  for stride, feature in features.items():
    assert feature.shape[:3] == (2, -(-height // stride), -(-width // stride))
  share = 0.75 if 'regnet' in name else 1  # of the table's, as published
  first = 1 if 'cifar' in name else 4
  strides = [first * 2**i for i in range(len(depths))]
  for stride, channels in zip(strides, row['widths'], strict=True):
    # The last of some is the convolution behind the stages.
    if stride < 32 or 'nf_resnet' in name:
      assert features[stride].shape[3] == int(share * channels)
  has_stem = name.startswith('nf')  # among its feature maps
  assert list(features) == [first // 2] * has_stem + strides


@pytest.mark.slow
@pytest.mark.parametrize('name', variants.ALL)
def test_every_name_builds_with_as_many_parameters_as_counted(name):
  parts = counts.parts(name, num_classes=1000)
  assert golden_lib.count(name) == sum(part.params for part in parts)


def test_arguments_are_the_table_the_defaults_and_the_overrides():
  found = models.arguments('nfnet_f0', widths=[8, 8, 8, 8], alpha=0.3)
  assert found['depths'] == (1, 2, 6, 3) and found['widths'] == (8, 8, 8, 8)
  assert found['alpha'] == 0.3 and found['group_size'] == 128
  assert found['drop_rate'] == 0.2 and not found['scan']
  assert 'alpha' not in models.arguments('resnet_50', drop_rate=None)


def test_create_imports_only_the_family_it_builds():
  script = (
    'import sys, nfnets; nfnets.create("nf_resnet_50"); '
    'sys.exit("nfnets.models.nfnet" in sys.modules)'
  )
  assert subprocess.run([sys.executable, '-c', script]).returncode == 0


@pytest.mark.parametrize(
  'arguments, words',
  [
    ({'name': 'nfnet_f9'}, "no model 'nfnet_f9': did you mean nfnet_f"),
    ({'name': 'nfnet_f0', 'drop_rte': 0}, 'did you mean drop_rate'),
    ({'name': 'nfnet_f0', 'zzz': 0}, 'known: activation, alpha'),
    ({'name': 'nfnet_f0', 'activation': 'swish'}, 'swish.*silu'),
    ({'name': 'nfnet_f0', 'num_classes': -1}, 'num_classes=-1'),
  ],
)
def test_a_mistake_is_one_clear_line(arguments, words):
  with pytest.raises(ValueError, match=words) as error:
    models.create(**arguments)
  assert '\n' not in str(error.value)
