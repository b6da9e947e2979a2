"""Experiments: every row resolves; rows, their differences, checks."""

import importlib
import io
import itertools
import math
import tarfile

import numpy as np
import pytest
from invented import record, small
from ml_collections import ConfigDict
from scipy import stats

from experiments import records, report, study, transfer_caltech101
from nfnets import checks, factory

EXPERIMENTS = {name: study.load(name) for name in study.names()}


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_row_of_every_scale_resolves(name):
  experiment = EXPERIMENTS[name]
  get_config = importlib.import_module(f'experiments.{name}').get_config
  for scale in experiment.scales:
    for row in experiment.rows_at(scale):
      config = get_config(f'{row}@{scale}')
      config = config.copy_and_resolve_references()
      if not experiment.measure:
        assert config.is_locked
        checks.check(config, 1)
        factory.network_of(config)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_an_experiment_plans_few_comparisons_and_tags_what_is_published(name):
  experiment = EXPERIMENTS[name]
  checks = experiment.checks.values()
  planned = [check for check in checks if isinstance(check, study.Above)]
  assert len(planned) <= 5 and experiment.claim.endswith('.')
  assert {e[1] for e in experiment.published.values()} <= set(report.TRUST)


def test_what_an_experiment_lacks_is_refused_by_name():
  experiment = EXPERIMENTS['agc_sweep']
  for run, told in (
    ('none_b16_l1', "no row 'none_b16_l1' at scale full: choose one of nf_b"),
    ('nf_b16_l0.01@tpu', "no scale 'tpu': choose one of full, short, cpu"),
    ('nf_b16_l0.01', 'nf_b16_l0.01 is at cpu'),
  ):
    with pytest.raises(ValueError, match=told):
      experiment.get_config(run)
  with pytest.raises(ValueError, match='--experiment=agc: choose one of agc_'):
    study.load('agc')


def test_a_scale_comes_before_the_row_and_what_shrinks_it_after():
  def shrink(config):
    config.y = 10 * config.x

  scales = {'full': study.Scale('', {'x': 5, 'y': 5}, shrink=shrink)}
  config = small(scales=scales).get_config('a')
  assert (config.x, config.y) == (1, 10)
  assert small(scales=scales).get_config('b').x == 5


def rows(*found, **fields):
  return small(**fields).gather(found)['full']


def test_a_row_is_of_its_finished_runs_and_counts_the_others():
  row = rows(
    record('a', 0.6),
    record('a', 0.7, seed=1),
    record('a', 0.0, seed=2, status='diverged'),
  )['a']
  assert row.values == pytest.approx([60, 70]) and row.loss == 1.0
  assert row.mean == pytest.approx(65) and row.spread == pytest.approx(50**0.5)
  assert row.diverged == [1000] and row.text == '65.00 ± 7.07'


def test_a_mean_is_of_averaged_parameters_where_there_are_any():
  one = record('a', 0.5)
  one['summary']['eval_ema/top_1'] = 0.6
  assert rows(one)['a'].text == '60.00'
  assert rows(record('a', 0.1))['a'].text == '10.00 (near chance)'
  assert rows(record('a', 0, status='diverged'))['a'].text == 'diverged'


def runs(row, *top_1):
  return [record(row, v / 100, seed) for seed, v in enumerate(top_1)]


def test_one_pair_s_interval_is_that_of_a_paired_t_test():
  a, b = (71.0, 68.0, 70.5), (69.0, 67.0, 67.5)
  check = study.Above('a', 'b')
  found = rows(*runs('a', *a), *runs('b', *b), checks={'x': check})
  mean, half, count = found.interval('a', 'b')
  low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
  assert (mean - half, mean + half) == pytest.approx((low, high))
  assert count == 3 and check(found) is (True if low > 0 else None)


def arms(values, **fields):
  """Rows from accuracies by name."""
  return rows(
    *(r for row, v in values.items() for r in runs(row, *v)), **fields
  )


