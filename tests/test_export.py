"""Exported files compute the same as the networks, without this package."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile

import filling
import jax
import numpy as np
import pytest

from nfnets import hub, models, weights
from nfnets.weights import export, exported, files

needs_onnx = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('onnx', 'onnxruntime'))),
  reason='ONNX is not installed: pip install onnx onnxruntime',
)
FORMATS = ['stablehlo', pytest.param('onnx', marks=needs_onnx)]
SIZES = {'widths': (16, 24, 32, 32), 'depths': (2, 1, 1, 1)}
REGNET = SIZES | {'widths': (32, 48, 64, 64)}
CIFAR = {'depths': (1, 1, 1)}
NETWORKS = {
  'nfnet': ('nfnet_f0', SIZES),
  'nfnet as timm has it': (
    'nfnet_f0',
    SIZES
    | {'activation': 'gelu_erf', 'ws_eps': 'timm', 'padding': 'symmetric'},
  ),
  'nf_resnet': ('nf_resnet_50', SIZES | {'use_se': True}),
  'nf_resnet as timm has it': (
    'nf_resnet_50',
    SIZES | {'padding': 'symmetric', 'pool_shortcut': True},
  ),
  'nf_regnet': ('nf_regnet_b0', REGNET),
  'cifar nf': ('cifar_resnet_20', CIFAR | {'normalizer': 'nf'}),
  'cifar none': ('cifar_resnet_20', CIFAR | {'normalizer': 'none'}),
  'cifar batch': ('cifar_resnet_20', CIFAR),
  'nfnet batch': ('nfnet_f0', SIZES | {'normalizer': 'batch'}),
  'resnet': ('resnet_50', SIZES),
  'skipinit': ('skipinit_resnet_50', SIZES),
  'fixup': ('fixup_resnet_50', SIZES),
}
# Runs where neither this folder nor an installed nfnets can be imported.
READER = """
import sys

