"""What an experiment is: its rows, their records, and checks of differences.

A file in experiments/ holds one `Experiment`, `EXPERIMENT`: a claim, rows that
override a recipe, and checks. `scripts.experiment` trains or measures the rows
and reports them. What a result means is written by hand, with its date, in
results/NAME/note.md.
"""

import dataclasses
import functools
import importlib
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy import special

from experiments import records

FULL = records.FULL
FOLDER = pathlib.Path(__file__).parent
# AGC lets a skip gain that starts at 0 move by rate x lambda / (1 - momentum) x
# 0.001 (AGC's epsilon) an update at first, later by that share of itself. It
# reaches 1 when the sum of rate x lambda / (1 - momentum) is 1 + ln 1000.
OPEN = 1 + math.log(1000)

Check = Callable[['Rows'], bool | None]
Checks = Mapping[str, Check]
Plot = Callable[['Experiment', 'Rows'], Iterable[Any]]


class NotRun(KeyError):
  """Raised for a row without a record."""


class Numbered(NamedTuple):
  """A check with a function that prints the numbers on which it rests."""

  check: Check
  numbers: Callable[['Rows'], str]

  def __call__(self, rows: 'Rows') -> bool | None:
    return self.check(rows)


@dataclasses.dataclass(frozen=True)
class Scale:
  """A size at which an experiment's rows are run."""

  note: str  # describes the scale in captions
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rows: Sequence[str] | None = None  # None for all
  shrink: Callable[[ConfigDict], None] | None = None  # after the overrides
  smoke: bool = False  # shows that rows train; decides no check


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A table or a figure.

  Attributes:
    rows: the overrides of the recipe, by dotted keys, of each row.
    config: the recipe of a row, before its overrides.
    checks: sentence to a function of one scale's rows that returns True, False,
      or None for undecided. Those of type `Above` were planned before the runs;
      there are at most five.
    explored: checks that were not planned.
    published: (number, trust tag, ...) of a row, or of anything else.
    scales: the fullest first.
    plot: the panels of one scale's rows, see `_figures`; may raise `NotRun`.
    labels: words for rows, or for the groups of rows that a plot shows.
    measure: measures a row's config, where nothing is trained.
    columns: header to cell of a row, instead of the columns of trained rows.
    spread: standard deviation over seeds and its degrees of freedom, borrowed
      from another experiment where this one has a single seed.
    image_seconds: time per training image of 32 pixels on two CPU cores.
  """

  title: str
  claim: str
  rows: Mapping[str, Mapping[str, Any]]
  config: Callable[[str], ConfigDict]
  checks: Checks = dataclasses.field(default_factory=dict)
  explored: Checks = dataclasses.field(default_factory=dict)
  published: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
  scales: Mapping[str, Scale] = dataclasses.field(
    default_factory=lambda: {FULL: Scale('')}
  )
  plot: Plot | None = None
  seeds: Sequence[int] = (0,)
  labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
  measure: Callable[[ConfigDict], Any] | None = None
  columns: Mapping[str, Callable[['Row'], Any]] | None = None
  spread: tuple[float, int] | None = None
  image_seconds: float = 0.356 / 128  # a ResNet-20's, results/speed.md

  def get_config(self, run: str) -> ConfigDict:
    """The config of 'row' or 'row@scale'.

    The scale's overrides are applied first, then the row's, then `shrink`.

    Raises:
      ValueError: there is no such row or scale, or the scale lacks the row.
    """
    row, _, scale = run.partition('@')
    scale = scale or FULL
    self.check_row(row, scale)
    config, at = self.config(row), self.scales[scale]
    config.update_from_flattened_dict(dict(at.overrides))
    config.update_from_flattened_dict(dict(self.rows[row]))
    if at.shrink:
      at.shrink(config)
    return config

  def label(self, row: str) -> str:
    return self.labels.get(row, row)

  def rows_at(self, scale: str) -> list[str]:
    """The rows of a scale, in order; ValueError if there is no such scale."""
    if scale not in self.scales:
      scales = ', '.join(self.scales)
      raise ValueError(f'no scale {scale!r}: choose one of {scales}')
    rows = self.scales[scale].rows
    return list(self.rows if rows is None else rows)

  def check_row(self, row: str, scale: str) -> None:
    """Raises ValueError if there is no such scale, or if it lacks the row."""
    rows = self.rows_at(scale)
    if row not in rows:
      at = [other for other in self.scales if row in self.rows_at(other)]
      also = f'; {row} is at {", ".join(at)}' if at else ''
      raise ValueError(
        f'no row {row!r} at scale {scale}: choose one of '
        f'{", ".join(rows)}{also}'
      )

  def gather(self, found: Iterable[records.Record]) -> dict[str, 'Rows']:
    """The recorded rows by scale, in the order of the experiment."""
    by_scale = {}
    for scale in self.scales:
      runs = {row: [] for row in self.rows}
      for record in found:
        if record['scale'] == scale and record['row'] in runs:
          runs[record['row']].append(record)
      for own in runs.values():
        records.require_alike(own)
      rows = {row: Row(row, tuple(rs)) for row, rs in runs.items() if rs}
      if rows:
        by_scale[scale] = Rows(rows, self.spread)
    return by_scale


@dataclasses.dataclass(frozen=True)
class Row:
  """The records of one row at one scale, over seeds."""

  name: str
  records: Sequence[records.Record]

  @functools.cached_property
  def by_seed(self) -> dict[int, float]:
    """Test top-1 of each finished run in %, of averaged parameters if any."""
    found = {}
    for record in self.records:
      summary = record.get('summary', {})
      top_1 = summary.get('eval_ema/top_1', summary.get('eval/top_1'))
      if record['status'] == 'finished' and top_1 is not None:
        found[record['seed']] = 100 * top_1
    return found

  @property
  def values(self) -> list[float]:
    return list(self.by_seed.values())

  @property
  def mean(self) -> float:
    """The mean of the finished runs; NaN if there is none."""
    return float(np.mean(self.values)) if self.values else math.nan

  @property
  def spread(self) -> float:
    """The standard deviation over seeds (n - 1); NaN for a single seed."""
    return float(np.std(self.values, ddof=1)) if self.values[1:] else math.nan

  @property
  def diverged(self) -> list[int]:
    """The number of updates after which each diverged run ended."""
    ends = [r['updates'] for r in self.records if r['status'] == 'diverged']
    return sorted(ends)

  @property
  def config(self) -> records.Config:
    return self.records[0]['config']

  @property
  def is_near_chance(self) -> bool:
    """Whether the accuracy is below twice that of guessing."""
    return self.mean < 2 * 100 / self.config['data']['num_classes']

  @property
  def updates(self) -> int:
    """The planned updates of the shortest run."""
    return min(record['config']['num_steps'] for record in self.records)

  @property
  def measured(self) -> Any:
    """What was measured, in the only record of a row."""
    (record,) = self.records
    return record.get('measured', record.get('signals'))

  @property
  def loss(self) -> float:
    """The mean of the finished runs' last logged training losses."""
    done = [r['curve'] for r in self.records if r['status'] == 'finished']
    losses = [[p['train/loss'] for p in c if 'train/loss' in p] for c in done]
    last = [values[-1] for values in losses if values]
    return float(np.mean(last)) if last else math.nan

  @functools.cached_property
  def growth(self) -> float:
    """The sum of learning rate x lambda / (1 - momentum) over the updates.

    A run whose skip gains start at 0 and are clipped by AGC says something
    about AGC only if this is at least `OPEN`. Infinity for any other run.
    """
    from nfnets import factory

    model = self.config.get('model', {})
    optimizer = self.config.get('optimizer', {})
    if (
      model.get('normalizer') != 'nf'
      or optimizer['clip'] != 'agc'
      or 'skip_gain' in optimizer['unclipped']
      or model.get('skipinit_gain', 0.0) > 0
      or self.config.get('weights')
    ):
      return math.inf
    rates = factory.schedule_of(ConfigDict(dict(self.config)))
    share = optimizer['clipping'] / (1 - optimizer['momentum'])
    return float(np.sum(rates(np.arange(self.config['num_steps']))) * share)

  @property
  def text(self) -> str:
    """Mean and spread of the finished runs, or 'diverged'."""
    if not self.values:
      return 'diverged'
    text = f'{self.mean:.2f}'
    text += '' if math.isnan(self.spread) else f' ± {self.spread:.2f}'
    return text + (' (near chance)' if self.is_near_chance else '')


