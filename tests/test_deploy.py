"""What an exported network weighs and takes is measured and told."""

import importlib.util
import json

import golden_lib
import numpy as np
import pytest

from nfnets import weights
from nfnets.bench import deploy
from nfnets.weights import export, files


def _weights():
  overrides = {'normalizer': 'nf', 'depths': (1, 1, 1)}
  params = golden_lib.fill(files.shapes('cifar_resnet_20', 5, **overrides)[0])
  return weights.Weights(params, {}, 'cifar_resnet_20', 5, overrides)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """One network in every form but timm's, which has none like it."""
  path = tmp_path_factory.mktemp('forms')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(export, '_difference', lambda *rest: 0.0)
    deploy.prepare(path, _weights(), 9, None)
  return path


def test_every_runtime_computes_the_same_and_is_timed(folder):
  found = {}
  for runtime in ('jax', 'folded', 'stablehlo', 'onnx'):
    if runtime == 'onnx' and not importlib.util.find_spec('onnxruntime'):
      continue
    row = deploy.measure(runtime, folder, 2, 9, num_runs=3, seconds=0)
    assert len(row['times']) == 3 and min(row['times']) > 0
    assert row['ready'] > 0
    assert row['bytes'] > 4 * 70_000  # float32 parameters
    found[runtime] = row['logits']
  for logits in found.values():
    np.testing.assert_allclose(logits, found['jax'], rtol=1e-3, atol=1e-5)


def test_what_is_not_at_hand_is_said_in_a_line(folder):
  with pytest.raises(ValueError, match="no runtime 'tflite': use some of jax"):
    deploy.measure('tflite', folder, 1, 9)
  with pytest.raises(ValueError, match='timm.safetensors was not prepared'):
    deploy.measure('timm', folder, 1, 9)


def test_a_row_measured_again_replaces_its_own_alone(
  folder, tmp_path, monkeypatch
):
  monkeypatch.setattr(deploy, 'BATCHES', (1, 2))
  path = tmp_path / 'table'
  options = {'image_size': 9, 'seconds': 0}
  both = deploy.update(path, ['jax', 'folded'], 'CMD', folder, **options)
  before = json.loads(path.with_suffix('.json').read_text())
  text = deploy.update(path, ['folded'], 'CMD', folder, **options)
  after = json.loads(path.with_suffix('.json').read_text())
  assert after['runtimes']['jax'] == before['runtimes']['jax']
  assert after['runtimes']['folded'] != before['runtimes']['folded']
  assert after['runtimes']['folded']['2']['error'] < 1e-4
  assert path.with_suffix('.md').read_text() == text
  for words in ('`CMD`', 'JAX, as trained', 'JAX, folded', '9 x 9 pixels'):
    assert words in both and words in text
  assert 'onnxruntime |' not in text
