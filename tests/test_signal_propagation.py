"""The experiment: its runs, its table against the paper, its plot."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import signal_propagation as experiment


def rows(depth, expected):
  return [
    {
      'stage': stage,
      'position': position,
      'squared_mean': 0.5 * position,
      'variance': 1.0 + position,
      'branch_variance': 0.7,
      'expected_variance': expected,
    }
    for stage in (1, 2, 3, 4)
    for position in range(depth)
  ]


@pytest.mark.parametrize('run', experiment.RUNS)
def test_every_run_has_a_complete_config(run):
  config = experiment.get_config(run)
  assert config.model.name.endswith('_600')
  assert set(experiment.LABELS) == set(experiment.RUNS)


def test_an_unknown_run_is_one_clear_line():
  with pytest.raises(ValueError, match="no run 'bn': choose one of bn_act"):
    experiment.get_config('bn')


def record(row, signals):
  config = experiment.of_model('resnet_600').to_dict()
  return {'row': row, 'signals': signals, 'config': config}


def test_the_report_sets_the_paper_s_numbers_beside_ours(tmp_path):
  records = [record('nf', rows(3, 1.12)), record('bn_act', rows(3, None))]
  lines = experiment.report(records, tmp_path).splitlines()
  first = next(line for line in lines if line.startswith('| BN, ReLU'))
  assert '1 (13.7)' in first and '3 (35)' in first and '0.7 (0.68)' in first
  assert sum(line.startswith('| normalizer-free') for line in lines) == 4
  assert (tmp_path / 'signals.png').stat().st_size > 10_000


@pytest.mark.slow
def test_a_model_is_measured_from_the_command_line(tmp_path):
  said = subprocess.run(
    [
      sys.executable,
      '-m',
      'scripts.signal_propagation',
      '--model=cifar_resnet_20',
      '--image_size=16',
      f'--results={tmp_path}',
    ],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[1],
    env={**os.environ, 'XLA_FLAGS': '--xla_backend_optimization_level=0'},
  )
  assert said.returncode == 0, said.stderr
  folder = tmp_path / 'signal_propagation'
  read = json.loads((folder / 'runs/cifar_resnet_20_seed0.json').read_text())
  assert len(read['signals']) == 9
  assert (folder / 'signals.png').exists()