class Rows(dict[str, Row]):
  """The rows of one scale by name; a missing one raises `NotRun`.

  Args:
    rows: name to row.
    borrowed: `Experiment.spread`, used where no two rows have two seeds.
  """

  def __init__(
    self,
    rows: Mapping[str, Row],
    borrowed: tuple[float, int] | None = None,
  ):
    super().__init__(rows)
    self._borrowed = borrowed

  def __missing__(self, name: str) -> Row:
    raise NotRun(name)

  def differences(self, a: str, b: str) -> list[float]:
    """a - b in points, for each seed with which both finished."""
    left, right = self[a].by_seed, self[b].by_seed
    return [left[seed] - right[seed] for seed in left if seed in right]

  @functools.cached_property
  def spread(self) -> tuple[float, int]:
    """The standard deviation of a run, and its degrees of freedom.

    It is of what row and seed, as additive effects, leave of the finished runs'
    accuracies. A difference of two rows then has sqrt(2) times this deviation,
    which is what pooling over all pairs of rows gives; but the pairs aren't
    independent, and the degrees of freedom take that into account. Rows near
    chance, where all seeds end alike, don't count.
    """
    runs = [
      (name, seed, top_1)
      for name, row in self.items()
      if not row.is_near_chance
      for seed, top_1 in row.by_seed.items()
    ]
    if runs:
      *factors, top_1 = map(np.array, zip(*runs))
      left, freedom = residuals(factors, top_1)
      if freedom:
        return math.sqrt(np.sum(left**2) / freedom), freedom
    return self._borrowed or (math.inf, 0)

  def interval(self, a: str, b: str) -> tuple[float, float, int]:
    """The mean of a - b, half its 95 % interval, and the number of seeds."""
    found, (deviation, freedom) = self.differences(a, b), self.spread
    if not found:
      return math.nan, math.inf, 0
    t = special.stdtrit(freedom, 0.975) if freedom else math.inf
    half = t * deviation * math.sqrt(2 / len(found))
    return float(np.mean(found)), float(half), len(found)

  def own_half(self, a: str, b: str) -> float:
    """Half the 95 % interval of a - b by the spread of its own pairs alone.

    It tells whether rows of unequal spread make the pooled one misleading.
    """
    found = self.differences(a, b)
    t = special.stdtrit(len(found) - 1, 0.975)
    return float(t * np.std(found, ddof=1) / math.sqrt(len(found)))

  def best(self, names: Sequence[str]) -> list[str]:
    """The best of these rows, and all that it isn't clearly `Above`."""
    done = [name for name in names if not self[name].diverged]
    if not done:
      return list(names)
    top = max(done, key=lambda name: self[name].mean)
    return [n for n in names if n == top or Above(top, n)(self) is not True]


