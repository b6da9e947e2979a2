"""Ours and PyTorch's steps, in turn."""

import os
import pathlib
import sys

import pytest

from configs import cifar_resnet20
from nfnets.bench import versus
from nfnets.weights import certificate

ROOT = pathlib.Path(__file__).parents[1]
TORCH_STEP = str(ROOT / 'scripts' / 'torch_step.py')
WORKER = """
import json, sys
job = json.loads(sys.stdin.readline())
print(json.dumps({'versions': {'job': job['peer']}, 'compile': 'none'}),
      flush=True)
for line in sys.stdin:
  print(json.dumps({'seconds': 2 * json.loads(line)['seconds']}), flush=True)
"""


def test_both_sides_take_turns_and_the_ratio_is_of_each_round():
  result = versus.compare(
    'cifar_resnet_20', 1, 8, mode='eval', rounds=3, seconds=0.01,
    command=[sys.executable, '-c', WORKER],
  )  # fmt: skip
  assert result['peer_about']['versions'] == {'job': 'cifar_resnet'}
  assert result['theirs'] == [0.02] * 3 and len(result['ours']) == 3
  ratios = sorted(seconds / 0.02 for seconds in result['ours'])
  assert list(result['ratio'].values()) == pytest.approx(
    [ratios[1], ratios[0], ratios[2]]
  )


def test_the_same_network_of_timm_is_found():
  peer, overrides = versus.counterpart('nfnet_f3')
  assert peer == 'dm_nfnet_f3'
  assert overrides == {'activation': 'gelu_erf', 'ws_eps': 'timm'}
  assert versus.counterpart('nf_resnet_50')[0] == 'nf_resnet50'
  with pytest.raises(ValueError, match='fixup_resnet_50 has no counterpart'):
    versus.counterpart('fixup_resnet_50')


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_pytorchs_side_runs_where_it_is_installed(mode):
  python = certificate.python_with_timm()
  if python is None:
    pytest.skip('needs timm and PyTorch: name them by NFNETS_TIMM_PYTHON')
  result = versus.compare(
    'cifar_resnet_20', 2, 16, mode=mode, rounds=2, seconds=0.05,
    config=cifar_resnet20.get_config(), command=[python, TORCH_STEP],
  )  # fmt: skip
  assert result['ratio']['median'] > 0
  assert 'torch' in result['peer_about']['versions']


@pytest.mark.slow
def test_what_pytorch_refuses_is_one_line():
  python = os.environ.get('NFNETS_TIMM_PYTHON', sys.executable)
  with pytest.raises(ValueError, match='torch_step.py: .+'):
    versus.compare(
      'cifar_resnet_20', 2, 8, mode='eval', compiler='nonsense',
      command=[python, TORCH_STEP],
    )  # fmt: skip