class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] == 'nfnets':
      raise ImportError(f'{name} is not for exported networks')

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import exported, numpy
network = exported.load(sys.argv[2])
numpy.save(sys.argv[3], network.run(numpy.load(sys.argv[4])))
"""


def make(key, **data):
  """Random weights and batch statistics: every leaf affects the logits."""
  model, overrides = NETWORKS[key]
  params, shapes = files.shapes(model, 5, **overrides)
  random = np.random.RandomState(1)
  state = {
    module: {
      name: random.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
      for name, leaf in leaves.items()
    }
    for module, leaves in shapes.items()
  }
  params = filling.fill(params)
  return weights.Weights(params, state, model, 5, overrides, data)


def outputs(kept, images):
  """The oracle: the network itself, its weights not folded."""
  network = models.create(kept.model, kept.num_classes, **kept.overrides)
  apply = jax.jit(network.apply, static_argnums=4)
  out, _ = apply(kept.params, kept.state, None, images, False)
  return np.asarray(out['logits'])


@pytest.mark.parametrize('form', FORMATS)
def test_a_file_runs_where_nfnets_cannot_be_imported(form, tmp_path):
  names = ['ant', 'bee', 'cat', 'dog', 'eel']
  kept = make('cifar nf', class_names=names, mean=[1, 2, 3], std=[4, 5, 6])
  written = export.write(tmp_path / 'out', kept, form, image_size=21)
  assert written.error < 1e-4
  assert written.size == (tmp_path / 'out').stat().st_size
  assert [path.name for path in tmp_path.iterdir()] == ['out']
  images = filling.images((2, 21, 21, 3))
  np.save(tmp_path / 'images.npy', images)
  (tmp_path / 'elsewhere').mkdir()
  shutil.copy(exported.__file__, tmp_path / 'elsewhere')
  paths = ['elsewhere', 'out', 'logits.npy', 'images.npy']
  command = [sys.executable, '-I', '-c', READER]
  subprocess.run([*command, *paths], cwd=tmp_path, check=True)
  wanted = outputs(kept, images)
  found = np.load(tmp_path / 'logits.npy')
  assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
  told = exported.load(str(tmp_path / 'out')).description
  assert told.pop('platforms', None) in (['cpu', 'cuda', 'tpu'], None)
  assert told == export.describe(weights.fold_weights(kept), None, 21)
  assert told['is_folded'] and told['class_names'] == names
  assert told['input']['shape'] == ['batch', 21, 21, 3]
  assert told['preprocessing']['std'] == [4, 5, 6]


def test_a_network_of_one_channel_takes_images_of_one_channel(tmp_path):
  kept = hub.with_channels(make('cifar nf'), 1)
  export.write(tmp_path / 'out', kept, 'stablehlo', image_size=20)
  network = exported.load(str(tmp_path / 'out'))
  assert network.description['input']['shape'] == ['batch', 20, 20, 1]


def test_the_weights_inside_are_a_file_that_the_other_commands_read(tmp_path):
  export.write(tmp_path / 'out', make('cifar nf'), 'stablehlo', batch=2)
  with zipfile.ZipFile(tmp_path / 'out') as file:
    file.extract('weights.safetensors', tmp_path)
  assert weights.load(tmp_path / 'weights.safetensors').overrides['folded']


@pytest.mark.slow
@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize(
  'key, size, batch',
  [(key, 45, None) for key in NETWORKS]
  # Where even sides are padded in their own way.
  + [(key, 32, 2) for key in NETWORKS if 'timm' in key],
)
def test_every_family_is_written_at_even_and_odd_sizes(
  form, key, size, batch, tmp_path
):
  kept, path = make(key), tmp_path / 'out'
  export.write(path, kept, form, batch=batch, image_size=size)
  images = filling.images((batch or 4, size, size, 3))
  wanted = outputs(kept, images)
  found = exported.load(str(path)).run(images)
  assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize('scale', [1.001, np.nan])
def test_a_file_of_other_logits_is_never_left(scale, tmp_path, monkeypatch):
  kept, path = make('cifar nf'), tmp_path / 'out'
  path.write_text('what was there')
  # A head that is off by a thousandth, or no number at all.
  head = kept.params['CIFAR_ResNet/~/linear']
  wrong = {'CIFAR_ResNet/~/linear': {k: scale * x for k, x in head.items()}}
  right = export.folding.fold_weights
  monkeypatch.setattr(
    export.folding,
    'fold_weights',
    lambda kept: right(kept._replace(params={**kept.params, **wrong})),
  )
  with pytest.raises(ValueError, match='not written: .* differ') as error:
    export.write(path, kept, 'stablehlo', image_size=9)
  assert '\n' not in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == ['out']
  assert path.read_text() == 'what was there'


@pytest.mark.parametrize('why', ['not a zip file', 'cannot serialize'])
def test_a_file_that_does_not_run_is_never_left(why, tmp_path, monkeypatch):
  def fail(path, *rest):
    path.write_bytes(b'PK\x03\x04 and nothing else')
    if why == 'cannot serialize':
      raise ValueError(f'{why}:\n' + 'module {}\n' * 10_000)

  monkeypatch.setattr(export, '_write_stablehlo', fail)
  with pytest.raises(ValueError, match=f'20 as stable.*{why}') as error:
    export.write(tmp_path / 'out', make('cifar nf'), 'stablehlo')
  assert '\n' not in str(error.value) and len(str(error.value)) < 700
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  'arguments, words',
  [
    ({'format': 'torch'}, "format='torch': use stablehlo or onnx"),
    ({'batch': 0}, 'batch=0: must be at least 1'),
    ({'platforms': ['cpu', 'npu']}, "platform 'npu' is none of cpu, cuda"),
    ({'platforms': ['tpu']}, 'platforms must include cpu'),
  ],
)
def test_an_invalid_argument_is_refused(arguments, words, tmp_path):
  arguments = {'format': 'stablehlo'} | arguments
  with pytest.raises(ValueError, match=words):
    export.write(tmp_path / 'out', make('cifar nf'), **arguments)


@needs_onnx
def test_what_an_onnx_file_cannot_hold_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(export, '_PROTOBUF', 1000)
  with pytest.raises(ValueError, match='export as stablehlo'):
    export.write(tmp_path / 'out', make('cifar nf'), 'onnx')


def test_an_unknown_custom_call_is_refused_by_name(tmp_path):
  """XLA would crash the process."""

  def program(x):
    return jax.ffi.ffi_call('backdoor', jax.ShapeDtypeStruct((2,), 'f4'))(x)

  check = jax.export.DisabledSafetyCheck.custom_call('backdoor')
  lower = jax.export.export(jax.jit(program), disabled_checks=[check])
  made = lower(jax.ShapeDtypeStruct((2,), 'f4')).serialize()
  path = tmp_path / 'out'
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('network.json', '{}')
    file.writestr('network.stablehlo', bytes(made))
  with pytest.raises(ValueError, match="unknown custom call, 'backdoor'"):
    exported.load(str(path))


def test_a_network_without_a_folded_form_is_written(tmp_path, monkeypatch):
  """It standardizes its weights itself."""
  monkeypatch.setattr(export.folding, 'fold_if_possible', lambda x: x)
  kept = make('cifar nf')
  written = export.write(tmp_path / 'out', kept, 'stablehlo', image_size=9)
  assert written.error < 1e-4
  assert not exported.load(str(tmp_path / 'out')).description['is_folded']
