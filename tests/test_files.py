"""Weights of every kind are read by one call and survive a round trip."""

import json
import resource
import struct
import zipfile

import dill
import golden_lib
import haiku as hk
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from filling import fill

from nfnets import checkpoint, models, weights
from nfnets.models import network
from nfnets.weights import files, match, pictures, timm
from nfnets.workdir import RunFolder

SMALL = {'normalizer': 'nf', 'depths': (1, 1, 1)}


def small(num_classes=4, **data):
  """Weights of a whole, small network."""
  shapes, _ = files.shapes('cifar_resnet_20', num_classes, **SMALL)
  return weights.Weights(
    fill(shapes), {}, 'cifar_resnet_20', num_classes, SMALL, data
  )


@pytest.fixture(scope='module')
def regnet():
  """NF-RegNet-B0's parameters: the smallest network that timm has too."""
  return fill(files.shapes('timm/nf_regnet_b0', 3)[0])


def assert_same(found, wanted):
  found, wanted = match.flatten(found), match.flatten(wanted)
  assert found.keys() == wanted.keys()
  for path, leaf in wanted.items():
    assert found[path].shape == leaf.shape
    np.testing.assert_allclose(found[path], leaf, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('ending', ['.npz', '.safetensors'])
def test_files_of_ours_come_back_whole(ending, tmp_path, monkeypatch):
  wanted = small(class_names=list('abcd'), mean=[1.5, 2.5, 3.5])
  wanted = wanted._replace(state={'net/~/bn': {'n': np.array(3, np.int32)}})
  path = tmp_path / f'weights{ending}'
  weights.write(path, wanted)
  monkeypatch.setenv('HOME', str(tmp_path))
  found = weights.read(f'~/{path.name}')
  assert_same(found.params, wanted.params)
  assert_same(found.state, wanted.state)
  assert found[2:] == wanted[2:]


@pytest.mark.parametrize('ending', ['.npz', '.safetensors'])
def test_bfloat16_weights_come_back_with_their_values(ending, tmp_path):
  params = {'net/~/conv': {'w': jnp.arange(6, dtype=jnp.bfloat16) / 4}}
  path = tmp_path / f'weights{ending}'
  weights.write(path, small()._replace(params=params))
  found = weights.read(path).params['net/~/conv']['w']
  assert found.dtype == {'.npz': np.float32}.get(ending, jnp.bfloat16)
  np.testing.assert_array_equal(found, params['net/~/conv']['w'])


@pytest.mark.parametrize('ending', ['.npz', '.safetensors'])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(ending, tmp_path):
  path = tmp_path / f'weights{ending}'
  weights.write(path, small())
  whole = path.read_bytes()
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, old[1]))
  try:
    with pytest.raises(OSError, match=f'{path} could not be .*too large'):
      weights.write(path, small())
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
  assert path.read_bytes() == whole
  assert list(tmp_path.iterdir()) == [path]


def test_non_contiguous_arrays_are_written_by_value(tmp_path):
  params = {'net': {'w': np.arange(6.0).reshape(2, 3).T}}
  files.write(tmp_path / 'w.safetensors', files.Weights(params, {}))
  assert_same(weights.read(tmp_path / 'w.safetensors').params, params)


def test_a_published_pickle_is_read_whatever_wraps_it(tmp_path):
  regnet = fill(files.shapes('nf_regnet_b0', 3)[0])
  path = tmp_path / 'F0_haiku.npz'
  frozen = hk.data_structures.to_immutable_dict(regnet)
  for content in (regnet, frozen, {'params': regnet}, (regnet, {})):
    path.write_bytes(dill.dumps(content, protocol=3))
    assert_same(files.read_published(path).params, regnet)
  found = weights.read(path)
  assert (found.model, found.num_classes) == ('nf_regnet_b0', 3)


