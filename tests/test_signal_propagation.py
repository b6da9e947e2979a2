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


def record(row, signals, image_size=512):
  config = experiment.of_model('resnet_600', image_size).to_dict()
  return {'row': row, 'signals': signals, 'config': config}


def test_the_report_sets_the_paper_s_numbers_beside_ours(tmp_path):
  records = [record('nf', rows(3, 1.12)), record('bn_act', rows(3, None))]
  lines = experiment.report(records, tmp_path).splitlines()
  first = next(line for line in lines if line.startswith('| BN, ReLU'))
  for cell in ('1 (13.7 [D])', '3 (35 [D])', '0.7 (0.68 [D])'):
    assert cell in first
  text = '\n'.join(lines)
  assert "[D] digitised from the paper's figure." in text
  assert 'BN, ReLU, conv, stage 1, average channel variance -91.4 %' in text
  assert 'on 4 unit-normal images of 512 pixels](signals.png)' in text
  assert sum(line.startswith('| normalizer-free') for line in lines) == 4
  assert (tmp_path / 'signals.png').stat().st_size > 10_000


def saw_tooth(step, squared_mean=(0.0,) * 4, branch=1.0, expected=None):
  return [
    {
      'stage': stage + 1,
      'position': position,
      'squared_mean': squared_mean[stage],
      'variance': 1 + step * (position + 1),
      'branch_variance': branch,
      'expected_variance': expected and 1 + expected * (position + 1),
    }
    for stage in range(4)
    for position in range(50)
  ]


def as_claimed():
  means = experiment.PAPER['bn_act']['squared_mean']
  return {
    'nf': saw_tooth(0.04, expected=0.04),
    'act_bn': saw_tooth(1.0),
    'bn_act': saw_tooth(0.68, means, 0.68),
  }


def judged(signals):
  return experiment.verdict([record(row, s) for row, s in signals.items()])


def test_the_verdict_needs_the_formula_and_the_batch_normalized_networks():
  assert judged(as_claimed())[0] == 'borne out'
  for missing in ('nf', 'act_bn', 'bn_act'):
    rest = {row: s for row, s in as_claimed().items() if row != missing}
    assert judged(rest) == ('not run', f'{missing}: no record yet.')
  assert judged(as_claimed() | {'nf': saw_tooth(0.08, expected=0.04)})[0] == (
    'mixed'
  )
  flat = as_claimed()
  for row in flat['nf']:
    row['variance'] = row['expected_variance'] = 3.0
  word, why = judged(flat)
  assert word == 'mixed' and 'starts again at every stage: no' in why


def test_records_of_other_image_sizes_are_not_held_against_the_figure():
  records = [record(row, s) for row, s in as_claimed().items()]
  other = record('cifar_resnet_20', saw_tooth(1.0), 32)  # judges nothing
  assert experiment.verdict([*records, other])[0] == 'borne out'
  records[0] = record('nf', records[0]['signals'], 128)
  word, why = experiment.verdict(records)
  assert word == 'not run' and 'Not all are at 512 pixels' in why


def test_the_mean_without_normalization_is_told_from_its_record(tmp_path):
  records = [record(row, s) for row, s in as_claimed().items()]
  told = 'With He init. the squared mean is'
  assert told not in experiment.report(records, tmp_path)
  he = saw_tooth(1.0)
  for block in he:
    block |= {'variance': 2.0, 'squared_mean': 5.0}
  text = experiment.report([*records, record('he', he)], tmp_path)
  assert f'{told} 2.5, 2.5, 2.5, 2.5 times the variance.' in text


@pytest.mark.parametrize(
  ('first', 'last', 'word'),
  [(1.2, 1.0, 'borne out'), (1.3, 1.0, 'mixed'), (1.0, 1.12, 'mixed')],
)
def test_a_squared_mean_may_differ_by_what_two_draws_do(first, last, word):
  means = list(experiment.PAPER['bn_act']['squared_mean'])
  means[0], means[3] = first * means[0], last * means[3]
  off = as_claimed() | {'bn_act': saw_tooth(0.68, means, 0.68)}
  assert judged(off)[0] == word


def test_a_batch_normalized_branch_has_to_be_the_figure_s():
  word, why = judged(as_claimed() | {'act_bn': saw_tooth(1.0, branch=1.1)})
  assert word == 'mixed'
  assert 'ReLU, BN, conv, stage 1, residual branch variance +10.0 %' in why


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
