"""The conversion command, from every kind of file to every other."""

import subprocess
import sys

import dill
import golden_lib
import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny

from nfnets import checkpoint, weights, workdir
from nfnets.weights import files, match, timm

REFUSED = 2


def _convert(*arguments):
  command = [sys.executable, '-m', 'scripts.convert', *map(str, arguments)]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def _params(model, num_classes, **overrides):
  return golden_lib.fill(files.shapes(model, num_classes, **overrides)[0])


def _assert_same(found, wanted):
  found, wanted = match.flatten(found), match.flatten(wanted)
  assert found.keys() == wanted.keys()
  for path, leaf in wanted.items():
    np.testing.assert_allclose(found[path], leaf, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_a_published_file_becomes_ours_and_timms_and_ours_again(tmp_path):
  """NF-ResNet-50 stands in for F0, which is three times as large."""
  params = _params('nf_resnet_50', 3)
  (tmp_path / 'N_haiku.npz').write_bytes(dill.dumps(params, protocol=3))
  done = _convert(tmp_path / 'N_haiku.npz', tmp_path / 'ours.safetensors')
  assert done.returncode == 0, done.stderr
  assert 'nf_resnet_50, 23,514,195 parameters' in done.stdout
  ours = weights.load(tmp_path / 'ours.safetensors')
  _assert_same(ours.params, params)
  done = _convert(
    tmp_path / 'ours.safetensors', tmp_path / 'timm.safetensors', '--to=timm'
  )
  assert done.returncode == 0, done.stderr
  # It says how timm's function differs from the published one.
  for knob in ("ws_eps='timm'", "padding='symmetric'", 'pool_shortcut=True'):
    assert knob in done.stdout
  done = _convert(tmp_path / 'timm.safetensors', tmp_path / 'back.npz')
  assert done.returncode == 0, done.stderr
  back = weights.load(tmp_path / 'back.npz')
  assert back.overrides == timm.PEERS['nf_resnet50'].overrides
  arrays = safetensors.numpy.load_file(tmp_path / 'timm.safetensors')
  _assert_same(back.params, timm.from_timm(arrays, 'nf_resnet50'))


@pytest.mark.parametrize(
  'flag', ['--noraw', pytest.param('--raw', marks=pytest.mark.slow)]
)
def test_a_run_gives_its_averaged_or_its_last_weights(flag, tmp_path):
  config = tiny.config(ema__mode='warmup')
  _, _, state = tiny.network_and_state(config)
  average = jax.tree.map(lambda leaf: leaf + 1, state.params)
  state = state._replace(ema_params=average)
  run = tmp_path / 'run'
  workdir.RunFolder(run).write_config(config.to_dict())
  checkpoints = checkpoint.Checkpoints(run)
  checkpoints.save(3, state)
  checkpoints.wait()
  checkpoints.close()
  done = _convert(run, tmp_path / 'w.safetensors', flag)
  assert done.returncode == 0, done.stderr
  found = weights.load(tmp_path / 'w.safetensors')
  _assert_same(found.params, state.params if flag == '--raw' else average)
  assert found.model == 'cifar_resnet_20'
  assert found.overrides['normalizer'] == 'nf'
  assert found.data['eval_image_size'] == 8
  assert found.data['class_names'] == [str(digit) for digit in range(10)]


def test_a_folder_without_a_run_is_refused(tmp_path):
  done = _convert(tmp_path, tmp_path / 'w.safetensors')
  assert done.returncode == REFUSED
  assert str(tmp_path) in done.stderr
  assert not list(tmp_path.iterdir())


def test_folded_weights_are_written_as_such(tmp_path):
  overrides = {'normalizer': 'nf', 'depths': [1, 1, 1]}
  params = _params('cifar_resnet_20', 4, **overrides)
  kept = weights.Weights(params, {}, 'cifar_resnet_20', 4, overrides)
  weights.write(tmp_path / 'w.npz', kept)
  done = _convert(tmp_path / 'w.npz', tmp_path / 'f.npz', '--fold')
  assert done.returncode == 0, done.stderr
  found = weights.load(tmp_path / 'f.npz')
  assert found.overrides['folded'] is True
  _assert_same(found.params, weights.fold_weights(kept).params)


def test_weights_of_another_network_are_one_report(tmp_path):
  shapes = files.shapes('nf_resnet_50', 3)[0]
  params = {
    module: {name: np.zeros(x.shape, np.float16) for name, x in leaves.items()}
    for module, leaves in shapes.items()
  }
  del params['NF_ResNet/~/nf_res_block_2/~/conv1']
  params['NF_ResNet/~/linear']['w'] = np.zeros((7, 3), np.float32)
  (tmp_path / 'bad.npz').write_bytes(dill.dumps(params))
  done = _convert(tmp_path / 'bad.npz', tmp_path / 'out.npz')
  assert done.returncode == REFUSED
  assert '3 missing, 0 unexpected, 1 of another shape' in done.stderr
  assert 'linear/w (7, 3), needs (2048, 3)' in done.stderr
  assert not (tmp_path / 'out.npz').exists()


@pytest.mark.parametrize(
  ('arguments', 'culprit'),
  [
    (['missing.npz', 'out.npz'], 'missing.npz'),
    (['missing.npz'], 'name two files'),
    (['missing.npz', 'out.pth'], 'out.pth'),
    (['--to=torch', 'a.npz', 'b.npz'], '--to=torch'),
  ],
)
def test_what_is_impossible_is_refused_in_a_line(arguments, culprit, tmp_path):
  done = _convert(*arguments)
  assert done.returncode == REFUSED
  assert len(done.stderr.strip().splitlines()) == 1
  assert culprit in done.stderr


def test_an_attack_is_refused_by_name(tmp_path):
  (tmp_path / 'F0_haiku.npz').write_bytes(dill.dumps(lambda: 1))
  done = _convert(tmp_path / 'F0_haiku.npz', tmp_path / 'out.npz')
  assert done.returncode == REFUSED
  assert 'refused: the pickle asks for' in done.stderr
  assert not (tmp_path / 'out.npz').exists()


@pytest.mark.slow
def test_a_whole_published_f0_is_read(tmp_path):
  params = _params('nfnet_f0', 1000)
  (tmp_path / 'F0_haiku.npz').write_bytes(dill.dumps(params))
  done = _convert(tmp_path / 'F0_haiku.npz', tmp_path / 'f0.safetensors')
  assert done.returncode == 0, done.stderr
  # The golden tree's 68,447,014 of 10 classes, and 990 more of 3072 + 1.
  assert 'nfnet_f0, 71,489,284 parameters' in done.stdout
  _assert_same(weights.load(tmp_path / 'f0.safetensors').params, params)