def test_the_spread_of_differences_is_pooled_over_all_pairs_of_rows():
  values = {'a': (70, 72, 71.5), 'b': (68, 69, 70.5), 'c': (50, 54, 51)}
  found = arms(values)
  pairs = itertools.combinations(values.values(), 2)
  pooled = np.mean([np.var(np.subtract(*pair), ddof=1) for pair in pairs])
  deviation, freedom = found.spread
  assert 2 * deviation**2 == pytest.approx(pooled)
  assert freedom == (3 - 1) * (3 - 1)
  half = stats.t.ppf(0.975, freedom) * math.sqrt(pooled / 3)
  assert found.interval('a', 'c')[1] == pytest.approx(half)


def test_rows_of_one_seed_or_near_chance_do_not_change_the_spread():
  two = {'a': (70.0, 72.0, 71.5), 'b': (68.0, 69.0, 70.5)}
  expected = pytest.approx(arms(two).spread)
  assert arms(two | {'c': (60.0,)}).spread == expected
  assert arms(two | {'c': (10.0, 10.0, 10.1)}).spread == expected
  assert arms(two | {'c': (60.0, 62.0)}).spread[1] == 3  # of 8 runs
  assert arms({'a': (70.0,), 'b': (60.0,)}, spread=(1.6, 22)).spread == (
    1.6,
    22,
  )


def test_an_interval_holds_the_true_difference_in_95_of_100_experiments():
  random, held, count = np.random.RandomState(0), 0, 2000
  for _ in range(count):
    seeds = random.randn(3)  # which the rows share
    found = arms(
      {row: 50 + 5 * k + seeds + random.randn(3) for k, row in enumerate('abc')}
    )
    mean, half, _ = found.interval('b', 'a')
    held += abs(mean - 5) < half
  assert held / count == pytest.approx(0.95, abs=0.015)  # three deviations


def test_a_difference_within_its_interval_is_undecided_on_either_side():
  spread = (1.6, 22)  # of a run: 4.7 points for two single ones
  for apart, answer in ((5, True), (4, None), (-4, None), (-5, False)):
    found = rows(*runs('a', 60 + apart), *runs('b', 60), spread=spread)
    assert study.Above('a', 'b')(found) is answer
    assert study.Above('a', 'b', by=apart - 5)(found) is True
  found = rows(*runs('a', 55), *runs('b', 60), spread=spread)
  assert study.Differs('a', 'b')(found) is True
  assert study.Above('a', 'b')(rows(*runs('a', 90), *runs('b', 10))) is None
  with pytest.raises(study.NotRun):
    study.Above('a', 'c')(found)


def test_divergence_decides_alone_only_if_all_runs_stand_against_none():
  gone = [record('b', 0, seed, status='diverged') for seed in (0, 1, 2)]
  check = study.Above('a', 'b')
  some = rows(*runs('a', 40, 40, 40), *runs('b', 60), *gone[1:])
  assert check(some) is None and some.differences('a', 'b') == [-20]
  assert 'b diverged in 2 of 3' in check.numbers(some)
  assert check(rows(*runs('a', 40, 40, 40), *gone)) is True
  ahead = rows(*runs('a', 90, 90, 90), *runs('b', 60), *gone[1:])
  assert check(ahead) is None  # of no spread
  ahead = rows(*runs('a', 90, 91, 93), *runs('b', 60), *gone[1:], spread=(1, 9))
  assert check(ahead) is True
  assert study.Above('b', 'a')(rows(*runs('a', 40), *gone)) is False


def test_the_interval_of_own_pairs_is_the_paired_t_interval():
  found = arms({'a': [60.0, 62.0, 67.0], 'b': [50.0, 55.0, 54.0]})
  differences = [10.0, 7.0, 13.0]
  low, high = stats.t.interval(
    0.95, 2, np.mean(differences), stats.sem(differences)
  )
  assert found.own_half('a', 'b') == pytest.approx((high - low) / 2)


def test_seeds_that_were_not_trained_alike_are_refused():
  one, other = record('batch', 0.9, 0), record('batch', 0.9, 1)
  other['config'] = other['config'] | {'learning_rate': 6.4}
  with pytest.raises(ValueError, match='batch: config.learning_rate is 6.4'):
    study.load('headline').gather([one, other])


