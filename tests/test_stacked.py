"""Stacked parameters are converted to public paths and back."""

import numpy as np
import pytest
from filling import fill

from nfnets import weights
from nfnets.models import network
from nfnets.weights import files


def test_stacking_is_undone_leaf_by_leaf():
  params = fill(files.shapes('nf_resnet_50', 3, depths=(1, 4, 1, 1))[0])
  stack = 'NF_ResNet/stack_2_4/nf_res_block'
  assert network.is_stacked(stack)
  inside = [
    path.removeprefix('NF_ResNet/~/nf_res_block_2')
    for path in params
    if path.startswith('NF_ResNet/~/nf_res_block_2')
  ]
  members = {m for rest in inside for m in network.members(stack + rest)}
  assert members < params.keys()
  like = {p: x for p, x in params.items() if p not in members}
  like |= {
    stack + rest: params[f'NF_ResNet/~/nf_res_block_2{rest}'] for rest in inside
  }
  stacked = weights.stack_like(params, like)
  assert stacked.keys() == like.keys()
  w = stacked[f'{stack}/~/conv0']['w']
  np.testing.assert_array_equal(
    w[1], params['NF_ResNet/~/nf_res_block_3/~/conv0']['w']
  )
  back = weights.unstack(stacked)
  assert back.keys() == params.keys()
  for module, leaves in params.items():
    for name, leaf in leaves.items():
      np.testing.assert_array_equal(back[module][name], leaf)
  del params['NF_ResNet/~/nf_res_block_3/~/conv0']
  with pytest.raises(ValueError, match='nf_res_block_3/~/conv0, a block of'):
    weights.stack_like(params, like)
