"""What every family shares: stages, stacks, the head."""

import pytest

from nfnets.models import network


@pytest.mark.parametrize('rest', ['', '/~/conv0', '/~/conv0/w'])
def test_a_stacks_path_stands_for_its_blocks(rest):
  path = f'Net/stack_9_11/nf_block{rest}'
  assert network.is_stacked(path)
  assert network.members(path) == [
    f'Net/~/nf_block_{i}{rest}' for i in (9, 10, 11)
  ]


@pytest.mark.parametrize(
  'path', ['Net/~/nf_block_9/~/conv0', 'Net/stack_9', '']
)
def test_other_paths_stand_for_themselves(path):
  assert not network.is_stacked(path)
  assert network.members(path) == [path]