@pytest.mark.parametrize(
  'golden, model',
  [
    ('nfnet_f0', 'nfnet_f0'),
    ('nf_resnet50', 'nf_resnet_50'),
    ('resnet50', 'resnet_50'),
    ('fixup_resnet50', 'fixup_resnet_50'),
  ],
)
def test_networks_are_identified_by_published_trees(golden, model):
  tree = golden_lib.load(golden)['tree']
  leaves = {p: np.broadcast_to(np.float32(0), s) for p, s in tree.items()}
  found = files.identify(files.Weights(match.unflatten(leaves), {}))
  assert (found.model, found.num_classes) == (model, 10)


def test_a_tree_of_no_known_network_stays_unnamed():
  other = files.Weights({'Other/~/linear': {'b': np.zeros(3)}}, {})
  assert files.identify(other).model is None


def write_timm(path, params, **changes):
  arrays = timm.to_timm(params, 'nf_regnet_b0')
  arrays = {f'{changes.get("prefix", "")}{k}': x for k, x in arrays.items()}
  safetensors.numpy.save_file(arrays, path)


@pytest.mark.parametrize('prefix', ['', 'module.', 'module._orig_mod.'])
def test_timms_file_is_recognised_by_its_names(tmp_path, regnet, prefix):
  path = tmp_path / 'model.safetensors'
  write_timm(path, regnet, prefix=prefix)
  found = weights.load(path)
  assert found.model == 'timm/nf_regnet_b0' and not found.overrides
  # The same function from other numbers: its skip gains are in the weights.
  arrays = timm.to_timm(regnet, 'nf_regnet_b0')
  assert_same(found.params, timm.from_timm(arrays, 'nf_regnet_b0'))
  assert pictures.image_size(found) == 256


@pytest.mark.parametrize('is_timm', [True, False])
def test_a_file_without_a_head_is_a_backbone(tmp_path, regnet, is_timm):
  path = tmp_path / 'model.safetensors'
  if is_timm:
    write_timm(path, match.without_head(regnet))
  else:
    body = match.without_head(regnet)
    kept = files.Weights(body, {}, 'timm/nf_regnet_b0', 0)
    files.write(path, kept)
  found = weights.load(path)
  assert found.num_classes == 0
  assert not any(map(match.is_head, match.flatten(found.params)))
  with pytest.raises(ValueError, match='a backbone without a head'):
    files.require_head(found)


def write_run(folder, config, state):
  RunFolder(folder).write_config(config.to_dict())
  checkpoints = checkpoint.Checkpoints(folder)
  checkpoints.save(0, state)
  checkpoints.wait()
  checkpoints.close()


@pytest.fixture
def run(tmp_path):
  """A run's folder, its raw parameters and their average."""
  config = tiny.config(ema__mode='warmup')
  _, _, state = tiny.network_and_state(config)
  average = {
    module: {name: np.float32(leaf + 1) for name, leaf in leaves.items()}
    for module, leaves in state.params.items()
  }
  write_run(tmp_path, config, state._replace(ema_params=average))
  return tmp_path, state.params, average


def test_a_run_over_stacks_gives_public_paths(tmp_path):
  values = {'model__depths': (1, 3, 1), 'ema__mode': 'none'}
  scanned = tiny.config(model__scan=True, **values)
  _, _, state = tiny.network_and_state(scanned)
  assert any(network.is_stacked(path) for path in state.params)
  write_run(tmp_path / 'new', scanned, state)
  params = weights.unstack(state.params)
  # As older versions wrote it.
  write_run(tmp_path / 'old', scanned, state._replace(params=params))
  for name in ('new', 'old'):
    assert_same(weights.load(tmp_path / name).params, params)
  weights.write(tmp_path / 'w.npz', weights.load(tmp_path / 'new'))
  assert_same(weights.load(tmp_path / 'w.npz').params, params)


# Arguments that a recipe may set, in every form: names, numbers, tuples, pairs.
GIVEN = {
  'depths': (1, 2, 1, 1),
  'widths': (8, 8, 16, 16),
  'stem': ((8, 2), (4, 2)),
  'activation': 'relu',
  'attention': 'eca',
  'alpha': 0.3,
  'group_size': 4,
  'skipinit_gain': None,
  'use_two_convs': False,
  'scan': True,
}


