"""The experiment: its runs, its table against the paper, its plot."""

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


def test_the_report_sets_the_paper_s_numbers_beside_ours():
  files = experiment.report({'bn_act': rows(3, None), 'nf': rows(3, 1.12)})
  lines = files['table.md'].splitlines()
  first = next(line for line in lines if line.startswith('| BN, ReLU'))
  assert '1 (13.7)' in first and '3 (35)' in first and '0.7 (0.68)' in first
  assert sum('normalizer-free' in line for line in lines) == 4
  assert len(files['plot.png'].axes) == 3


def test_any_model_can_be_measured():
  config = experiment.of_model('cifar_resnet_20', image_size=32)
  measured = experiment.measure(config)
  assert len(measured) == 9
  assert experiment.report({'cifar_resnet_20': measured})['table.md']
