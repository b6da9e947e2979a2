"""The conversion command, from every kind of file to every other."""

import dill
import numpy as np
import pytest
import safetensors.numpy
from filling import fill
from test_files import SMALL, assert_same, small

from nfnets import weights
from nfnets.weights import files, timm


@pytest.fixture
def convert(run_script):
  return lambda *arguments: run_script('scripts.convert', *arguments)


@pytest.mark.slow
def test_a_published_file_becomes_ours_and_timms_and_ours_again(
  tmp_path, convert
):
  """NF-ResNet-50 stands in for F0, which is three times as large."""
  params = fill(files.shapes('nf_resnet_50', 3)[0])
  (tmp_path / 'N_haiku.npz').write_bytes(dill.dumps(params, protocol=3))
  done = convert(tmp_path / 'N_haiku.npz', tmp_path / 'ours.safetensors')
  assert done.code == 0, done.stderr
  assert 'nf_resnet_50, 23,514,195 parameters' in done.stdout
  assert_same(weights.load(tmp_path / 'ours.safetensors').params, params)
  done = convert(
    tmp_path / 'ours.safetensors', tmp_path / 'timm.safetensors', '--to=timm'
  )
  assert done.code == 0, done.stderr
  # It says how timm's function differs from the published one.
  for knob in ("ws_eps='timm'", "padding='symmetric'", 'pool_shortcut=True'):
    assert knob in done.stdout
  done = convert(tmp_path / 'timm.safetensors', tmp_path / 'back.npz')
  assert done.code == 0, done.stderr
  back = weights.load(tmp_path / 'back.npz')
  assert back.model == 'nf_resnet50' and not back.overrides
  arrays = safetensors.numpy.load_file(tmp_path / 'timm.safetensors')
  assert_same(back.params, timm.from_timm(arrays, 'nf_resnet50'))


def test_a_network_that_timm_has_not_is_not_written_as_timms(tmp_path, convert):
  sizes = {'depths': (1, 1, 1, 1), 'widths': (32, 32, 32, 32)}
  params = fill(files.shapes('nf_resnet_50', 3, **sizes)[0])
  made = weights.Weights(params, {}, 'nf_resnet_50', 3, sizes)
  weights.write(tmp_path / 'w.npz', made)
  out = tmp_path / 'timm.safetensors'
  done = convert(tmp_path / 'w.npz', out, '--to=timm')
  assert done.code == 2 and not out.exists()
  assert 'has depths=(3, 4, 6, 3), not (1, 1, 1, 1)' in done.stderr


def test_folded_weights_are_written_as_such(tmp_path, convert):
  weights.write(tmp_path / 'w.npz', small())
  done = convert(tmp_path / 'w.npz', tmp_path / 'f.npz', '--fold')
  assert done.code == 0, done.stderr
  found = weights.load(tmp_path / 'f.npz')
  assert found.overrides == SMALL | {'folded': True}
  assert_same(found.params, weights.fold_weights(small()).params)


def test_weights_of_another_network_are_one_line(tmp_path, convert):
  kept = small()
  params = dict(kept.params)
  del params['CIFAR_ResNet/~/nf_block_2/~/conv1']
  params['CIFAR_ResNet/~/linear'] = {'w': np.zeros((7, 3), np.float32)}
  weights.write(tmp_path / 'bad.npz', kept._replace(params=params))
  code, _, err = convert(tmp_path / 'bad.npz', tmp_path / 'out.npz')
  assert code == 2 and err.count('\n') == 1
  assert '4 missing, 0 unexpected, 1 of another shape' in err
  assert 'linear/w (7, 3), needs (64, 4)' in err
  assert not (tmp_path / 'out.npz').exists()
