"""Accuracy over a grid of batch sizes and AGC's lambdas: checks and the plot.

Batch size and lambda stand for their logarithms. A cell is the mean over seeds.
Left out of correlations are cells with a diverged run, at less than twice
chance, or whose skip gains AGC can't have opened.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import special, stats

from experiments import _figures
from experiments.study import OPEN, Above, Experiment, NotRun, Plot, Row, Rows

LAMBDAS = (0.01, 0.04, 0.16, 0.64)


class Grid(NamedTuple):
  """The rows `{network}_b{size}_l{lambda}` of a network, four by four."""

  network: str
  name: str

  def row(self, size: int, lambda_: float) -> str:
    return f'{self.network}_b{size}_l{lambda_:g}'

  def sizes(self, rows: Rows) -> list[int]:
    """The batch sizes there are; `NotRun` if a cell is missing."""
    names = [name.split('_') for name in rows]
    sizes = {int(b[1:]) for network, b, _ in names if network == self.network}
    for size, lambda_ in itertools.product(sizes, LAMBDAS):
      rows[self.row(size, lambda_)]
    if len(sizes) < 4:
      raise NotRun(self.name)
    return sorted(sizes)

  def cells(self, rows: Rows) -> dict[tuple[int, float], Row]:
    places = itertools.product(self.sizes(rows), LAMBDAS)
    return {place: rows[self.row(*place)] for place in places}

  def judged(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """log2 of batch size and lambda `[N, 2]` and test top-1 `[N]`."""
    cells = {
      place: row.mean
      for place, row in self.cells(rows).items()
      if not row.diverged and row.growth >= OPEN and row.mean >= 2 * row.chance
    }
    places = np.array(list(cells)).reshape(-1, 2)
    return np.log2(places), np.array(list(cells.values()))


@dataclasses.dataclass(frozen=True)
class Correlates:
  """Checks the sign of a partial correlation, the other factor removed.

  Undecided within its 95 % interval by Fisher's transformation.
  """

  grid: Grid
  factor: int  # 0: batch size, 1: lambda
  sign: int

  def __call__(self, rows: Rows) -> bool | None:
    partial, count = self._partial(rows)
    clear = math.tanh(1.96 / math.sqrt(max(count - 4, 0.1)))
    return self.sign * partial > 0 if abs(partial) > clear else None

  def told(self, rows: Rows) -> str:
    partial, count = self._partial(rows)
    return f'partial correlation {partial:+.2f}, {count} cells'

  def _partial(self, rows: Rows) -> tuple[float, int]:
    inputs, top_1 = self.grid.judged(rows)
    if len(top_1) < 3:
      return 0.0, len(top_1)
    other = np.column_stack([inputs[:, 1 - self.factor], np.ones(len(top_1))])
    left = [
      values - other @ np.linalg.lstsq(other, values, rcond=None)[0]
      for values in (inputs[:, self.factor], top_1)
    ]
    return _correlation(*left), len(top_1)


@dataclasses.dataclass(frozen=True)
class MattersMore:
  """Checks that accuracy correlates more with batch size than with lambda.

  By Williams' t test of two correlations that share a variable.
  """

  grid: Grid

  def __call__(self, rows: Rows) -> bool | None:
    inputs, top_1 = self.grid.judged(rows)
    count = len(top_1)
    if count < 5:
      return None
    signed = inputs * [_sign(x, top_1) for x in inputs.T]
    a, b = (_correlation(x, top_1) for x in signed.T)
    both = _correlation(*signed.T)
    rest = 1 - a**2 - b**2 - both**2 + 2 * a * b * both
    spread = 2 * rest * (count - 1) / (count - 3)
    spread += (a + b) ** 2 / 4 * (1 - both) ** 3
    t = (a - b) * math.sqrt((count - 1) * (1 + both) / spread)
    return t > 0 if abs(t) > special.stdtrit(count - 3, 0.975) else None

  def told(self, rows: Rows) -> str:
    inputs, top_1 = self.grid.judged(rows)
    if len(top_1) < 5:
      return f'{len(top_1)} cells'
    a, b = (_correlation(x, top_1) for x in inputs.T)
    together = interaction(inputs, top_1)
    return (
      f'correlations {a:+.2f} and {b:+.2f}; {together:.0%} of the variance is '
      'their interaction'
    )


@dataclasses.dataclass(frozen=True)
class WantsMore:
  """Checks that the smaller the batch, the larger its best lambda.

  Undecided where it depends on which of several is the best, or where the best
  lies at the same end of those tried for every batch.
  """

  grid: Grid

  def __call__(self, rows: Rows) -> bool | None:
    found = set()
    best = self._best(rows)
    for choice in itertools.product(*best.values()):
      if set(choice) in ({LAMBDAS[0]}, {LAMBDAS[-1]}):
        return None
      equal = len(set(choice)) == 1
      rank = 0 if equal else stats.spearmanr(list(best), choice)[0]
      found.add(bool(rank < -0.5))
    return found.pop() if len(found) == 1 else None

  def told(self, rows: Rows) -> str:
    best = self._best(rows)
    return 'best lambda: ' + '; '.join(
      f'{" or ".join(f"{value:g}" for value in values)} at {size}'
      for size, values in best.items()
    )

  def _best(self, rows: Rows) -> dict[int, list[float]]:
    names = {
      size: {self.grid.row(size, value): value for value in LAMBDAS}
      for size in self.grid.sizes(rows)
    }
    return {
      size: [there[name] for name in rows.best(list(there))]
      for size, there in names.items()
    }


@dataclasses.dataclass(frozen=True)
class TooTight:
  """Checks that at every batch size some lambda beats the smallest."""

  grid: Grid

  def __call__(self, rows: Rows) -> bool | None:
    tight, *others = LAMBDAS
    found = []
    for size in self.grid.sizes(rows):
      least = self.grid.row(size, tight)
      names = [self.grid.row(size, value) for value in others]
      better = [Above(name, least)(rows) for name in names]
      found.append(
        True if True in better else None if None in better else False
      )
    return None if None in found else all(found)


def checks(*grids: Grid) -> list[tuple[str, object]]:
  """What the report says of each network."""
  return [
    (f'{grid.name}: {sentence}', check)
    for grid in grids
    for sentence, check in (
      ('batch size correlates negatively', Correlates(grid, 0, -1)),
      ('lambda correlates positively', Correlates(grid, 1, 1)),
      ('batch size matters more', MattersMore(grid)),
      ('small batches want a bigger lambda', WantsMore(grid)),
      ('lambda 0.01 is too tight at every batch size', TooTight(grid)),
    )
  ]


def interaction(inputs: np.ndarray, top_1: np.ndarray) -> float:
  """The share of the variance that isn't the sum of the factors' effects."""
  levels = [x[:, None] == np.unique(x) for x in inputs.T]
  effects = np.column_stack([*levels]).astype(float)
  fit = effects @ np.linalg.lstsq(effects, top_1, rcond=None)[0]
  return float(np.var(top_1 - fit) / np.var(top_1))


def importance(inputs: np.ndarray, top_1: np.ndarray) -> np.ndarray:
  """A random forest's, of batch size and of lambda `[2]`."""
  from sklearn.ensemble import RandomForestRegressor

  forest = RandomForestRegressor(100, random_state=0).fit(inputs, top_1)
  return forest.feature_importances_


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
  if np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9:
    return 0.0
  return float(np.corrcoef(x, y)[0, 1])


