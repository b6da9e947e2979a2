"""The CIFAR-10 study: rows, scales and verdicts."""

import importlib
import json
import math
import pathlib
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from experiments import _plots, _study
from nfnets import recipe, records

ROOT = pathlib.Path(__file__).parents[1]
STUDY = (
  'resnet20_three_ways',
  'agc_sweep',
  'he_resnet20',
  'batchnorm_batch_size',
  'clipping_threshold',
  'where_to_clip',
  'learning_rate',
  'sam_cifar',
  'nf_resnet50_vs_resnet50',
)
RUNS = [
  (name, row, scale)
  for name in STUDY
  for module in [importlib.import_module(f'experiments.{name}')]
  for scale in module.SCALES
  for row in _study.rows_of(scale, module.RUNS, module.SCALES)
]


@pytest.mark.parametrize(('name', 'row', 'scale'), RUNS)
def test_every_row_resolves_at_every_scale(name, row, scale):
  module = importlib.import_module(f'experiments.{name}')
  config = module.get_config(f'{row}@{scale}')
  assert config.is_locked
  resolved = config.copy_and_resolve_references()
  recipe.check(resolved, 1, 1)
  for key, value in module.RUNS[row].items():
    assert _at(resolved, key) == value, key


@pytest.mark.parametrize(('name', 'row', 'scale'), RUNS)
def test_the_learning_rate_follows_the_batch_size_in_every_row(
  name, row, scale
):
  module = importlib.import_module(f'experiments.{name}')
  config = module.get_config(f'{row}@{scale}')
  factor = config.get('learning_rate_factor', 1.0)
  expected = 0.1 * factor * config.batch_size / 128
  assert config.learning_rate == pytest.approx(expected, rel=1e-6)


def _at(config, key):
  for part in key.split('.'):
    config = config[part]
  return config


def finished(row, seed, top_1, updates=2000, scale='full', status='finished'):
  summary = {'status': status, 'step': updates, 'eval/top_1': top_1}
  return {
    'row': row,
    'seed': seed,
    'scale': scale,
    'status': status,
    'updates': updates,
    'config': {'num_steps': updates},
    'summary': summary,
    'curve': [],
  }


def synthetic(module, scale='cpu', accuracy=None, seeds=None):
  """A record of every row and seed, its accuracy by `accuracy(row, seed)`."""
  records = []
  for seed in module.SEEDS if seeds is None else seeds:
    for row in _study.rows_of(scale, module.RUNS, module.SCALES):
      top_1 = accuracy(row, seed) if accuracy else 0.6 + seed / 100
      status = 'finished' if top_1 else 'diverged'
      record = finished(row, seed, top_1, 2000, scale, status)
      record['curve'] = [
        {
          'step': step,
          'train/loss': 2 - step / 1000,
          'eval/top_1': (top_1 or 0.1) * step / 2000,
          'agc/clipped_fraction': 0.5,
        }
        for step in (500, 1000, 1500, 2000)
      ]
      records.append(record)
  return records


@pytest.mark.parametrize('name', STUDY)
def test_every_report_shows_each_row_and_what_diverged(name, tmp_path):
  module = importlib.import_module(f'experiments.{name}')
  scale = list(module.SCALES)[-1]
  rows = _study.rows_of(scale, module.RUNS, module.SCALES)
  failing = rows[-1] if len(rows) > 1 else None

  def accuracy(row, seed):
    return 0 if row == failing else 0.4 + len(row) / 100

  records = synthetic(module, scale, accuracy)
  text = module.report(records, tmp_path)
  assert module.SCALES[scale]['note'] in text
  lines = [line for line in text.splitlines() if line.startswith('| `')]
  assert [line.split('`')[1] for line in lines] == list(rows)
  assert [('diverged' in line) for line in lines] == [
    r == failing for r in rows
  ]
  ends = records[-1]['updates']
  assert failing is None or f', diverged at {ends:,}' in lines[-1]
  pictures = re.findall(r'\((\w+\.png)\)', text)
  assert pictures and all((tmp_path / path).exists() for path in pictures)
  word, sentence = module.verdict(records)
  assert word in _study.VERDICTS and sentence
  part = module.report(records[:1], tmp_path)
  assert part.count('| `') == 1 and module.verdict([])[0] == 'not run'


