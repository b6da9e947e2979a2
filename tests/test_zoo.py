"""The 36 networks of timm against numbers that timm computed, without torch.

tests/golden/make_timm.py made the numbers. One network of each kind is tested
by default; the others, of other depths and widths, are slow tests.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import entry, fill, images

import nfnets
from nfnets import models, optim, variants
from nfnets.analysis import counts
from nfnets.weights import export, files, folding, match, timm

GOLDEN = json.loads(
  (pathlib.Path(__file__).parent / 'golden' / 'timm.json').read_text()
)
KINDS = [name for name, row in GOLDEN.items() if 'gradient_norms' in row]


def some(*quick):
  """All names, of which the others are slow tests."""
  return [
    pytest.param(name, id=name, marks=[] if name in quick else pytest.mark.slow)
    for name in GOLDEN
  ]


def theirs(name):
  """timm's state_dict of ten classes, filled by the golden rule."""
  depths = GOLDEN[name]['depths']
  shapes, _ = files.shapes(f'timm/{name}', 10, depths=depths)
  zeros = {
    path: np.broadcast_to(np.float32(0), leaf.shape)
    for path, leaf in match.flatten(shapes).items()
  }
  entries = timm.to_timm(match.unflatten(zeros), name, depths)
  return {key: entry(key, x.shape) for key, x in entries.items()}


def network(name, **overrides):
  depths = GOLDEN[name]['depths']
  return models.create(f'timm/{name}', 10, depths=depths, **overrides)


def ours(arrays, name):
  return timm.from_timm(arrays, name, GOLDEN[name]['depths'])


def test_every_name_of_timms_module_is_known():
  assert len(GOLDEN) == 36
  for name in GOLDEN:
    row = variants.find(f'timm/{name}')
    is_ours = name in variants.NFNET or name in variants.NF_REGNET
    assert (variants.find(name) is row) != is_ours
    assert timm.name_of(f'timm/{name}').removeprefix('timm/') == name
  assert nfnets.list_models()[-1].startswith('timm/')


@pytest.mark.parametrize('name', some(*KINDS))
def test_parameters_are_as_many_as_timms(name):
  parts = counts.parts(f'timm/{name}')
  assert sum(part.params for part in parts) == GOLDEN[name]['parameters']


# nfnet_f0 takes 9 s; it is dm_nfnet_f0's without skip gains.
@pytest.mark.parametrize('name', some(*{*KINDS} - {'nfnet_f0'}))
def test_logits_and_feature_maps_are_timms(name):
  arrays = theirs(name)
  params = ours(arrays, name)
  apply = jax.jit(network(name, features=True).apply, static_argnums=4)
  output, _ = apply(params, {}, None, images((2, 64, 64, 3)), False)
  wanted = np.array(GOLDEN[name]['logits'])
  error = np.linalg.norm(output['logits'] - wanted) / np.linalg.norm(wanted)
  assert error < 1e-4
  assert list(output['features']) == [2, 4, 8, 16, 32]
  for stride, x in output['features'].items():
    told = GOLDEN[name]['features'][str(stride)]
    assert list(x.shape) == told['shape']
    norm = np.linalg.norm(x)
    assert abs(norm - told['norm']) < 1e-4 * norm
    limit = 1e-4 * norm / np.sqrt(x.size)
    np.testing.assert_allclose(
      x[1, 0, 0, :3], told['first'], atol=10 * limit, rtol=1e-4
    )
  # And back: exactly, or to rounding where gamma is moved there and back.
  rtol = 0 if name.startswith('dm_') else 3e-7
  back = timm.to_timm(params, name, GOLDEN[name]['depths'])
  assert back.keys() == arrays.keys()
  for key, x in arrays.items():
    np.testing.assert_allclose(back[key], x, rtol=rtol, atol=0)


@pytest.mark.parametrize(
  'name', [x for x in some('test_nfnet') if x.id in KINDS]
)
def test_gradients_in_training_are_timms(name):
  params = ours(theirs(name), name)
  net = network(name, drop_rate=0.0, stochdepth_rate=0.0)
  z = np.float32(np.random.RandomState(1).standard_normal((2, 10)))

  def loss(params):
    output, _ = net.apply(params, {}, None, images((2, 64, 64, 3)), True)
    return jnp.vdot(output['logits'], z)

  gradients = match.flatten(jax.jit(jax.grad(loss))(params))
  # ours = scale * timm's: a gradient takes the scale the other way round.
  ones = {key: np.ones_like(x) for key, x in theirs(name).items()}
  scale = match.flatten(ours(ones, name))
  scaled = {path: x * scale[path] ** 2 for path, x in gradients.items()}
  found = timm.to_timm(match.unflatten(scaled), name)
  total = np.sqrt(sum(x**2 for x in GOLDEN[name]['gradient_norms'].values()))
  for key, wanted in GOLDEN[name]['gradient_norms'].items():
    norm = np.linalg.norm(found[key])
    assert abs(norm - wanted) < 1e-4 * wanted + 1e-5 * total, key


@pytest.mark.parametrize('name', some(*KINDS))
def test_labels_leave_the_head_unclipped_and_gains_undecayed(name):
  params, _ = files.shapes(f'timm/{name}', 10, depths=(1, 1, 1, 1))
  for path, label in match.flatten(optim.labels(params)).items():
    is_weight = path.endswith('/w')
    is_head = is_weight and match.is_head(path)
    wanted = 'weight' if is_weight else 'gain_or_bias'
    assert label == ('head' if is_head else wanted), path


@pytest.mark.parametrize('name', some('eca_nfnet_l0', 'nf_seresnet26'))
def test_folding_changes_no_logits(name):
  kept = short(name)
  x = images((1, 32, 32, 3))
  wanted, found = (
    jax.jit(models.create(w.model, 10, **w.overrides).apply, static_argnums=4)(
      w.params, {}, None, x, False
    )[0]['logits']
    for w in (kept, folding.fold_weights(kept))
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('format', export.FORMATS)
@pytest.mark.parametrize('name', some('eca_nfnet_l0'))
def test_exported_files_give_the_networks_logits(name, format, tmp_path):
  if format == 'onnx':
    pytest.importorskip('onnxruntime')
  written = export.write(
    tmp_path / 'net', short(name), format, image_size=32, platforms=['cpu']
  )
  assert written.error < 1e-4


def short(name):
  """Weights of a network of one block per stage."""
  overrides = {'depths': [1, 1, 1, 1]}
  shapes, _ = files.shapes(f'timm/{name}', 10, **overrides)
  made = fill(shapes)
  return files.Weights(
    made, {}, variants.canonical(f'timm/{name}'), 10, overrides
  )