def test_a_run_keeps_every_argument_of_its_network(tmp_path, run_script):
  values = {f'model__{key}': value for key, value in GIVEN.items()}
  config = tiny.config(model__name='nfnet_f0', ema__mode='none', **values)
  net, _, state = tiny.network_and_state(config)
  write_run(tmp_path / 'run', config, state)
  images = np.ones((2, 32, 32, 3), np.float32)
  apply = lambda net, *variables: net.apply(*variables, None, images, False)[0]
  wanted = apply(net, state.params, state.state)['logits']
  path = tmp_path / 'w.safetensors'
  done = run_script('scripts.convert', f'{tmp_path}/run', f'{path}')
  assert done.code == 0, done.stderr
  done = run_script('scripts.evaluate', f'--workdir={tmp_path}/run')
  assert done.code == 0, done.stderr
  assert weights.of_run(tmp_path / 'run', config)
  for source in (tmp_path / 'run', path):
    found = weights.load(source)
    assert {key: found.overrides[key] for key in GIVEN} == GIVEN
    net = models.create(
      found.model, found.num_classes, **{**found.overrides, 'scan': False}
    )
    logits = apply(net, found.params, found.state)['logits']
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)


def test_a_run_gives_its_average_unless_the_last_weights_are_requested(run):
  path, raw, average = run
  found = weights.load(path)
  assert_same(found.params, average)
  assert 'averaged' in found.note
  found = weights.load(path, averaged=False)
  assert 'not averaged' in found.note
  assert_same(found.params, raw)
  assert found.data['class_names'] == [str(i) for i in range(10)]
  with pytest.raises(ValueError, match='another network: config.model.'):
    weights.of_run(path, tiny.config(model__alpha=0.3))


def test_a_runs_loss_is_kept_in_a_file(run):
  folder = RunFolder(run[0])
  folder.write_config(folder.read_config() | {'loss': 'sigmoid'})
  found = weights.load(folder.path)
  weights.write(folder.path / 'w.npz', found)
  for one in (found, weights.load(folder.path / 'w.npz')):
    assert one.data['loss'] == 'sigmoid'


def test_a_run_is_evaluated_as_it_was_trained(run, run_script):
  done = run_script('scripts.evaluate', f'--workdir={run[0]}', '--json')
  assert done.code == 0, done.stderr
  found = json.loads(done.stdout)
  assert found['eval/count'] == found['eval_ema/count'] == 359
  assert 0 < found['eval/loss'] != found['eval_ema/loss']
  weights.write(run[0] / 'w.npz', weights.load(run[0], averaged=False))
  flags = f'--weights={run[0]}/w.npz', f'--workdir={run[0]}'
  assert run_script('scripts.evaluate', *flags).code == 2
  done = run_script('scripts.evaluate', flags[0])
  assert done.code == 2 and 'set --config' in done.stderr


def test_a_runs_classes_are_those_that_it_was_trained_on(run, run_script):
  path, *_ = run
  folder = RunFolder(path)
  order = [str(i) for i in reversed(range(10))]
  folder.write_class_names(order)  # other than the digits' own, '0' to '9'
  assert weights.load(path).data['class_names'] == order
  with pytest.raises(ValueError, match="other classes .* '9', not '0'"):
    folder.check_class_names(reversed(order))
  folder.write_class_names(['zero', *order[1:]])
  done = run_script('scripts.evaluate', f'--workdir={path}')
  assert done.code == 2 and 'the weights have other classes' in done.stderr
  (path / 'class_names.json').write_text('{}')
  with pytest.raises(ValueError, match='class_names.json is damaged'):
    weights.load(path)


