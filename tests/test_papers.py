"""The papers' experiments: published numbers, costs, scale 'cifar', checks."""

import pytest
from invented import record

from experiments import (
  costs,
  figure_batch_size,
  figure_clipping,
  sam_imagenet,
  section_where_to_clip,
  signal_propagation,
  study,
  table_ablation,
  table_depth,
  table_imagenet,
  table_regnet,
)
from nfnets.analysis import counts


def answers(module, top_1):
  """What each check says of two seeds of rows with accuracies in %.

  A row's accuracy may be 'diverged'; a check lacks a row where it says 'not
  run'.
  """
  rows = module.EXPERIMENT.gather([
    record(row, 0, seed, status='diverged')
    if value == 'diverged'
    else record(row, value / 100, seed)
    for row, value in top_1.items()
    for seed in (0, 1)
  ])[study.FULL]  # fmt: skip
  found = []
  for check in module.EXPERIMENT.checks.values():
    try:
      found.append(check(rows))
    except study.NotRun:
      found.append('not run')
  return found


@pytest.mark.parametrize(
  ('module', 'run', 'facts'),
  [
    (figure_batch_size, 'nf_agc_200_bs512', {
      'model.name': 'nf_resnet_200', 'batch_size': 512, 'learning_rate': 0.2,
      'optimizer.clipping': 0.01, 'num_epochs': 90.0,
    }),
    (figure_clipping, 'bs4096_clip0.16@cifar', {
      'batch_size': 64, 'learning_rate': 0.2, 'optimizer.clipping': 2.56,
      'model.depths': (1, 1, 1, 1), 'num_steps': 1015,
    }),
    (table_ablation, 'f0_baseline@cifar', {
      'model.widths': (32, 64, 128, 256), 'model.depths': (1, 1, 3, 2),
      'data.name': 'cifar10', 'schedule.warmup_steps': 50,
    }),
    (table_ablation, 'f1_randaugment', {
      'augment.mix': 'mixup', 'augment.randaugment_layers': 4,
      'batch_size': 4096, 'learning_rate': 1.6, 'num_steps': 112_602,
    }),
    (table_regnet, 'b3', {
      'optimizer.weight_decay': 8e-5, 'data.train_image_size': 288,
      'augment.mix': 'mixup_cutmix', 'num_steps': 450_410,
    }),
  ],
)  # fmt: skip
def test_a_row_resolves_to_what_the_paper_says(module, run, facts):
  config = module.get_config(run).copy_and_resolve_references()
  for key, value in facts.items():
    found = config
    for part in key.split('.'):
      found = found[part]
    assert found == value, key


@pytest.mark.parametrize(
  'change',
  [{'data.train_image_size': 384}, {'model.depths': (3, 6, 18, 9)}],
)
def test_a_published_step_time_is_that_of_the_published_size_alone(change):
  config = table_imagenet.get_config('f0')
  assert costs.step_ms(config) == 73.3
  with config.unlocked():
    config.update_from_flattened_dict(change)
  assert costs.step_ms(config) is None


def test_chip_hours_of_the_paper_s_own_step_agree_both_ways():
  config = table_imagenet.get_config('f0')
  by_time = costs.chip_hours('f0', config)
  assert by_time == pytest.approx(147, abs=1)  # 2.3 hours of 64 chips
  macs = sum(part.macs for part in counts.parts('nfnet_f0', 192))
  flops = 6 * macs * 360 * 1_281_167
  by_flops = flops / (costs.CHIP_FLOPS * costs.UTILIZATION) / 3600
  assert by_flops == pytest.approx(by_time, rel=0.02)
  plain, sam = (
    costs.chip_hours('', sam_imagenet.get_config(f'resnet_50_100{suffix}'))
    for suffix in ('', '_sam')
  )
  assert sam == pytest.approx(2 * plain)


@pytest.mark.parametrize(
  'module', [figure_batch_size, table_ablation, table_depth, sam_imagenet]
)
def test_the_published_numbers_bear_their_claim_out(module):
  experiment = module.EXPERIMENT
  numbers = {row: experiment.published[row][0] for row in experiment.rows}
  top_1 = {
    row: 'diverged' if n == 'below 70' else n for row, n in numbers.items()
  }
  assert answers(module, top_1) == [True] * len(experiment.checks)


def test_a_curve_that_does_not_collapse_contradicts_figure_2a():
  flat = dict.fromkeys(figure_batch_size.EXPERIMENT.rows, 76.0)
  assert answers(figure_batch_size, flat) == [True, False, True, False, True]
  flat['nf_agc_50_bs4096'] = 'diverged'
  assert answers(figure_batch_size, flat)[2] is False
  del flat['bn_200_bs4096']
  assert answers(figure_batch_size, flat)[3:] == ['not run', 'not run']


def test_where_to_clip_wants_every_stage_and_not_the_head():
  top_1 = dict.fromkeys(section_where_to_clip.EXPERIMENT.rows, 70.0) | {
    'bs4096_all_but_head': 76.7,
    'bs4096_all_but_head_and_stem': 76.5,
    'bs1024_all_but_head': 77.0,
  }
  assert answers(section_where_to_clip, top_1) == [True] * 4
  top_1['bs4096_all_but_head_and_stage_3'] = 76.8
  assert answers(section_where_to_clip, top_1)[3] is False


def block(stage, position, step, mean=0.0, branch=1.0):
  variance = 1 + step * (position + 1)
  return {
    'stage': stage + 1,
    'variance': variance,
    'squared_mean': mean,
    'branch_variance': branch,
    'expected_variance': 1 + 0.04 * (position + 1),
  }


def signals(**changes):
  """Saw-teeth as claimed, or with another (step, branch variance)."""
  rows = {'nf': (0.04, 1.0), 'act_bn': (1.0, 1.0), 'bn_act': (0.68, 0.68)}
  means = signal_propagation.FIGURE['bn_act'][0]
  records = [
    {
      'row': row,
      'scale': study.FULL,
      'signals': [
        block(stage, j, step, means[stage] * (row == 'bn_act'), branch)
        for stage in range(4)
        for j in range(50)
      ],
    }
    for row, (step, branch) in {**rows, **changes}.items()
  ]
  rows = signal_propagation.EXPERIMENT.gather(records)[study.FULL]
  checks = signal_propagation.EXPERIMENT.checks.values()
  return [check(rows) for check in checks]


def test_signals_are_held_against_the_formula_and_paper_b_s_figure():
  assert signals() == [True] * 4
  assert signals(nf=(0.08, 1.0)) == [False, True, True, True]
  assert signals(act_bn=(0.0, 1.0)) == [True, True, False, False]
  assert signals(bn_act=(0.68, 0.8)) == [True, True, True, False]