def _sign(x: np.ndarray, y: np.ndarray) -> float:
  return 1.0 if _correlation(x, y) >= 0 else -1.0


def plot(*grids: Grid) -> Plot:
  """Heat maps above parallel coordinates, a column for each network."""

  def draw(experiment: Experiment, found: Mapping[str, Rows]) -> Figure | None:
    whole = []
    for grid in grids:
      with contextlib.suppress(NotRun):
        grid.cells(next(iter(found.values()), Rows({})))
        whole.append(grid)
    if not whole:
      return None
    made, rows = _figures.figure(experiment, found, 5.2 * len(whole), 8)
    axes = made.subplots(2, len(whole), squeeze=False)
    for grid, heat, lines in zip(whole, *axes):
      inputs, top_1 = grid.judged(rows)
      _heat_map(heat, grid.cells(rows))
      heat.set_title(grid.name, fontsize=10)
      _parallel(lines, 2**inputs, top_1)
      shares = importance(inputs, top_1)
      told = f'importance: batch size {shares[0]:.2f}, lambda {shares[1]:.2f}'
      lines.set_title(told, fontsize=9)
    return made

  return draw


def _heat_map(ax: Axes, cells: Mapping[tuple[int, float], Row]) -> None:
  sizes = sorted({size for size, _ in cells})
  means = np.array([[cells[s, v].mean for s in sizes] for v in LAMBDAS])
  image = ax.imshow(means, origin='lower', cmap='viridis', aspect='auto')
  middle = (np.nanmin(means) + np.nanmax(means)) / 2
  for (y, value), (x, size) in itertools.product(
    enumerate(LAMBDAS), enumerate(sizes)
  ):
    row = cells[size, value]
    text = 'diverged' if row.diverged else f'{row.mean:.1f}'
    dark = means[y, x] > middle or math.isnan(means[y, x])
    color = 'black' if dark else 'white'
    ax.text(x, y, text, ha='center', va='center', color=color)
  ax.set_xticks(range(len(sizes)), sizes)
  ax.set_yticks(range(len(LAMBDAS)), [f'{value:g}' for value in LAMBDAS])
  ax.set_xlabel('batch size')
  ax.set_ylabel('lambda')
  ax.figure.colorbar(image, ax=ax, label='test top-1 (%)')


def _parallel(ax: Axes, places: np.ndarray, top_1: np.ndarray) -> None:
  """A line for each cell: batch size, lambda, accuracy."""
  values = np.column_stack([np.log2(places), top_1])
  low, high = values.min(0), values.max(0)
  shares = (values - low) / np.maximum(high - low, 1e-9)
  for line in shares[np.argsort(top_1)]:
    color = matplotlib.colormaps['viridis'](line[2])
    ax.plot(range(3), line, color=color, lw=1.8, alpha=0.9)
  middle = f'{(low[2] + high[2]) / 2:.1f}'
  ticks = (
    {share: f'{size:g}' for share, size in zip(shares[:, 0], places[:, 0])},
    {share: f'{value:g}' for share, value in zip(shares[:, 1], places[:, 1])},
    {0: f'{low[2]:.1f}', 0.5: middle, 1: f'{high[2]:.1f}'},
  )
  box = {'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.8, 'pad': 1}
  for x, marks in enumerate(ticks):
    ax.axvline(x, color='0.3', lw=1)
    for y, text in marks.items():
      ax.text(x + 0.04, y, text, va='center', fontsize=9, zorder=9, bbox=box)
  ax.set_xticks(range(3), ('batch size', 'lambda', 'test top-1 (%)'))
  ax.set_xlim(-0.1, 2.35)
  ax.set_ylim(-0.05, 1.05)
  ax.set_yticks([])
  ax.spines[:].set_visible(False)