def test_classes_are_matched_by_name_in_any_order():
  kept = small(class_names=['ant', 'bee', 'cat', 'dog'])
  found = files.with_classes(kept, ['dog', 'ant', 'bee', 'cat'])
  head = 'CIFAR_ResNet/~/linear'
  for leaf in ('w', 'b'):
    np.testing.assert_array_equal(
      found.params[head][leaf],
      np.roll(kept.params[head][leaf], 1, axis=-1),
    )
  assert found.data['class_names'] == ['dog', 'ant', 'bee', 'cat']
  assert_same(files.with_classes(small(), list('wxyz')).params, kept.params)
  twice = small(class_names=['crane', 'ant', 'crane', 'bee'])  # as in ImageNet
  same = files.with_classes(twice, twice.data['class_names'])
  assert_same(same.params, twice.params)
  with pytest.raises(ValueError, match="other classes .*: 'cat', not 'chat'"):
    files.with_classes(kept, ['ant', 'bee', 'chat', 'dog'])
  with pytest.raises(ValueError, match='4 classes, the data 2'):
    files.with_classes(kept, ['ant', 'bee'])


def npy(shape, data=b'', dtype='<f4'):
  """A .npy whose header may announce more than its data."""
  header = {'descr': dtype, 'fortran_order': False, 'shape': shape}
  text = f'{header}\n'.encode()
  return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text + data


def npz(path, name='net/w', method=zipfile.ZIP_STORED, data=b''):
  with zipfile.ZipFile(path, 'w', method) as file:
    file.writestr(f'{name}.npy', data)


def metadata(path, **changes):
  told = {'model': 'cifar_resnet_20', 'num_classes': 4, 'overrides': SMALL}
  text = json.dumps(told | changes)
  arrays = files.leaves(small())
  safetensors.numpy.save_file(arrays, path, {'nfnets': text})


def pickled(path, value):
  path.write_bytes(dill.dumps(value))


HOSTILE = {
  'npz announces 4 GiB': lambda p: npz(p, data=npy((2**30,))),
  'npz of zeros, deflated': lambda p: npz(
    p, method=zipfile.ZIP_DEFLATED, data=npy((2**20,), bytes(2**22))
  ),
  'npz of objects': lambda p: np.savez(p, **{'n/w': np.array([{}], object)}),
  'npz with a damaged part': lambda p: npz(p, data=b'\x93NUMPY\x01\x00'),
  'npz of nothing': lambda p: npz(p),
  'a README': lambda p: p.write_text('# Hello\n' * 99),
  'an empty file': lambda p: p.write_bytes(b''),
  'a function': lambda p: pickled(p, print),
  'a list': lambda p: pickled(p, [1]),
  'no tree': lambda p: pickled(p, {'a': np.zeros(2)}),
  'no arrays': lambda p: pickled(p, {'a': {'b': 3}}),
  'nothing': lambda p: pickled(p, {}),
  'keys of numbers': lambda p: pickled(p, {1: {'w': np.zeros(2)}}),
  'a long message': lambda p: pickled(p, np.zeros(10**6)),
  'depths': lambda p: metadata(p, overrides={'depths': [10**6, 1, 1]}),
  'override': lambda p: metadata(p, overrides=SMALL | {'alpha': {}}),
  'unknown override': lambda p: metadata(p, overrides={'speed': 'x' * 10**6}),
  **{
    f'a stem of {what}': lambda p, stem=stem: metadata(
      p, model='nfnet_f0', overrides={'stem': stem}
    )
    for what, stem in {
      'lists too deep': [[[16, 2]]],
      'too many pairs': [[16, 2]] * 100,
      'too long lists': [[16] * 100],
      'infinities': [[16, float('inf')]],
      'an object': [[16, {}]],
      'no pairs': [[], []],
      'words': [['a', 'b']],
      'strides of 0': [[16, 0]] * 2,
    }.items()
  },
  'model': lambda p: metadata(p, model=['nfnet_f0']),
  'unknown model': lambda p: metadata(p, model='nfnet_f99'),
  'classes': lambda p: metadata(p, num_classes=-1),
  'names': lambda p: metadata(p, data={'class_names': ['a']}),
  'loss': lambda p: metadata(p, data={'loss': 'hinge'}),
  'size': lambda p: metadata(p, data={'eval_image_size': 10**9}),
  'another size': lambda p: metadata(p, data={'eval_image_size': 4097}),
  **{
    f'preparation {how!r}': lambda p, how=how: metadata(
      p, data={'eval_preprocessing': how}
    )
    for how in ('nosuch', 5, 'border_0.9', 'squash_0.0001', 'center_2.0')
  },
  'statistics': lambda p: metadata(p, data={'mean': [0, float('nan'), 0]}),
  'deviations of 0': lambda p: metadata(p, data={'std': [0.0, 0.0, 0.0]}),
  'a huge mean': lambda p: metadata(p, data={'mean': [1e308, 0, 0]}),
  'a huge alpha': lambda p: metadata(p, overrides=SMALL | {'alpha': 1e308}),
  'no alpha': lambda p: metadata(p, overrides=SMALL | {'alpha': float('nan')}),
  'no object': lambda p: metadata(p, key=3),
}


