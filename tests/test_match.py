"""A mismatch of weights is reported in one line, with the differences."""

import numpy as np
import pytest

from nfnets.weights import match


def _network(blocks):
  tree = {'NFNet/~/linear': {'w': np.zeros((4, 2)), 'b': np.zeros(2)}}
  for index in range(blocks):
    block = f'NFNet/~/nf_block_{index}' if index else 'NFNet/~/nf_block'
    tree[block] = {'skip_gain': np.zeros(())}
    tree[f'{block}/~/conv0'] = {'w': np.zeros((1, 1, 4, 4))}
  return tree


def test_equal_trees_pass_and_flattening_reverses():
  tree = _network(3)
  match.require(tree, tree)
  assert match.unflatten(match.flatten(tree)).keys() == tree.keys()
  assert 'NFNet/~/nf_block_2/skip_gain' in match.flatten(tree)


def test_a_path_without_a_module_is_refused():
  with pytest.raises(ValueError, match="'weight' is not the path"):
    match.unflatten({'weight': np.zeros(1)})


def test_the_message_has_every_difference_and_groups_blocks():
  found, wanted = _network(6), _network(8)
  del found['NFNet/~/nf_block_1/~/conv0']
  found['NFNet/~/linear']['w'] = np.zeros((4, 3))
  found['NFNet/~/extra'] = {'w': np.zeros(5)}
  with pytest.raises(match.Mismatch) as error:
    match.require(found, wanted, 'file.npz')
  assert str(error.value) == (
    'file.npz: not the weights of this network (5 missing, 1 unexpected, 1 of '
    'another shape). '
    'missing: NFNet/~/nf_block_*/skip_gain () in 2 blocks; '
    'NFNet/~/nf_block_*/~/conv0/w (1, 1, 4, 4) in 3 blocks. '
    'unexpected: NFNet/~/extra/w (5,). '
    'shape: NFNet/~/linear/w (4, 3), needs (4, 2)'
  )


def test_the_first_and_single_blocks_keep_their_own_names():
  for gone, shown in (('nf_block', 'nf_block'), ('nf_block_3', 'nf_block_3')):
    found = _network(4)
    del found[f'NFNet/~/{gone}/~/conv0']
    with pytest.raises(match.Mismatch, match=f'missing: NFNet/~/{shown}/~/'):
      match.require(found, _network(4))