@dataclasses.dataclass(frozen=True)
class Above:
  """Checks that one row is better than another by more than `by` points.

  Differences are paired by seed; the check is undecided if their 95 % t
  interval contains `by`. A row of which all runs diverged is worse than one of
  which none did; other unequal shares must agree with the interval. The check
  is also undecided if AGC can't have let the skip gains of one of them open.
  """

  better: str
  worse: str
  by: float = 0.0

  def __call__(self, rows: Rows) -> bool | None:
    a, b = rows[self.better], rows[self.worse]
    if min(a.growth, b.growth) < OPEN:
      return None
    shares = [len(row.diverged) / len(row.records) for row in (a, b)]
    mean, half, _ = rows.interval(self.better, self.worse)
    found = mean > self.by if abs(mean - self.by) > half else None
    if shares[0] == shares[1]:
      return found
    diverged_less = shares[0] < shares[1]
    is_clear = set(shares) == {0, 1} or found is diverged_less
    return diverged_less if is_clear else None

  def numbers(self, rows: Rows) -> str:
    """The difference with its interval, or the reason why there is none."""
    found = []
    for row in (rows[self.better], rows[self.worse]):
      if row.growth < OPEN:
        return f'gain growth of {row.name} {row.growth:.1f} of {OPEN:.1f}'
      if row.diverged:
        share = f'{len(row.diverged)} of {len(row.records)}'
        found.append(f'{row.name} diverged in {share}')
    mean, half, count = rows.interval(self.better, self.worse)
    if count:
      half = f' ± {half:.1f}' if math.isfinite(half) else ''
      if count > 1:
        half += f' (own pairs ± {rows.own_half(self.better, self.worse):.1f})'
      names = f'{self.better} - {self.worse}'
      found.append(f'{names} = {mean:+.1f}{half} points, {seeds(count)}')
    return '; '.join(found)


class Differs(Above):
  """Checks that two rows differ, in either direction."""

  def __call__(self, rows: Rows) -> bool | None:
    return None if super().__call__(rows) is None else True


def residuals(
  factors: Sequence[np.ndarray], values: np.ndarray
) -> tuple[np.ndarray, int]:
  """What additive effects of factors leave of values `[N]`.

  Returns:
    The residuals `[N]` of a least-squares fit, and their degrees of freedom.
  """
  effects = np.hstack([x[:, None] == np.unique(x) for x in factors]) * 1.0
  sizes, _, rank, _ = np.linalg.lstsq(effects, values, rcond=None)
  return values - effects @ sizes, len(values) - int(rank)


def seeds(count: int) -> str:
  """A number of seeds, in words."""
  return f'{count} seed{"" if count == 1 else "s"}'


def fewest(rows: Iterable[Row]) -> str:
  """The number of seeds that each of these rows has at least, in words."""
  return seeds(min((len(row.records) for row in rows), default=0))


def names() -> list[str]:
  """The names of all experiments."""
  files = sorted(FOLDER.glob('[!_]*.py'))
  return [p.stem for p in files if '\nEXPERIMENT = ' in p.read_text()]


def load(name: str) -> Experiment:
  """The experiment in a file of experiments/; ValueError if there is none."""
  if name not in names():
    raise ValueError(f'--experiment={name}: choose one of {", ".join(names())}')
  return importlib.import_module(f'experiments.{name}').EXPERIMENT
