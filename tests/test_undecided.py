"""Verdicts of the CIFAR-10 study on what its runs can't tell."""

import importlib
import re

from invented import synthetic


def test_limits_at_one_end_of_the_rates_tried_are_not_compared():
  module = importlib.import_module('experiments.learning_rate')

  def judge(**values):
    def accuracy(row, seed):
      network, _, factor = re.match(r'(\w+)_b(\d+)_x(.+)', row).groups()
      return values[network](float(factor))

    return module.verdict(synthetic(module, 'cpu', accuracy))

  learns, stuck = lambda _: 0.7, lambda _: 0.1
  until = lambda limit: lambda factor: 0.7 if factor <= limit else 0.1
  word, sentence = judge(batch=learns, nf=learns, nf_agc=learns)
  assert word == 'undecided' and 'network (6.4 or more): undecided' in sentence
  assert judge(batch=stuck, nf=stuck, nf_agc=stuck)[0] == 'undecided'
  same = judge(batch=until(4), nf=until(4), nf_agc=until(4))[1]
  assert 'network (0.4): no' in same and 'takes as much (0.4): yes' in same
  assert judge(batch=learns, nf=until(4), nf_agc=learns)[0] == 'undecided'
  assert judge(batch=learns, nf=until(4), nf_agc=until(4))[0] == 'mixed'


def test_a_best_threshold_at_either_end_is_told_and_not_compared():
  module = importlib.import_module('experiments.clipping_threshold')

  def judge(best):
    accuracy = lambda row, _: 0.7 if row.split('_')[1] in best else 0.4
    found = synthetic(module, 'cpu', accuracy)
    for record in found:
      record['config']['num_steps'] = 500  # AGC's 1,000 are no matter here
    return module.verdict(found)

  word, sentence = judge({'t0.03'})
  assert word == 'undecided'
  assert 'rate (0.03 at rate x 1; 0.03 at rate x 4): undecided' in sentence
  told = 'the best may lie below the smallest tried, 0.03 (70.00; not clipped'
  assert sentence.count(told) == 2
  assert judge({'t3'})[0] == 'undecided'
  word, sentence = judge({'t0.3'})
  assert word == 'mixed' and 'may lie' not in sentence


def test_sam_is_undecided_where_single_runs_are_close():
  module = importlib.import_module('experiments.sam_cifar')
  values = {'none': 0.657, 'rho0.05_of100': 0.6188, 'rho0.05_of20': 0.6335}

  def judge(**changes):
    found = values | changes
    accuracy = lambda row, _: found.get(row, 0.6)
    return module.verdict(synthetic(module, 'cpu', accuracy))

  word, sentence = judge()
  assert word == 'undecided' and sentence.count(': undecided') == 2
  assert judge(none=0.5)[1].count(': yes') == 1
  assert judge(none=0.7)[1].count(': no') == 1


def test_about_15_points_needs_both_bounds_beyond_what_seeds_explain():
  module = importlib.import_module('experiments.nf_resnet50_vs_resnet50')

  def judge(best):
    values = {'resnet_50': 0.5, 'nf_resnet_50': 0.4, 'nf_resnet_50_agc': best}
    return module.verdict(synthetic(module, 'cpu', lambda row, _: values[row]))

  assert judge(0.65)[0] == 'borne out'  # 10.0 and 20.0 are 5 points off
  assert judge(0.667)[0] == 'undecided'
  assert judge(0.78)[0] == 'mixed'
  assert judge(0.35)[0] == 'not borne out'
