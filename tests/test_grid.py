"""Checks on a grid of batch sizes and lambdas, against independent formulas."""

import itertools

import numpy as np
import pytest
from invented import record
from scipy import stats

from experiments import _grid, agc_grid, study

GRID = _grid.Grid('none', 'no normalization', {})
FALLS, RISES = _grid.Correlates(GRID, 0, -1), _grid.Correlates(GRID, 1, +1)
SIZES = (16, 32, 64, 128)


def rows(top_1):
  """The grid's rows with accuracies by `top_1(log2 size, log2 lambda)`."""
  places = itertools.product(SIZES, _grid.LAMBDAS)
  found = [
    record(GRID.row(*place), top_1(*np.log2(place)) / 100) for place in places
  ]
  return study.Rows(
    {one['row']: study.Row(one['row'], (one,)) for one in found},
    borrowed=(1.6, 22),
  )


def noisy(slope, other, scale=2.0):
  random = np.random.RandomState(0)
  return lambda x, y: 60 + slope * x + other * y + scale * random.randn()


def test_a_partial_correlation_is_that_of_the_textbook_s_formula():
  inputs, top_1 = GRID.judged(rows(noisy(-1, 2)))
  x, y = (np.corrcoef(values, top_1)[0, 1] for values in inputs.T)
  both = np.corrcoef(*inputs.T)[0, 1]
  expected = (x - y * both) / np.sqrt((1 - y**2) * (1 - both**2))
  assert _grid.partial_correlation(inputs, top_1, 0) == pytest.approx(expected)
  ranks = _grid.partial_correlation(
    inputs[:9], top_1[:9], 1
  )  # no longer orthogonal
  x, y = (np.corrcoef(values, top_1[:9])[0, 1] for values in inputs[:9].T)
  both = np.corrcoef(*inputs[:9].T)[0, 1]
  assert ranks == pytest.approx(
    (y - x * both) / np.sqrt((1 - x**2) * (1 - both**2))
  )


def test_a_sign_is_told_where_its_interval_leaves_out_zero():
  falls = rows(noisy(-3, 0))
  assert FALLS(falls) is True
  rises = rows(noisy(3, 0))
  assert FALLS(rises) is False
  assert RISES(rows(noisy(-3, 0, 8))) is None
  assert RISES(rows(noisy(0, 3))) is True


def test_what_matters_more_must_do_so_by_more_than_chance():
  assert GRID.batch_matters_more(rows(noisy(-4, 0.2))) is True
  assert GRID.batch_matters_more(rows(noisy(0.2, 4))) is False
  assert GRID.batch_matters_more(rows(noisy(-2, 2, 6))) is None


def test_factors_that_matter_alike_are_told_apart_in_few_cases_only():
  random, found = np.random.RandomState(1), []
  for _ in range(300):  # lambda has twice the batch size's range
    top_1 = lambda x, y: 60 - 2 * x + y + 4 * random.randn()  # noqa: B023
    found.append(GRID.batch_matters_more(rows(top_1)))
  assert 0.02 < 1 - found.count(None) / len(found) < 0.09


def test_interaction_is_what_two_main_effects_leave_over():
  random = np.random.RandomState(0)
  inputs, top_1 = GRID.judged(rows(lambda x, y: 60 + 9 * random.randn()))
  table = top_1.reshape(4, 4)
  effects = table.mean(0)[None] + table.mean(1)[:, None] - table.mean()
  left = np.var(table - effects) / np.var(table)
  assert _grid.interaction(inputs, top_1) == pytest.approx(left)
  assert stats.spearmanr(*inputs.T)[0] == 0  # a full grid is orthogonal


def test_the_best_lambda_must_fall_with_the_batch_and_lie_inside():
  peak = lambda at: rows(lambda x, y: 60 - 5 * (y - at(x)) ** 2)
  wants = GRID.small_need_larger
  falls = {4: np.log2(0.64), 5: np.log2(0.16), 6: np.log2(0.04), 7: -6.6}
  assert wants(peak(lambda x: falls[round(x)])) is True
  assert wants(peak(lambda x: falls[11 - round(x)])) is False
  assert wants(peak(lambda x: np.log2(0.64))) is None  # at an end
  assert wants(rows(lambda x, y: 60)) is None


def test_the_smallest_lambda_is_too_tight_if_each_batch_has_a_better_one():
  tight = GRID.is_too_tight
  assert tight(rows(lambda x, y: 60 + 10 * (y > -6))) is True
  assert tight(rows(lambda x, y: 60 - 10 * (y > -6))) is False
  assert tight(rows(lambda x, y: 60)) is None


def test_cells_that_diverged_or_stayed_shut_are_in_no_correlation():
  found = rows(noisy(-1, 1))
  name = GRID.row(16, 0.01)
  gone = record(name, 0.5, status='diverged')
  found[name] = study.Row(name, (gone,))
  dead = GRID.row(32, 0.01)
  found[dead] = study.Row(dead, (record(dead, 0.1),))
  assert len(GRID.judged(found)[1]) == 14
  del found[name]
  with pytest.raises(study.NotRun):
    GRID.judged(found)


def test_a_plot_shows_whole_grids_and_coordinates_of_five_cells_that_train():
  other = _grid.Grid('nf', 'normalizer-free', {})
  plot = _grid.plot([other, GRID])
  panels = lambda rows: list(plot(agc_grid.EXPERIMENT, rows))
  found = rows(noisy(-1, 1))
  assert len(panels(found)) == 2
  assert len(panels(rows(lambda x, y: 60 if x == 7 else 10))) == 1
  del found[GRID.row(16, 0.01)]
  assert panels(found) == []
