"""What the CIFAR-10 study's verdicts say of records, and where they can't."""

import importlib
import math
import pathlib
import re

import numpy as np
import pytest
from invented import synthetic

from experiments import _cifar, _influence, _study
from nfnets import records

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
  'found, word',
  [
    ((True, True), 'borne out'),
    ((False, False), 'not borne out'),
    ((True, False, 'undecided'), 'mixed'),
    ((True, 'undecided'), 'undecided'),
    ((False, 'too short to tell'), 'undecided'),
    (('too short to tell',) * 2, 'too short to tell'),
  ],
)
def test_what_the_runs_cannot_tell_is_never_borne_out(found, word):
  assert _study.weigh(dict(zip('abc', found)))[0] == word


def test_three_ways_needs_all_arms_and_tells_what_is_known_so_far():
  module = importlib.import_module('experiments.resnet20_three_ways')
  claimed = {'batch': 0.9, 'none': 0.6, 'none_agc': 0.6, 'nf': 0.9}

  def judge(**changes):
    values = claimed | changes
    return module.verdict(
      synthetic(module, accuracy=lambda row, seed: values.get(row, 0.5))
    )

  assert judge()[0] == 'undecided'  # equal, but not to 1 point
  claimed['nf'] = 0.92
  assert judge()[0] == 'borne out'
  assert judge(none=0)[0] == 'borne out'  # AGC helps, not to 0.9
  assert judge(none_agc=0.95)[0] == 'mixed'
  assert judge(none=0.95, none_agc=0.95, nf=0.5)[0] == 'not borne out'
  said = judge(nf_norm=0.895)[1].partition('Beside the claim: ')[2]
  assert 'normalizer-free AGC costs accuracy (50.00 ± 0.00 against 92.' in said
  told = 'norm clipping costs accuracy (89.50 ± 0.00 against 92.00 ± 0.00)'
  assert f'{told}: undecided' in said
  some = [
    r
    for r in synthetic(module, accuracy=lambda row, _: claimed.get(row, 0.5))
    if r['row'] in ('batch', 'nf')
  ]
  word, sentence = module.verdict(some)
  assert word == 'not run' and 'none, none_agc: no record yet' in sentence
  assert 'So far: normalizer-free it is at most 1 point below' in sentence


def test_agc_costs_nothing_that_a_short_run_can_tell_of():
  module = importlib.import_module('experiments.resnet20_three_ways')
  found = synthetic(
    module, accuracy=lambda row, _: 0.3 if 'agc' in row else 0.7
  )
  for updates, short in ((1015, True), (39000, False)):
    for record in found:
      record['config']['num_steps'] = updates
    said = 'yes, in a run too short for its residual branches to open'
    assert (said in module.verdict(found)[1]) == short


def test_the_sweeps_claims_are_found_where_they_hold():
  module = importlib.import_module('experiments.agc_sweep')
  runs = module.RUNS

  def accuracy(row, seed):
    size = math.log2(runs[row]['batch_size'] / 16)
    lambda_ = math.log2(runs[row]['optimizer.clipping'] / 0.01) / 2
    best = 3 - size // 2  # small batches want a bigger lambda
    return 0.8 - 0.06 * size - 0.05 * abs(lambda_ - best)

  rows = _study.gather(synthetic(module, 'cpu', accuracy))
  points = module.grid(rows, 'none')
  assert len(points) == 16
  assert list(module.claims(points, 'none').values()) == [True] * 5
  tight = points | {(128, 0.01): _study.Row((99.0,), 0, 2000)}
  said = module.claims(tight, 'none')
  assert [v for what, v in said.items() if 'too tight' in what] == [False]
  (batch, _), (lambda_, _) = _influence.of(points)
  table = np.array(
    [
      (math.log2(size), math.log2(value), row.worth)
      for (size, value), row in points.items()
    ]
  )
  expected = np.corrcoef(table, rowvar=False)[2, :2]
  np.testing.assert_allclose((batch, lambda_), expected)
  partial = _influence.partial_correlations(points)
  apart = expected / np.sqrt(1 - expected[::-1] ** 2)  # of orthogonal factors
  np.testing.assert_allclose(partial, apart)
  found = synthetic(module, 'cpu', accuracy)
  word, sentence = module.verdict(found)
  assert word == 'borne out'
  assert 'no normalization: lambda correlates positively' in sentence
  for record in found:
    record['config']['num_steps'] = 1015  # skip gains have hardly opened
  word, sentence = module.verdict(found)
  assert word == 'undecided'
  assert sentence.count(': too short to tell') == 3
  assert 'with lambda 0.01 a skip gain ends at about 0.06 at most' in sentence


def test_a_lambda_that_seeds_may_have_made_best_leaves_the_claim_undecided():
  module = importlib.import_module('experiments.agc_sweep')
  worth = {0.01: 60.0, 0.04: 56.0, 0.16: 54.0, 0.64: 50.0}
  points = {
    (size, lambda_): _study.Row((value + (size == 16) * 9 * lambda_,), 0, 2000)
    for size in (16, 32, 64, 128)
    for lambda_, value in worth.items()
  }
  assert module.best_lambdas(points)[128] == [0.01, 0.04]  # 4 points, one seed
  said = list(module.claims(points, 'none').items())
  assert [v for what, v in said if 'too tight' in what] == ['undecided']
  sure = {
    key: row._replace(values=row.values * 3) for key, row in points.items()
  }
  assert module.best_lambdas(sure)[128] == [0.01]


