"""An experiment as data; its rows, and what can be said of their differences.

A file of experiments/ holds one `Experiment`, `EXPERIMENT`: a claim, rows that
are overrides of a recipe, and checks. `scripts.experiment` trains or measures
rows and reports them; what a result means is written by hand, with its date, in
results/NAME/note.md.
"""

import dataclasses
import functools
import importlib
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict
from scipy import special

from experiments import records

if TYPE_CHECKING:
  from matplotlib.figure import Figure

FULL = records.FULL
FOLDER = pathlib.Path(__file__).parent
# A skip gain of 0 that AGC clips moves at first by rate x lambda / (1 -
# momentum) x 0.001 (AGC's epsilon) an update, later by as much of itself: it is
# 1 when the sum of rate x lambda / (1 - momentum) is 1 + ln 1000.
OPEN = 1 + math.log(1000)

Check = Callable[['Rows'], bool | None]
Checks = Mapping[str, Check]
Plot = Callable[['Experiment', Mapping[str, 'Rows']], 'Figure']


class NotRun(KeyError):
  """A row that has no record."""


@dataclasses.dataclass(frozen=True)
class Scale:
  """A size at which an experiment's rows are run."""

  note: str  # what a caption says of it
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rows: Sequence[str] | None = None  # those it has, if not all
  shrink: Callable[[ConfigDict], None] | None = None  # after the overrides
  smoke: bool = False  # shows that rows train; nothing is checked on it


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A table or a figure.

  Attributes:
    rows: name to dotted overrides of the recipe.
    config: a row's recipe before its overrides.
    checks: sentence to a function of one scale's rows: True, False or None for
      undecided. At most five compare rows (`Above`): they are planned.
    explored: checks that nobody planned.
    published: row, or anything else, to (number, trust tag, ...).
    scales: the fullest first.
    plot: draws what is found, by scale; `NotRun` if that is nothing.
    labels: of rows, or of what a plot groups them by, in words.
    measure: from a row's config to what is recorded, where nothing is trained.
    columns: header to cell of a row, in the place of accuracies.
    spread: standard deviation over seeds and its degrees of freedom, borrowed
      from another experiment where this one has one seed.
    image_seconds: two CPU cores' time of a training image of 32 pixels.
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
    """The config of 'row' or 'row@scale': scale, row, then what shrinks it.

    Raises:
      ValueError: for an unknown row or scale, or a row that the scale lacks.
    """
    row, _, scale = run.partition('@')
    scale = scale or FULL
    for kind, name, known in (
      ('scale', scale, self.scales),
      ('row', row, self.rows),
      (f'row at scale {scale}', row, self.rows_at(scale)),
    ):
      if name not in known:
        raise ValueError(
          f'no {kind} {name!r}: choose one of {", ".join(known)}'
        )
    config, at = self.config(row), self.scales[scale]
    config.update_from_flattened_dict(dict(at.overrides))
    config.update_from_flattened_dict(dict(self.rows[row]))
    if at.shrink:
      at.shrink(config)
    return config

  def label(self, row: str) -> str:
    return self.labels.get(row, row)

  def rows_at(self, scale: str) -> list[str]:
    """The rows that a scale has, in order; of an unknown one none."""
    rows = self.scales[scale].rows if scale in self.scales else ()
    return list(self.rows if rows is None else rows)

  def gather(self, found: Iterable[records.Record]) -> dict[str, 'Rows']:
    """The rows of each scale that has a record, both in the file's order."""
    by_scale = {}
    for scale in self.scales:
      runs = {row: [] for row in self.rows}
      for record in found:
        if record['scale'] == scale and record['row'] in runs:
          runs[record['row']].append(record)
      rows = {row: Row(row, tuple(rs)) for row, rs in runs.items() if rs}
      if rows:
        checks = (*self.checks.values(), *self.explored.values())
        pairs = [(c.better, c.worse) for c in checks if isinstance(c, Above)]
        by_scale[scale] = Rows(rows, pairs, self.spread)
    return by_scale


@dataclasses.dataclass(frozen=True)
class Row:
  """The records of one row at one scale, over seeds."""

  name: str
  records: Sequence[records.Record]

  @functools.cached_property
  def by_seed(self) -> dict[int, float]:
    """Test top-1 in % of each finished run, of averaged parameters if any."""
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
    """Of the finished runs; not a number without one."""
    return float(np.mean(self.values)) if self.values else math.nan

  @property
  def spread(self) -> float:
    """Standard deviation over seeds (n - 1); not a number for one seed."""
    return float(np.std(self.values, ddof=1)) if self.values[1:] else math.nan

  @property
  def diverged(self) -> list[int]:
    """After how many updates each diverged run ended."""
    ends = [r['updates'] for r in self.records if r['status'] == 'diverged']
    return sorted(ends)

  @property
  def config(self) -> records.Config:
    return self.records[0]['config']

  @property
  def is_near_chance(self) -> bool:
    """Below twice what guessing is worth."""
    return self.mean < 2 * 100 / self.config['data']['num_classes']

  @property
  def updates(self) -> int:
    """Planned, of the shortest run."""
    return min(record['config']['num_steps'] for record in self.records)

  @property
  def measured(self) -> Any:
    """What the only record of a measured row holds."""
    (record,) = self.records
    return record.get('measured', record.get('signals'))

  @property
  def loss(self) -> float:
    """Mean of the finished runs' last logged training losses."""
    done = [r['curve'] for r in self.records if r['status'] == 'finished']
    losses = [[p['train/loss'] for p in c if 'train/loss' in p] for c in done]
    last = [values[-1] for values in losses if values]
    return float(np.mean(last)) if last else math.nan

  @functools.cached_property
  def growth(self) -> float:
    return gain_growth(self.config)

  @property
  def text(self) -> str:
    """Mean and spread of the finished runs; 'diverged' if there is none."""
    if not self.values:
      return 'diverged'
    text = f'{self.mean:.2f}'
    text += '' if math.isnan(self.spread) else f' ± {self.spread:.2f}'
    return text + (' (near chance)' if self.is_near_chance else '')