def test_rows_of_other_scales_are_not_missed(tmp_path):
  agc_sweep = importlib.import_module('experiments.agc_sweep')
  text = agc_sweep.report(synthetic(agc_sweep)[:1], tmp_path)
  missed = text[text.index('Not run yet') :]
  assert 'nf_b128_l0.01' in missed and 'nf_b256' not in missed


def test_a_diverged_run_is_never_averaged_away():
  rows = _study.gather(
    [
      finished('a', 0, 0.9),
      finished('a', 1, 0.1, status='diverged'),
      finished('b', 0, 0.5),
      finished('b', 1, 0.6),
    ]
  )
  assert rows['a'].text == 'diverged in 1 of 2; else 90.00'
  assert rows['b'].text == '55.00 ± 7.07'


def test_under_a_thousand_updates_the_verdict_is_too_short_to_tell():
  scales = {'full': {}, 'cpu': {}}

  def sure(rows):
    return 'borne out', ', '.join(rows)

  short = [finished('a', 0, 0.9, updates=999, scale='cpu')]
  word, why = _study.judge(short, scales, sure)
  assert word == 'too short to tell' and '999 updates' in why
  assert _study.judge([], scales, sure)[0] == 'not run'
  enough = [finished('a', 0, 0.9, updates=1000, scale='cpu')]
  word, why = _study.judge(enough, scales, sure)
  assert (word, why) == ('borne out', 'At scale cpu: a')


def test_batch_norms_drawbacks_are_reported_from_the_committed_records(
  tmp_path,
):
  module = importlib.import_module('experiments.batchnorm_costs')
  committed = records.read_all(ROOT / 'results', 'batchnorm_costs')
  text = module.report(committed, tmp_path)
  assert text.count('### ') == len(module.RUNS) == len(committed)
  assert (tmp_path / 'costs.png').exists()
  word, sentence = module.verdict(committed)
  assert word == 'borne out' and 'of predictions: yes' in sentence
  assert 'Not measured yet: `step_cost`' in module.report(
    [r for r in committed if r['row'] != 'step_cost'], tmp_path
  )
  healthy = json.loads(json.dumps(committed).replace('"batch"', '"nf"'))
  for record in healthy:
    record['measured']['batch'] = record['measured']['nf']
  assert module.verdict(healthy)[0] == 'not borne out'


@pytest.mark.parametrize('name', STUDY)
def test_every_committed_record_is_of_a_row_and_gets_into_its_report(
  name, tmp_path
):
  module = importlib.import_module(f'experiments.{name}')
  committed = records.read_all(ROOT / 'results', name)
  if not committed:
    pytest.skip(f'{name} has no record yet')
  text = module.report(committed, tmp_path)
  for record in committed:
    assert record['row'] in module.RUNS and record['scale'] in module.SCALES
    assert f'| `{record["row"]}`' in text


def test_three_ways_needs_all_arms_and_tells_what_is_known_so_far():
  module = importlib.import_module('experiments.resnet20_three_ways')
  claimed = {'batch': 0.9, 'none': 0.6, 'none_agc': 0.6, 'nf': 0.9}

  def judge(**changes):
    values = claimed | changes
    return module.verdict(
      synthetic(module, accuracy=lambda row, seed: values.get(row, 0.5))
    )

  assert judge()[0] == 'borne out'
  assert judge(none=0)[0] == 'mixed'  # diverged, and AGC does better
  assert judge(none=0.9, none_agc=0.95, nf=0.5)[0] == 'not borne out'
  some = [
    r
    for r in synthetic(module, accuracy=lambda row, _: claimed.get(row, 0.5))
    if r['row'] in ('batch', 'nf')
  ]
  word, sentence = module.verdict(some)
  assert word == 'not run' and 'none, none_agc: no record yet' in sentence
  assert 'So far: normalizer-free it is at most 1 point below' in sentence