@pytest.mark.filterwarnings('ignore::PendingDeprecationWarning')
@pytest.mark.parametrize('name', HOSTILE)
def test_what_is_damaged_or_hostile_is_one_line_with_its_path(name, tmp_path):
  path = tmp_path / 'file'
  HOSTILE[name](path)
  written = next(tmp_path.iterdir())  # np.savez adds its ending
  ours = written.read_bytes()[8:9] == b'{'
  path = written.rename(written.with_suffix('.safetensors' if ours else '.npz'))
  with pytest.raises(ValueError, match='file') as error:
    weights.load(path)
  text = str(error.value)
  assert str(path) in text and '\n' not in text and len(text) < 1000


def test_a_leaf_that_is_no_finite_number_is_refused_by_name(tmp_path):
  kept = small()
  kept.params['CIFAR_ResNet/~/linear']['b'][2] = np.nan
  weights.write(tmp_path / 'w.npz', kept)
  with pytest.raises(ValueError, match='linear/b has values .* not finite'):
    weights.load(tmp_path / 'w.npz')


@pytest.mark.parametrize('dtype', [np.complex64, np.int32, bool])
def test_a_leaf_that_holds_no_real_numbers_is_refused_by_name(dtype, tmp_path):
  kept = small()
  linear = kept.params['CIFAR_ResNet/~/linear']
  linear['b'] = linear['b'].astype(dtype)
  weights.write(tmp_path / 'w.npz', kept)
  with pytest.raises(ValueError, match='linear/b holds .* not floating-point'):
    weights.load(tmp_path / 'w.npz')


def test_a_variance_is_finite_and_not_negative(tmp_path):
  overrides = SMALL | {'normalizer': 'batch'}
  shapes, state = files.shapes('cifar_resnet_20', 4, **overrides)
  state = {
    k: {n: np.ones(x.shape) for n, x in m.items()} for k, m in state.items()
  }
  kept = weights.Weights(fill(shapes), state, 'cifar_resnet_20', 4, overrides)
  files.require_whole(kept)
  variance = next(m for k, m in state.items() if k.endswith('var_ema'))
  for value, why in ((np.nan, 'not finite'), (-0.1, 'negative variance')):
    variance['average'][0] = value
    with pytest.raises(ValueError, match=f'var_ema/average .*{why}'):
      files.require_whole(kept)


def test_missing_files_and_unknown_kinds_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='nothing: no such file'):
    weights.read(tmp_path / 'nothing')
  with pytest.raises(ValueError, match="not a run's folder"):
    weights.read(tmp_path)
  with pytest.raises(ValueError, match='neither a file nor a folder'):
    weights.read('/dev/zero')
  with pytest.raises(ValueError, match=r'write \.safetensors or \.npz'):
    files.write(tmp_path / 'w.pkl', small())
