"""When two rows differ, and when runs can't tell."""

import math
import pathlib

import numpy as np
import pytest
from scipy import stats

from experiments import _compare, _study
from nfnets import records

ROOT = pathlib.Path(__file__).parents[1]
below, no_worse = _compare.below, _compare.no_worse


def row(*values, diverged=0):
  return _study.Row(values, diverged, 2000)


def test_the_spread_of_single_runs_is_that_of_the_committed_seeds():
  spreads = {}
  for name in ('resnet20_three_ways', 'where_to_clip'):
    found = records.read_all(ROOT / 'results', name)
    rows = _study.gather(r for r in found if r['scale'] == 'cpu')
    several = {v.values: v.spread for v in rows.values() if len(v.values) == 3}
    spreads |= several  # one run taken over is counted once
  assert len(spreads) == 11
  pooled = math.sqrt(np.mean(np.square(list(spreads.values()))))
  assert abs(pooled - _compare.SEED_SPREAD) < 0.05


@pytest.mark.parametrize(
  ('a', 'b', 'found'),
  [
    (row(57.0), row(62.0), True),
    (row(62.0), row(57.0), False),
    (row(58.0), row(62.0), 'undecided'),  # single runs: 4.5 points
    (row(62.0), row(58.0), 'undecided'),
    (row(58.0), row(62.0, 62.0, 62.0), True),  # 3.7 of one against three
    (row(61.0), row(61.0), 'undecided'),
  ],
)
def test_both_yes_and_no_need_more_than_seeds_explain(a, b, found):
  assert below(a, b) == found
  opposite = found if found == 'undecided' else not found
  assert no_worse(a, b) == opposite
  assert _compare.changed(a, b) == (found if found == 'undecided' else True)


def test_two_seeds_that_happen_to_agree_do_not_lower_the_spread():
  assert below(row(70.0, 70.01), row(70.1, 70.11)) == 'undecided'
  assert below(row(61.5, 61.6), row(62.0, 62.1)) == 'undecided'
  assert below(row(58.7, 58.8), row(62.0, 62.1)) is True  # 3.2 of two
  wide = row(56.0, 62.0), row(62.0, 62.1)  # its own spread is 4.2
  assert below(*wide) == 'undecided'


def test_a_margin_is_exceeded_or_kept_by_more_than_seeds_explain():
  judge = lambda a: below(row(a), row(80.0), 10.0)
  assert [judge(a) for a in (65.0, 68.0, 70.0, 72.0, 75.0)] == [
    True, 'undecided', 'undecided', 'undecided', False
  ]  # fmt: skip


def test_the_share_that_diverged_decides_before_any_mean():
  assert below(row(90.0, diverged=1), row(50.0, 50.0)) is True
  assert below(row(50.0, 50.0), row(90.0, diverged=1)) is False
  assert below(row(diverged=3), row(70.0, 71.0, diverged=1)) is True
  half = row(50.0, 51.0, diverged=1)  # a third of its runs
  assert below(half, row(90.0, diverged=2)) is False
  assert below(half, row(90.0, 90.0, diverged=1)) is True
  assert below(half, row(50.0, 52.0, diverged=1)) == 'undecided'
  assert below(row(diverged=1), row(diverged=3)) == 'undecided'
  assert row(50.0, diverged=1).worth == 30  # a diverged run is chance, 10


def test_a_row_that_never_diverged_is_best_before_one_that_did():
  rows = {'a': row(50.0, 50.0), 'b': row(90.0, 90.0, 90.0, diverged=1)}
  assert _compare.contenders(rows) == ['a']
  rows['c'] = row(52.0, 52.0)
  assert _compare.contenders(rows) == ['a', 'c']


def test_many_rows_differ_by_more_than_their_number_explains():
  flat = [row(60.0 + x) for x in (0, 1, 2, 3, 6)]  # 4.5 would do for two
  assert _compare.spans(flat) == 'undecided'
  assert _compare.spans([*flat[:4], row(66.3)]) is True  # 6.2 for five
  assert _compare.spans([*flat[:4], row(diverged=1)]) is True
  assert _compare.spans([row(diverged=1)] * 5) == 'undecided'
  for count, deviations in _compare.RANGES.items():
    exact = stats.studentized_range.ppf(0.95, count, np.inf)
    assert deviations == pytest.approx(exact, abs=0.006)


@pytest.mark.parametrize(
  ('best', 'found'),
  [
    ({16: [3], 32: [2], 64: [1]}, True),
    ({16: [1], 32: [2], 64: [2]}, False),
    ({16: [2], 32: [2], 64: [2]}, False),
    ({16: [3], 32: [2], 64: [2, 1]}, True),
    ({16: [2, 1], 32: [2], 64: [2, 1]}, 'undecided'),
    ({16: [3], 32: [3], 64: [3]}, 'undecided'),  # beyond 3 they may differ
    ({16: [1], 32: [1], 64: [1]}, 'undecided'),
  ],
)
def test_a_best_at_one_end_of_what_was_tried_may_lie_beyond(best, found):
  assert _compare.falls(best, (1, 2, 3)) == found


def test_two_findings_hold_together_unless_one_fails():
  assert _compare.both(True, True) is True
  assert _compare.both(False, 'undecided') is False
  assert _compare.both(True, 'undecided') == 'undecided'


def test_a_correlation_within_chance_is_undecided():
  judge = lambda r: _compare.positive(r, 16)  # clear beyond 0.5
  assert [judge(r) for r in (0.6, 0.4, -0.4, -0.6)] == [
    True, 'undecided', 'undecided', False
  ]  # fmt: skip


def test_one_strong_factor_does_not_hide_the_other_from_its_correlation():
  x, other = (v.ravel().tolist() for v in np.mgrid[:4, :4])
  y = [a - 10 * b for a, b in zip(x, other)]
  assert stats.pearsonr(x, y).statistic < 0.2
  assert _compare.partial_correlation(x, y, other) == pytest.approx(1)
  noise = np.random.RandomState(0).randn(3, 16)
  x, y, other = (noise + noise[0]).tolist()
  inverse = np.linalg.inv(np.corrcoef([x, y, other]))
  expected = -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
  found = _compare.partial_correlation(x, y, other)
  assert found == pytest.approx(expected)
  assert _compare.partial_correlation(x, [1.0] * 16, other) == 0
  assert _compare.partial_correlation(other, y, other) == 0


def test_rank_correlation_is_spearmans():
  random = np.random.RandomState(0)
  for _ in range(5):
    x, y = random.randint(0, 6, (2, 12)).tolist()
    expected = stats.spearmanr(x, y).statistic
    assert _compare.rank_correlation(x, y) == pytest.approx(expected)
  assert _compare.rank_correlation([1, 2, 3], [5, 5, 5]) == 0
