"""Accuracy over a grid of batch sizes and AGC's lambdas: checks and a plot.

Correlations are over the logarithms of batch size and lambda; a cell is the
mean over seeds. They leave out cells with a diverged run, cells below twice
chance, and cells whose skip gains AGC can't have let open.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from scipy import special, stats

from experiments import _figures, study
from experiments.study import Above, Check, Plot, Row, Rows

SIZES = (16, 32, 64, 128, 256, 512, 1024)
LAMBDAS = (0.01, 0.04, 0.16, 0.64)


class Grid(NamedTuple):
  """One network's rows over batch sizes and lambdas, 4 x 4 of them a scale."""

  network: str
  label: str
  overrides: Mapping[str, Any]

  def row(self, size: int, lambda_: float) -> str:
    return f'{self.network}_b{size}_l{lambda_:g}'

  def sizes(self, rows: Rows) -> list[int]:
    """The batch sizes of these rows; `NotRun` if there are less than four."""
    found = [size for size in SIZES if self.row(size, LAMBDAS[0]) in rows]
    if len(found) < 4:
      raise study.NotRun(self.label)
    return found

  def cells(self, rows: Rows) -> dict[tuple[int, float], Row]:
    """The row of each batch size and lambda; `NotRun` if one is missing."""
    places = itertools.product(self.sizes(rows), LAMBDAS)
    return {place: rows[self.row(*place)] for place in places}

  def trained(self, rows: Rows) -> dict[tuple[int, float], Row]:
    """The cells that correlations are over."""
    return {
      place: row
      for place, row in self.cells(rows).items()
      if not row.diverged
      and row.growth >= study.OPEN
      and not row.is_near_chance
    }

  def extent(self, rows: Rows) -> str:
    """How many cells these are, and of how many seeds."""
    cells = self.trained(rows).values()
    return f'{len(cells)} cells of {study.fewest(cells)}'

  def judged(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """log2 of batch size and lambda `[N, 2]`, and top-1 `[N]`, of N cells."""
    cells = self.trained(rows)
    places = np.array(list(cells)).reshape(-1, 2)
    return np.log2(places), np.array([row.mean for row in cells.values()])

  def batch_matters_more(self, rows: Rows) -> bool | None:
    a, b, t = self.compared(rows)
    freedom = max(1, len(self.trained(rows)) - 3)
    return a > b if abs(t) > special.stdtrit(freedom, 0.975) else None

  def compared(self, rows: Rows) -> tuple[float, float, float]:
    """Williams' t test of two correlations with the same variable.

    Returns:
      The sizes of accuracy's correlations with batch size and lambda, and t;
      NaN of fewer than five cells.
    """
    inputs, top_1 = self.judged(rows)
    n = len(top_1)
    if n < 5:
      return math.nan, math.nan, math.nan
    a, b, both = _correlations(inputs, top_1)[[0, 1, 0], [2, 2, 1]].tolist()
    both *= 1 if a * b >= 0 else -1
    a, b = abs(a), abs(b)
    rest = 1 - a**2 - b**2 - both**2 + 2 * a * b * both
    spread = 2 * rest * (n - 1) / (n - 3) + (a + b) ** 2 / 4 * (1 - both) ** 3
    return a, b, (a - b) * math.sqrt((n - 1) * (1 + both) / spread)

  def small_need_larger(self, rows: Rows) -> bool | None:
    """Whether the best lambda falls with the batch size, by rank.

    It is undecided if several lambdas may be the best and the answer depends on
    which is, or if the smallest or the largest one is the best for every batch.
    """
    best, found = self.best(rows), set()
    for choice in itertools.product(*best.values()):
      if set(choice) in ({LAMBDAS[0]}, {LAMBDAS[-1]}):
        return None
      equal = len(set(choice)) == 1
      rank = 0 if equal else stats.spearmanr(list(best), choice)[0]
      found.add(bool(rank < -0.5))
    return found.pop() if len(found) == 1 else None

  def best(self, rows: Rows) -> dict[int, list[float]]:
    """The lambdas that may be the best of each batch size."""
    found = {}
    for size in self.sizes(rows):
      at = {self.row(size, v): v for v in LAMBDAS}
      found[size] = [at[name] for name in rows.best(list(at))]
    return found

  def is_too_tight(self, rows: Rows) -> bool | None:
    """Whether at every batch size some lambda beats the smallest."""
    least, *others = LAMBDAS
    found = set()
    for size in self.sizes(rows):
      tight = self.row(size, least)
      better = {Above(self.row(size, v), tight)(rows) for v in others}
      found.add(True if True in better else None if None in better else False)
    return None if None in found else found == {True}


def rows(
  grids: Sequence[Grid], sizes: Sequence[int]
) -> dict[str, dict[str, Any]]:
  """The rows of grids, with the overrides of each."""
  return {
    grid.row(size, lambda_): {
      **grid.overrides,
      'batch_size': size,
      'optimizer.clipping': lambda_,
    }
    for grid in grids
    for size in sizes
    for lambda_ in LAMBDAS
  }


def checks(grids: Sequence[Grid]) -> dict[str, Check]:
  """The report's statements, about each network."""
  return {
    f'{grid.label}: {sentence}': check
    for grid in grids
    for sentence, check in {
      'batch size correlates negatively': Correlates(grid, 0, -1),
      'lambda correlates positively': Correlates(grid, 1, +1),
      'batch size matters more': study.Numbered(
        grid.batch_matters_more,
        lambda rows, grid=grid: (
          'plain correlations, without sign: batch size {:.2f}, lambda {:.2f}; '
          't = {:+.1f}, {}'
        ).format(*grid.compared(rows), grid.extent(rows)),
      ),
      'small batches need a larger lambda': study.Numbered(
        grid.small_need_larger,
        lambda rows, grid=grid: (
          'best lambda by batch: '
          + '; '.join(
            f'{size}: {" or ".join(map(str, best))}'
            for size, best in grid.best(rows).items()
          )
        ),
      ),
      'lambda 0.01 is too tight at every batch size': grid.is_too_tight,
    }.items()
  }


@dataclasses.dataclass(frozen=True)
class Correlates:
  """Checks the sign of a factor's partial correlation, given the other factor.

  It is undecided if the 95 % interval, by Fisher's transformation, contains 0.
  """

  grid: Grid
  factor: int  # 0: batch size, 1: lambda
  sign: int

  def __call__(self, rows: Rows) -> bool | None:
    low, _, high = self.interval(rows)  # NaN of fewer than five cells
    return (low > 0) == (self.sign > 0) if low * high > 0 else None

  def numbers(self, rows: Rows) -> str:
    low, middle, high = self.interval(rows)
    return (
      f'partial correlation {middle:+.2f} ({low:+.2f} to {high:+.2f}), '
      f'{self.grid.extent(rows)}'
    )

  def interval(self, rows: Rows) -> tuple[float, float, float]:
    """The interval's low end, the correlation, its high end."""
    inputs, top_1 = self.grid.judged(rows)
    if len(top_1) < 5:
      return math.nan, math.nan, math.nan
    found = partial_correlation(inputs, top_1, self.factor)
    half = 1.96 / math.sqrt(len(top_1) - 4)
    low, high = (math.tanh(math.atanh(found) + d) for d in (-half, half))
    return low, found, high


def partial_correlation(
  inputs: np.ndarray, top_1: np.ndarray, factor: int
) -> float:
  """The partial correlation of accuracy with a factor, given the other."""
  inverse = np.linalg.inv(_correlations(inputs, top_1))
  own, last = inverse[factor, factor], inverse[2, 2]
  return float(-inverse[factor, 2] / math.sqrt(own * last))


def _correlations(inputs: np.ndarray, top_1: np.ndarray) -> np.ndarray:
  """The correlations of batch size, lambda and accuracy, `[3, 3]`."""
  return np.corrcoef(inputs.T, top_1)


def interaction(inputs: np.ndarray, top_1: np.ndarray) -> float:
  """The share of the variance that two additive main effects leave."""
  left, _ = study.residuals(inputs.T, top_1)
  return float(np.var(left) / np.var(top_1))


def importance(inputs: np.ndarray, top_1: np.ndarray) -> np.ndarray:
  """A random forest's importances of batch size and lambda, `[2]`."""
  from sklearn.ensemble import RandomForestRegressor

  forest = RandomForestRegressor(100, random_state=0).fit(inputs, top_1)
  return forest.feature_importances_


def plot(grids: Sequence[Grid]) -> Plot:
  """Plots accuracy over lambda and parallel coordinates of each whole grid."""

  def panels(experiment: study.Experiment, rows: Rows) -> _figures.Panels:
    for grid in grids:
      with contextlib.suppress(study.NotRun):
        yield from _panels(grid, rows)

  return panels


def _panels(grid: Grid, rows: Rows) -> _figures.Panels:
  cells, found = grid.cells(rows), []
  for size in grid.sizes(rows):
    line = [cells[size, v] for v in LAMBDAS]
    means, spreads = zip(*((row.mean, row.spread) for row in line))
    found.append(_figures.Curve(f'batch {size}', LAMBDAS, means, spreads))
  yield _figures.Panel('lambda', 'top-1 (%)', found, grid.label, 'x')
  inputs, top_1 = grid.judged(rows)
  if len(top_1) >= 5:  # else there is no correlation
    yield partial(_parallel, inputs, top_1)


def _parallel(inputs: np.ndarray, top_1: np.ndarray, ax: Axes) -> None:
  """Draws each cell as a line through batch size, lambda and accuracy."""
  values = np.column_stack([inputs, top_1])
  low, high = values.min(0), values.max(0)
  shares = (values - low) / np.maximum(high - low, 1e-9)
  for line in shares[np.argsort(top_1)]:
    ax.plot(range(3), line, color=matplotlib.colormaps['viridis'](line[2]))
  for x, (column, numbers) in enumerate(zip(shares.T, values.T)):
    numbers = 2**numbers if x < 2 else numbers[[top_1.argmin(), top_1.argmax()]]
    column = column if x < 2 else (0, 1)
    ax.axvline(x, color='0.3', lw=1)
    for y, number in dict(zip(column, numbers)).items():
      ax.text(x + 0.04, y, f'{number:.3g}', va='center', fontsize=9)
  ax.set_xticks(range(3), ('batch size', 'lambda', 'test top-1 (%)'))
  ax.set_yticks([])
  ax.spines[:].set_visible(False)
  shares = importance(inputs, top_1)
  found = [
    f'{factor} {partial_correlation(inputs, top_1, k):+.2f} ({shares[k]:.2f})'
    for k, factor in enumerate(('batch size', 'lambda'))
  ]
  ax.set_title(
    f'partial correlation (importance):\n{", ".join(found)}\n'
    f'{interaction(inputs, top_1):.0%} of the variance is interaction',
    fontsize=9,
  )
