"""Conversion of parameters and preprocessing between timm and here."""

import json
import subprocess

import golden_lib
import numpy as np
import photographs
import pytest
import safetensors.numpy

from nfnets import variants, weights
from nfnets.data import images
from nfnets.weights import files, match, names, pictures, timm

GOLDEN = {
  'dm_nfnet_f0': 'nfnet_f0',
  'nf_resnet50': 'nf_resnet50',
  'nf_regnet_b0': 'nf_regnet_b0',
}


def _params(name, seed=0):
  random = np.random.RandomState(seed)
  tree = golden_lib.load(GOLDEN[name])['tree']
  leaves = {
    path: np.asarray(1 + 0.1 * random.standard_normal(shape), np.float32)
    for path, shape in tree.items()
    if np.prod(shape) < 3e5 or 'stem' in path
  }
  return match.unflatten(leaves)


@pytest.mark.parametrize('name', ['nf_resnet50', 'nf_regnet_b0'])
def test_skip_gains_go_into_the_last_convolution(name):
  """g * conv(x) is the same function: the trees differ, their product not."""
  params = match.flatten(_params(name))
  back = timm.from_timm(timm.to_timm(match.unflatten(params), name), name)
  back = match.flatten(back)
  kept = {p: x for p, x in params.items() if not p.endswith('/skip_gain')}
  assert back.keys() == kept.keys()
  for path, leaf in kept.items():
    want = leaf
    if path.endswith(('conv2/gain', 'conv2/bias')):
      want = leaf * params[path.rpartition('/~/')[0] + '/skip_gain']
    np.testing.assert_allclose(back[path], want, rtol=1e-6)


def test_a_gate_after_the_last_convolution_undoes_the_skip_gain():
  """gate(g y) must be gate(y): timm's nfnet_f0 has no skip gain of its own."""
  params = match.flatten(_params('dm_nfnet_f0'))
  found = timm.to_timm(match.unflatten(params), 'nfnet_f0')
  block = 'NFNet/~/nf_block'
  skip_gain = params[f'{block}/skip_gain']
  assert abs(skip_gain - 1) > 1e-3
  np.testing.assert_allclose(
    found['stages.0.0.attn_last.fc1.weight'][:, :, 0, 0].T * skip_gain,
    params[f'{block}/~/squeeze_excite/~/linear/w'],
    rtol=1e-6,
  )
  assert not any(key.endswith('skipinit_gain') for key in found)


def test_parameters_that_one_network_lacks_are_named():
  params = _params('dm_nfnet_f0')
  params['NFNet/~/nf_block_12'] = {'skip_gain': np.ones(())}
  with pytest.raises(ValueError, match='nf_block_12/skip_gain'):
    timm.to_timm(params, 'dm_nfnet_f0')
  with pytest.raises(ValueError, match=r'stages\.9\.0\.conv1\.weight'):
    timm.from_timm({'stages.9.0.conv1.weight': np.ones(1)}, 'dm_nfnet_f0')
  with pytest.raises(ValueError, match="no timm network 'resnet50'"):
    timm.to_timm(params, 'resnet50')
  with pytest.raises(ValueError, match='name it with model=NAME'):
    timm.guess({'stages.0.0.conv1.weight': np.ones(1)})


def test_differences_of_functions_are_listed_by_argument():
  assert timm.changes('dm_nfnet_f0', 'nfnet_f0', {}) == {
    'activation': 'gelu_erf',
    'ws_eps': 'timm',
  }
  for name in ('dm_nfnet_f3', 'timm/nfnet_f3', 'timm/nf_regnet_b1'):
    assert timm.name_of(name) == name
    model = name.removeprefix('timm/').removeprefix('dm_')
    differing = timm.changes(name, model, {})
    assert differing and not timm.changes(name, model, differing)
    assert timm.name_of(model, differing) == name
  assert timm.name_of('nfnet_f3') == 'dm_nfnet_f3'
  assert timm.name_of('nf_resnet_50') == 'nf_resnet50'
  with pytest.raises(ValueError, match='timm has no cifar_resnet_20'):
    timm.name_of('cifar_resnet_20')


_CONFIGS = """
import json, timm
from timm.models import nfnet
names = timm.list_models(module='nfnet')
print(json.dumps({n: nfnet.default_cfgs[n].default.to_dict() for n in names}))
"""


@pytest.mark.slow
def test_preparations_are_timms_own(python_with_timm):
  command = [python_with_timm, '-c', _CONFIGS]
  configs = json.loads(subprocess.check_output(command))
  for name in variants.TIMM:
    theirs = configs[name.removeprefix('timm/')]
    made = files.Weights({}, {}, name, 1000)
    told = names.data_of(theirs)
    assert pictures.image_size(made) == told['eval_image_size'], name
    assert pictures.crop_name(made) == told['eval_preprocessing'], name
    for key, value in pictures.statistics(made).items():
      np.testing.assert_allclose(value, told[key], rtol=1e-6)


_PIXELS = """
import sys, numpy, PIL.Image
from timm.data import create_transform
found = []
for kind, share in (('squash', 0.9), ('center', 0.94), ('center', 1.0)):
  prepare = create_transform(
    (3, 256, 256), crop_pct=share, crop_mode=kind, interpolation='bicubic',
    mean=(0, 0, 0), std=(1, 1, 1),
  )
  for path in sys.argv[2:]:
    image = prepare(PIL.Image.open(path).convert('RGB'))
    found.append(255 * image.permute(1, 2, 0).numpy())
numpy.save(sys.argv[1], numpy.stack(found))
"""


@pytest.mark.slow
def test_ten_photographs_are_prepared_as_timm_prepares_them(
  tmp_path, python_with_timm
):
  paths = []
  for index, photo in enumerate(photographs.load(10)):
    paths.append(str(tmp_path / f'{index}.jpg'))
    photo.save(paths[-1], quality=90)
  target = str(tmp_path / 'pixels.npy')
  command = [python_with_timm, '-c', _PIXELS, target, *paths]
  subprocess.run(command, check=True)
  theirs = iter(np.load(target))
  for how in ('squash_0.9', 'center_0.94', 'center_1.0'):
    for path in paths:
      ours = images.preparation(how)(images.decode(images.read(path)), 256)
      assert np.abs(ours - next(theirs)).mean() < 2, (how, path)


def test_a_damaged_config_beside_the_weights_is_named(tmp_path):
  arrays = {'model.stem.weight': np.zeros((1, 1), np.float32)}
  safetensors.numpy.save_file(arrays, tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text('{"architecture": ')
  with pytest.raises(ValueError, match='config.json is damaged.*move it away'):
    weights.read(tmp_path / 'model.safetensors')
