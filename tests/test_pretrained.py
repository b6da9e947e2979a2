"""Weights of every kind are read by one call."""

import dill
import golden_lib
import numpy as np
import pytest
import safetensors.numpy
import tiny

from nfnets import checkpoint, pretrained, workdir
from nfnets.weights import files, match, timm


def assert_same(found, wanted):
  found, wanted = match.flatten(found), match.flatten(wanted)
  assert found.keys() == wanted.keys()
  for path, leaf in wanted.items():
    np.testing.assert_allclose(found[path], leaf, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope='module')
def regnet():
  """NF-RegNet-B0's parameters: the smallest network that timm has too."""
  shapes, _ = files.shapes('nf_regnet_b0', 3)
  return golden_lib.fill(shapes)


def test_a_published_pickle_is_told_by_its_content(tmp_path, regnet):
  path = tmp_path / 'B0_haiku.npz'
  path.write_bytes(dill.dumps(regnet, protocol=3))
  found = pretrained.read(path)
  assert_same(found.weights.params, regnet)
  assert found.weights.model == 'nf_regnet_b0'
  assert found.weights.num_classes == 3


def test_timms_file_is_told_by_its_names(tmp_path):
  shapes, _ = files.shapes('nf_regnet_b0', 3, **timm.PEERS['nf_regnet_b0'][1])
  params = golden_lib.fill(shapes)
  arrays = timm.to_timm(params, 'nf_regnet_b0')
  path = tmp_path / 'model.safetensors'
  safetensors.numpy.save_file(arrays, path)
  found = pretrained.read(path)
  assert found.kind == 'timm' and found.timm_name == 'nf_regnet_b0'
  assert found.weights.overrides == timm.PEERS['nf_regnet_b0'].overrides
  # The same function from other numbers: its skip gains are in the weights.
  assert_same(timm.to_timm(found.weights.params, 'nf_regnet_b0') and
              found.weights.params, timm.from_timm(arrays, 'nf_regnet_b0')
              )  # fmt: skip


def test_timms_file_without_a_head_is_refused(tmp_path):
  arrays = timm.to_timm(
    golden_lib.fill(
      files.shapes('nf_regnet_b0', 3, **timm.PEERS['nf_regnet_b0'][1])[0]
    ),
    'nf_regnet_b0',
  )
  del arrays['head.fc.bias']
  path = tmp_path / 'model.safetensors'
  safetensors.numpy.save_file(arrays, path)
  with pytest.raises(ValueError, match=r'no head\.fc\.bias'):
    pretrained.read(path)


@pytest.mark.parametrize('averaged', [True, False])
def test_a_runs_folder_gives_its_average_unless_its_own_are_asked_for(
  tmp_path, averaged
):
  config = tiny.config(ema__mode='warmup')
  _, _, state = tiny.network_and_state(config)
  average = {
    module: {name: np.float32(leaf + 1) for name, leaf in leaves.items()}
    for module, leaves in state.params.items()
  }
  workdir.RunFolder(tmp_path).write_config(config.to_dict())
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(0, state._replace(ema_params=average))
  checkpoints.wait()
  checkpoints.close()
  found = pretrained.read(tmp_path, averaged=averaged)
  assert found.kind == 'run'
  assert_same(found.weights.params, average if averaged else state.params)
  assert found.weights.data['class_names'] == [str(i) for i in range(10)]


@pytest.mark.parametrize('ending', ['safetensors', 'npz'])
def test_a_file_of_ours_comes_back(tmp_path, ending):
  weights = files.Weights({'net/~/linear': {'w': np.ones((2, 3))}}, {}, None)
  path = tmp_path / f'weights.{ending}'
  files.write(path, weights)
  found = pretrained.read(path)
  assert found.kind == 'ours'
  assert_same(found.weights.params, weights.params)


def test_what_is_not_there_and_unknown_kinds_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='nothing: no such file'):
    pretrained.read(tmp_path / 'nothing')
  with pytest.raises(ValueError, match="no kind of weights 'keras'"):
    pretrained.read(tmp_path, 'keras')
  with pytest.raises(ValueError, match='no run'):
    pretrained.read(tmp_path)