def test_the_sweeps_claims_are_found_where_they_hold():
  module = importlib.import_module('experiments.agc_sweep')
  runs = module.RUNS

  def accuracy(row, seed):
    size = math.log2(runs[row]['batch_size'] / 16)
    lambda_ = math.log2(runs[row]['optimizer.clipping'] / 0.01) / 2
    best = 3 - 0.25 * size  # small batches want a bigger lambda
    return 0.8 - 0.05 * size - 0.05 * abs(lambda_ - best)

  rows = _study.gather(synthetic(module, 'cpu', accuracy))
  points = module.grid(rows, 'nf')
  assert len(points) == 16
  assert list(module.claims(points).values()) == [True] * 5
  tight = points | {(128, 0.01): _study.Row((99.0,), 0, 2000)}
  assert list(module.claims(tight).values())[-1] is False
  (batch, _), (lambda_, _) = module.influence(points)
  table = np.array(
    [
      (math.log2(size), math.log2(value), row.worth)
      for (size, value), row in points.items()
    ]
  )
  expected = np.corrcoef(table, rowvar=False)[2, :2]
  np.testing.assert_allclose((batch, lambda_), expected)
  word, sentence = module.verdict(synthetic(module, 'cpu', accuracy))
  assert word == 'borne out'
  assert 'no normalization: lambda correlates positively' in sentence


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
  assert 'statistics of 16 images change batch 256: yes' in sentence
  assert 'At chance: batch 1,024 (2,000 updates), 4,096 (2,000' in sentence
  whole = [record for record in found if '_of' not in record['row']]
  word, sentence = module.verdict(whole)
  assert word == 'not run' and 'no statistics of parts yet' in sentence


def test_a_run_that_diverged_before_its_first_evaluation_is_in_the_plot():
  axis = Figure().subplots()
  records = [finished('a', 0, 0.5), finished('a', 1, 0.1, status='diverged')]
  records[0]['curve'] = [{'step': 1, 'x': 1.0}, {'step': 2, 'x': 2.0}]
  records[1] |= {'curve': [], 'updates': 137}
  _plots.curves(axis, records, ['a', 'b'], {'a': 'A', 'b': 'B'}, 'x')
  crosses = [line for line in axis.lines if line.get_marker() == 'x']
  assert [line.get_xdata()[0] for line in crosses] == [137]


def test_a_finished_run_without_the_metric_is_not_drawn_as_diverged():
  axis = Figure().subplots()
  records = [finished('a', 0, 0.5) | {'curve': [{'step': 1, 'x': 1.0}]}]
  _plots.curves(axis, records, ['a'], {'a': 'A'}, 'agc/clipped_fraction')
  assert not axis.lines


def test_the_largest_stable_rate_is_the_last_that_learns():
  module = importlib.import_module('experiments.learning_rate')
  values = {'batch': (0.8, 0.8, 0.8, 0.1), 'nf': (0.7, 0.6, 0, 0),
            'nf_agc': (0.7, 0.7, 0.6, 0.3)}  # fmt: skip

  def accuracy(row, seed):
    network, factor = re.split(r'_b\d+_x', row)
    return values[network][module.FACTORS.index(int(factor))]

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
  told = 'Batch 1024, 126 updates, is too short to tell: 12.8, 3.2 and 12.8.'
  assert sentence.endswith(told)
  short = [record for record in found if '_b1024_' in record['row']]
  assert module.verdict(short) == ('too short to tell', f'At scale cpu: {told}')
  assert module.verdict(found[:3])[0] == 'not run'


def test_rank_correlation_is_spearmans():
  random = np.random.RandomState(0)
  for _ in range(5):
    x, y = random.randint(0, 6, (2, 12)).tolist()
    expected = stats.spearmanr(x, y).statistic
    assert _study.rank_correlation(x, y) == pytest.approx(expected)
  assert _study.rank_correlation([1, 2, 3], [5, 5, 5]) == 0


def test_a_difference_must_exceed_what_seeds_explain():
  def row(*values, diverged=0):
    return _study.Row(values, diverged, 2000)

  assert _study.below(row(60.0), row(62.0))
  assert not _study.below(row(61.5), row(62.0))  # single runs: a point
  assert _study.below(row(61.5, 61.6), row(62.0, 62.1))
  assert not _study.below(row(60.0, 63.0), row(62.0, 62.1))
  assert _study.below(row(90.0, diverged=1), row(50.0, 50.0))
  assert row(50.0, diverged=1).worth == 30  # a diverged run is chance, 10
