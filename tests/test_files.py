"""Weights on disk come back as they were, and say what network they are."""

import dill
import golden_lib
import haiku as hk
import numpy as np
import pytest
import safetensors.numpy

from nfnets.weights import files, match, restricted

PARAMS = {
  'NFNet/~/stem_conv0': {
    'w': np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2),
    'gain': np.ones(2, np.float32),
  },
  'NFNet/~/nf_block': {'skip_gain': np.array(0.5, np.float32)},
}
STATE = {'NFNet/~/bn/~/mean_ema': {'counter': np.array(3, np.int32)}}


def _assert_same(found, wanted):
  found, wanted = match.flatten(found), match.flatten(wanted)
  assert found.keys() == wanted.keys()
  for path, leaf in wanted.items():
    assert found[path].shape == leaf.shape
    assert found[path].dtype == leaf.dtype
    np.testing.assert_array_equal(found[path], leaf)


@pytest.mark.parametrize('ending', ['.npz', '.safetensors'])
def test_files_of_ours_come_back_whole(ending, tmp_path):
  overrides = {'activation': 'gelu_erf', 'widths': [8, 8, 8, 8]}
  data = {'class_names': ['a', 'b'], 'mean': [1.5, 2.5, 3.5]}
  weights = files.Weights(PARAMS, STATE, 'nfnet_f0', 7, overrides, data)
  path = tmp_path / f'weights{ending}'
  files.write(path, weights)
  found = files.read(path)
  _assert_same(found.params, PARAMS)
  _assert_same(found.state, STATE)
  assert found[2:] == ('nfnet_f0', 7, overrides, data)


def test_non_contiguous_arrays_are_written_by_value(tmp_path):
  params = {'net': {'w': np.arange(6.0).reshape(2, 3).T}}
  files.write(tmp_path / 'w.safetensors', files.Weights(params, {}))
  _assert_same(files.read(tmp_path / 'w.safetensors').params, params)


@pytest.mark.parametrize(
  'content',
  [
    PARAMS,
    hk.data_structures.to_immutable_dict(PARAMS),
    {'params': PARAMS, 'state': {}},
    (PARAMS, {}),
  ],
)
def test_pickles_by_dill_are_read_whatever_wraps_them(content, tmp_path):
  path = tmp_path / 'F0_haiku.npz'
  path.write_bytes(dill.dumps(content))
  found = files.read(path)
  _assert_same(found.params, PARAMS)
  assert not found.state


@pytest.mark.parametrize(
  'content',
  [
    {'a': np.zeros(2)},
    {'a': {'b': 3}},
    [PARAMS],
    {},
    {1: {'w': np.zeros(2)}},
    'text',
  ],
)
def test_pickles_of_something_else_are_said_to_be_so(content, tmp_path):
  path = tmp_path / 'F0_haiku.npz'
  path.write_bytes(dill.dumps(content))
  with pytest.raises(ValueError, match=r'F0_haiku\.npz: no (weights|param)'):
    files.read(path)


def test_a_refusal_names_the_file(tmp_path):
  path = tmp_path / 'F0_haiku.npz'
  path.write_bytes(dill.dumps(print))
  with pytest.raises(restricted.Refused, match=r'F0_haiku.npz: .*print'):
    files.read(path)


def test_an_npz_of_objects_is_refused(tmp_path):
  path = tmp_path / 'w.npz'
  np.savez(path, **{'net/w': np.array([{}], object)})
  with pytest.raises(ValueError, match=r'w\.npz: no \.npz of plain arrays'):
    files.read(path)


def test_files_of_others_get_one_line(tmp_path):
  (tmp_path / 'bad.safetensors').write_bytes(b'not one')
  with pytest.raises(ValueError, match='no safetensors file'):
    files.read(tmp_path / 'bad.safetensors')
  safetensors.numpy.save_file(
    {'head.fc.weight': np.zeros((2, 2))}, tmp_path / 'timm.safetensors'
  )
  with pytest.raises(ValueError, match='--from=timm'):
    files.read(tmp_path / 'timm.safetensors')
  with pytest.raises(ValueError, match=r'write \.safetensors or \.npz'):
    files.write(tmp_path / 'w.pkl', files.Weights(PARAMS, {}))


@pytest.mark.parametrize(
  ('golden', 'model'),
  [
    ('nfnet_f0', 'nfnet_f0'),
    ('nf_resnet50', 'nf_resnet_50'),
    ('nf_regnet_b0', 'nf_regnet_b0'),
    ('resnet50', 'resnet_50'),
    ('skipinit_resnet50', 'skipinit_resnet_50'),
    ('fixup_resnet50', 'fixup_resnet_50'),
  ],
)
def test_published_trees_say_which_network_they_are(golden, model):
  tree = golden_lib.load(golden)['tree']
  leaves = {p: np.zeros(s, np.float32) for p, s in tree.items()}
  found = files.identify(files.Weights(match.unflatten(leaves), {}))
  assert (found.model, found.num_classes) == (model, 10)


def test_a_tree_of_no_known_network_stays_unnamed():
  assert files.identify(files.Weights(PARAMS, {})).model is None
  other = {'Other/~/linear': {'b': np.zeros(3)}}
  assert files.identify(files.Weights(other, {})).model is None