def test_under_agc_a_short_runs_skip_gain_stays_near_zero():
  gain, images, rate = 0.0, 1015 * 128, 0.05
  for _ in range(1015):  # clipped all the time in one direction
    gain += rate * 0.01 * max(gain, 1e-3) / (1 - 0.9)
  assert _cifar.gain_limit(images, 0.01) == pytest.approx(gain, rel=0.05)
  assert 0.055 < gain < 0.065  # the page says 0.06
  assert _cifar.gain_limit(images, 0.04) > 1
  share = (1 + math.log(1000)) / (0.05 * 1015 * 0.04 * 10)
  assert share == pytest.approx(2 / 5, abs=0.02)  # and two fifths


def test_the_best_threshold_is_undecided_where_single_runs_are_close():
  module = importlib.import_module('experiments.clipping_threshold')
  best = {'lr1': {'t1': 0.66, 't3': 0.68}, 'lr4': {'t0.3': 0.70, 't1': 0.72}}

  def verdict(**changes):
    values = {rate: best[rate] | changes.get(rate, {}) for rate in best}

    def accuracy(row, seed):
      rate, threshold = row.split('_')
      return values[rate].get(threshold, 0.4)

    return module.verdict(synthetic(module, 'cpu', accuracy))

  word, sentence = verdict()
  assert word == 'undecided'
  assert '1 or 3 at rate x 1; 0.3 or 1 at rate x 4' in sentence
  edge = 'rate x 1 the best may lie above the largest tried, 3 (68.00; not'
  assert edge in sentence and 'At rate x 4 the best may lie' not in sentence
  assert verdict(lr1={'t1': 0.5})[0] == 'borne out'


def test_batch_norm_is_judged_with_parts_and_tells_what_stayed_at_chance():
  module = importlib.import_module('experiments.batchnorm_batch_size')

  def accuracy(row, seed):
    size = module.RUNS[row]['batch_size']
    if size >= 1024:
      return 0.1
    return (0.6 if '_of' in row else 0.8) - size / 2000

  found = synthetic(module, 'cpu', accuracy)
  word, sentence = module.verdict(found)
  assert word == 'borne out'
  assert 'images change batch 256 (worse, 47.20 against 67.20): yes' in sentence
  assert 'Batch 1,024 (2,000 updates) ends near chance.' in sentence
  whole = [record for record in found if '_of' not in record['row']]
  word, sentence = module.verdict(whole)
  assert word == 'not run' and 'no statistics of parts yet' in sentence


def test_a_fall_of_rows_with_few_updates_is_told_apart():
  module = importlib.import_module('experiments.batchnorm_batch_size')

  def accuracy(row, seed):
    size = module.RUNS[row]['batch_size']
    if '_of' in row:
      return 0.71
    return 0.73 if size <= 128 else 0.73 - size / 1e4

  found = synthetic(module, 'cpu', accuracy)
  for record in found:
    size = module.RUNS[record['row']]['batch_size']
    record['config']['num_steps'] = 130000 // size
  word, sentence = module.verdict(found)
  assert word == 'undecided'
  told = '128: 73.00), and not only in those of 31 to 507: undecided'
  assert told in sentence
  told = 'change batch 256 (better, 71.00 against 70.44): undecided'
  assert sentence.count(told) == 2  # one seed each


def test_a_batch_that_never_leaves_chance_is_not_called_too_short():
  module = importlib.import_module('experiments.batchnorm_batch_size')
  committed = records.read_all(ROOT / 'results', 'batchnorm_batch_size')
  sentence = module.verdict(committed)[1]
  assert 'Batch 1,024 does not train at its learning rate (126' in sentence
  for record in committed:
    for epoch in record['epochs']:
      epoch['train/top_1'] = max(epoch['train/top_1'], 0.3)
  sentence = module.verdict(committed)[1]
  assert 'Batch 1,024 (126 updates) ends near chance.' in sentence


def test_the_largest_stable_rate_is_the_last_that_learns():
  module = importlib.import_module('experiments.learning_rate')
  values = {'batch': (0.8, 0.8, 0.8, 0.1), 'nf': (0.7, 0.6, 0, 0),
            'nf_agc': (0.7, 0.7, 0.6, 0.3)}  # fmt: skip

  def accuracy(row, seed):
    network, factor = re.split(r'_b\d+_x', row)
    # Batch 1024 has smaller rates besides.
    factor = max(1, float(factor))
    return values[network][module.FACTORS[128].index(factor)]

  found = synthetic(module, 'cpu', accuracy)
  rows = _study.gather(found)
  rates = [module.largest(rows, name, 128) for name in values]
  np.testing.assert_allclose(rates, (1.6, 0.4, 1.6))
  assert module.verdict(found)[0] == 'borne out'
  for record in found:
    if '_b1024_' in record['row']:
      record['config']['num_steps'] = 126
  word, sentence = module.verdict(found)
  assert word == 'borne out' and 'at batch 1024' not in sentence
  told = (
    'Batch 1024, 126 updates, is too short to tell: batch normalization 12.8; '
    'normalizer-free 3.2; normalizer-free, AGC 12.8.'
  )
  assert sentence.endswith(told)
  short = [record for record in found if '_b1024_' in record['row']]
  assert module.verdict(short) == ('too short to tell', f'At scale cpu: {told}')
  assert module.verdict(found[:3])[0] == 'not run'


def test_a_stable_rate_at_the_end_of_what_was_tried_says_so():
  module = importlib.import_module('experiments.learning_rate')

  def limits(top_1):
    rows = _study.gather(synthetic(module, 'cpu', lambda *_: top_1))
    return module._limit(rows, 'batch', 1024)

  assert limits(0.15) == 'below 0.2, the smallest tried'  # under twice chance
  assert limits(0.7) == '51.2 or more'