def agc(num_steps, **optimizer):
  config = EXPERIMENTS['resnet20_three_ways'].get_config('nf_agc@cpu')
  config.num_steps = num_steps
  with config.unlocked():
    config.optimizer.update(optimizer)
  return config.copy_and_resolve_references().to_dict()


def test_a_skip_gain_s_growth_is_the_sum_of_rates_times_lambda():
  config = agc(1015)
  rates = factory.schedule_of(ConfigDict(config))(np.arange(1015))
  expected = float(np.sum(rates)) * 0.01 / (1 - 0.9)
  growth = lambda config: study.Row('a', [{'config': config}]).growth
  assert growth(config) == pytest.approx(expected)
  assert expected == pytest.approx(5.1, abs=0.1) and expected < study.OPEN
  assert growth(agc(1015, unclipped=('head', 'skip_gain'))) == math.inf
  assert growth(agc(1015, clip='norm')) == math.inf


def test_clipped_by_that_rule_a_gain_opens_where_its_growth_says():
  rate, lambda_, gain, steps = 0.1, 0.05, 0.0, 0
  while gain < 1:  # the largest update that AGC lets through
    gain += rate / (1 - 0.9) * lambda_ * max(gain, 1e-3)
    steps += 1
  growth = steps * rate * lambda_ / (1 - 0.9)
  assert growth == pytest.approx(study.OPEN, rel=0.03)


def test_a_row_whose_gains_stay_shut_decides_nothing():
  shut = record('a', 0.9) | {'config': agc(1015)}
  found = rows(shut, record('b', 0.1), spread=(1.6, 22))
  assert study.Above('a', 'b')(found) is None
  assert 'gain growth of a 5.1 of 7.9' in study.Above('a', 'b').numbers(found)


def test_the_best_rows_are_those_that_no_other_is_clearly_above():
  found = rows(*runs('a', 60), *runs('b', 62), *runs('c', 50), spread=(1.6, 22))
  assert found.best(['a', 'b', 'c']) == ['a', 'b']
  gone = record('b', 0.9, status='diverged')
  found = rows(*runs('a', 60), gone, *runs('c', 50), spread=(1.6, 22))
  assert found.best(['a', 'b', 'c']) == ['a']


def test_who_converges_faster_is_ahead_at_the_first_evaluation():
  made = study.load('headline')
  found = [
    record(row, 0.9, seed) for row in ('batch', 'none') for seed in (0, 1)
  ]
  for one, first in zip(found, (0.80, 0.78, 0.42, 0.41)):
    one['curve'][0]['eval/top_1'] = first
  check = made.explored[
    'no normalization is behind BN after a quarter of the run'
  ]
  rows = made.gather(found)['full']
  assert check(rows) is True and '+37.5 ' in check.numbers(rows)
  assert made.checks['no normalization is worse than BN'](rows) is None
  found[0]['curve'][0]['eval/top_1'] = 0.30
  assert check(made.gather(found)['full']) is None


def test_no_committed_record_names_a_place_of_a_machine():
  for path in (study.FOLDER.parent / 'results').glob('*/runs/*.json'):
    assert '"/' not in path.read_text() and "='/" not in path.read_text()


def test_every_committed_record_is_of_a_row_and_a_seed_of_its_experiment():
  for name, experiment in EXPERIMENTS.items():
    for one in records.read_all(study.FOLDER.parent / 'results', name):
      assert one['row'] in experiment.rows_at(one['scale']), one['row']
      assert experiment.measure or one['seed'] in experiment.seeds


def test_pretraining_and_transfer_get_every_second_class(tmp_path):
  archive = tmp_path / 'caltech101.tar'
  with tarfile.open(archive, 'w') as tar:
    for split, name in itertools.product(('train', 'test'), 'abcde'):
      info = tarfile.TarInfo(f'caltech101/{split}/{name}/1.jpg')
      info.size = 1
      tar.addfile(info, io.BytesIO(name.encode()))
  for is_first, names in ((True, 'aceace'), (False, 'bdbd'), (True, 'aceace')):
    folder = transfer_caltech101.half(archive, tmp_path / 'x', is_first)
    files = sorted(folder.glob('*/*/1.jpg'))
    assert [file.read_text() for file in files] == list(names)