class Rows(dict[str, Row]):
  """One scale's rows by name; a missing one raises `NotRun`.

  Args:
    rows: name to row.
    pairs: whose differences the spread is pooled over.
    borrowed: `Experiment.spread`, used where no pair has two seeds.
  """

  def __init__(
    self,
    rows: Mapping[str, Row],
    pairs: Sequence[tuple[str, str]] = (),
    borrowed: tuple[float, int] | None = None,
  ):
    super().__init__(rows)
    self._pairs, self._borrowed = pairs, borrowed

  def __missing__(self, name: str) -> Row:
    raise NotRun(name)

  def differences(self, a: str, b: str) -> list[float]:
    """a - b by seed, where both finished; in points."""
    left, right = self[a].by_seed, self[b].by_seed
    return [left[seed] - right[seed] for seed in left if seed in right]

  @functools.cached_property
  def spread(self) -> tuple[float, int]:
    """Of a pair's differences over seeds, and its degrees of freedom."""
    pairs = {tuple(sorted(pair)) for pair in self._pairs}  # each once
    there = sorted(pair for pair in pairs if set(pair) <= set(self))
    found = [self.differences(*pair) for pair in there]
    squares = sum(len(values) * np.var(values) for values in found if values)
    freedom = sum(len(values) - 1 for values in found if values)
    if freedom:
      return math.sqrt(squares / freedom), freedom
    deviation, freedom = self._borrowed or (math.inf, 0)
    return math.sqrt(2) * deviation, freedom

  def interval(self, a: str, b: str) -> tuple[float, float, int]:
    """Mean of a - b, half its 95 % interval, and the number of seeds."""
    found, (deviation, freedom) = self.differences(a, b), self.spread
    if not found:
      return math.nan, math.inf, 0
    t = special.stdtrit(freedom, 0.975) if freedom else math.inf
    half = t * deviation / math.sqrt(len(found))
    return float(np.mean(found)), float(half), len(found)

  def best(self, names: Sequence[str]) -> list[str]:
    """The best of these rows, and those that it isn't clearly `Above`."""
    done = [name for name in names if not self[name].diverged]
    if not done:
      return list(names)
    top = max(done, key=lambda name: self[name].mean)
    return [n for n in names if n == top or Above(top, n)(self) is not True]


@dataclasses.dataclass(frozen=True)
class Above:
  """Checks that a row is better than another by more than so many points.

  Differences are paired by seed; within their t interval it is undecided. Of
  rows that diverged in unequal shares the one that did so less is better. A row
  whose skip gains AGC can't have opened decides nothing.
  """

  better: str
  worse: str
  by: float = 0.0

  def __call__(self, rows: Rows) -> bool | None:
    a, b = rows[self.better], rows[self.worse]
    if min(a.growth, b.growth) < OPEN:
      return None
    shares = [len(row.diverged) / len(row.records) for row in (a, b)]
    if shares[0] != shares[1]:
      return shares[0] < shares[1]
    mean, half, _ = rows.interval(self.better, self.worse)
    return mean > self.by if abs(mean - self.by) > half else None

  def told(self, rows: Rows) -> str:
    """The difference with its interval, and what forbids one."""
    told = []
    for row in (rows[self.better], rows[self.worse]):
      if row.growth < OPEN:
        return f'gain growth of {row.name} {row.growth:.1f} of {OPEN:.1f}'
      if row.diverged:
        share = f'{len(row.diverged)} of {len(row.records)}'
        told.append(f'{row.name} diverged in {share}')
    mean, half, count = rows.interval(self.better, self.worse)
    if count:
      half = f' ± {half:.1f}' if math.isfinite(half) else ''
      seeds = f'{count} seed{"s" if count > 1 else ""}'
      names = f'{self.better} - {self.worse}'
      told.append(f'{names} = {mean:+.1f}{half} points, {seeds}')
    return '; '.join(told)


class Differs(Above):
  """Checks that two rows differ, whichever is better."""

  def __call__(self, rows: Rows) -> bool | None:
    return None if super().__call__(rows) is None else True


def gain_growth(config: records.Config) -> float:
  """The sum of learning rate x lambda / (1 - momentum) over a run's updates.

  AGC can be judged if it is `OPEN` or more, where skip gains start at 0.

  Args:
    config: resolved, as a record holds it.

  Returns:
    The sum; infinite where AGC clips no skip gain that starts at 0.
  """
  from nfnets import factory

  model, optimizer = config.get('model', {}), config.get('optimizer', {})
  if (
    model.get('normalizer') != 'nf'
    or optimizer['clip'] != 'agc'
    or 'skip_gain' in optimizer['unclipped']
    or model.get('skipinit_gain', 0.0) > 0
    or config.get('weights')
  ):
    return math.inf
  schedule = factory.schedule_of(ConfigDict(dict(config)))
  share = optimizer['clipping'] / (1 - optimizer['momentum'])
  return float(np.sum(schedule(np.arange(config['num_steps']))) * share)


def names() -> list[str]:
  """Every experiment's."""
  files = sorted(FOLDER.glob('[!_]*.py'))
  return [p.stem for p in files if '\nEXPERIMENT = ' in p.read_text()]


def load(name: str) -> Experiment:
  """An experiment by its file's name; ValueError for an unknown one."""
  if name not in names():
    raise ValueError(f'--experiment={name}: choose one of {", ".join(names())}')
  return importlib.import_module(f'experiments.{name}').EXPERIMENT
