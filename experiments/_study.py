"""What experiments share: scales, and the words of a verdict.

An experiment's run is named 'row', or 'row@scale' for one of its `SCALES`:
scale name to {'note': what a caption says of it, 'overrides': dotted config
overrides, 'rows': those it has, if not all}. 'full' is the default.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

FULL = 'full'
VERDICTS = (
  'borne out',
  'not borne out',
  'mixed',
  'undecided',
  'too short to tell',
  'not run',
)
# Fewer updates can't judge AGC: a skip gain starts at 0, and as long as it is
# below epsilon = 1e-3, AGC cuts its gradient to lambda 1e-3.
ENOUGH_UPDATES = 1000

CHANCE = 10.0  # %: what a diverged network is worth on CIFAR-10

Record = Mapping[str, Any]
Judgement = tuple[str, str]  # one of VERDICTS, and a sentence


def configure(
  config: ConfigDict,
  runs: Mapping[str, Mapping[str, Any]],
  scales: Mapping[str, Mapping[str, Any]],
  run: str,
) -> ConfigDict:
  """Applies a run's scale, then its row, to the experiment's own recipe.

  Args:
    config: changed in place, and returned.
    runs, scales: the experiment's `RUNS` and `SCALES`.
    run: 'row' or 'row@scale'.

  Raises:
    ValueError: for an unknown row or scale.
  """
  row, scale = known(runs, scales, run)
  config.update_from_flattened_dict(dict(scales[scale]['overrides']))
  config.update_from_flattened_dict(dict(runs[row]))
  return config


def known(
  runs: Iterable[str], scales: Iterable[str], run: str
) -> tuple[str, str]:
  """A run's row and scale; ValueError for an unknown one."""
  row, scale = split(run)
  if row not in runs:
    raise ValueError(f'no row {row!r}: choose one of {", ".join(runs)}')
  if scale not in scales:
    raise ValueError(f'no scale {scale!r}: choose one of {", ".join(scales)}')
  return row, scale


def split(run: str) -> tuple[str, str]:
  """'row@scale' in its two parts."""
  row, _, scale = run.partition('@')
  return row, scale or FULL


def rows_of(
  scale: str,
  runs: Iterable[str],
  scales: Mapping[str, Mapping[str, Any]],
) -> list[str]:
  """The rows that a scale has, in order."""
  return list(scales[scale].get('rows', runs))


def runs_of(
  records: Sequence[Record],
  runs: Iterable[str],
  scales: Mapping[str, Mapping[str, Any]],
) -> list[str]:
  """The rows that the records' scale has; they are of one."""
  return rows_of(records[0].get('scale', FULL), runs, scales)


def by_scale(
  records: Iterable[Record], scales: Iterable[str]
) -> dict[str, list[Record]]:
  """The records of each scale that has some, in the order of `scales`."""
  records = list(records)
  groups = {
    scale: [r for r in records if r.get('scale', FULL) == scale]
    for scale in scales
  }
  return {scale: group for scale, group in groups.items() if group}


class Row(NamedTuple):
  """A row's runs over seeds. `values` are the finished ones' test top-1, %.

  One that ended below twice chance is marked in `text`: it has hardly trained.
  """

  values: tuple[float, ...]
  diverged: int
  updates: int  # of the shortest run, as planned
  images: int = 0  # those updates times the batch size
  chance: float = CHANCE

  @property
  def mean(self) -> float:
    return statistics.fmean(self.values) if self.values else math.nan

  @property
  def spread(self) -> float:
    """Standard deviation over seeds (n - 1); not a number for one seed."""
    several = len(self.values) > 1
    return statistics.stdev(self.values) if several else math.nan

  @property
  def worth(self) -> float:
    """The mean over all runs, where a diverged one counts as chance."""
    return statistics.fmean((*self.values, *[self.chance] * self.diverged))

  @property
  def text(self) -> str:
    """Mean and spread, and what diverged; a mean is never of survivors only."""
    if self.diverged and not self.values:
      return 'diverged'
    dead = sum(value < 2 * self.chance for value in self.values)
    finished = len(self.values)
    share = f'{dead} of {finished} ' if dead < finished else ''
    mark = f' ({share}near chance)' if dead else ''
    if self.diverged:
      runs = finished + self.diverged
      values = ', '.join(f'{value:.2f}' for value in self.values)
      return f'diverged in {self.diverged} of {runs}; else {values}{mark}'
    spread = '' if math.isnan(self.spread) else f' ± {self.spread:.2f}'
    return f'{self.mean:.2f}{spread}{mark}'


def gather(records: Iterable[Record]) -> dict[str, Row]:
  """Each row's runs, by row in the order of the records."""
  found: dict[str, list[Record]] = {}
  for record in records:
    found.setdefault(record['row'], []).append(record)
  return {row: _row(runs) for row, runs in found.items()}


def _row(runs: Sequence[Record]) -> Row:
  done = [r for r in runs if r['status'] == 'finished']
  shortest = min(runs, key=planned)
  config = shortest['config']
  classes = config.get('data', {}).get('num_classes')
  return Row(
    tuple(100 * r['summary']['eval/top_1'] for r in done),
    len(runs) - len(done),
    planned(shortest),
    planned(shortest) * config.get('batch_size', 0),
    100 / classes if classes else CHANCE,
  )


def planned(record: Record) -> int:
  """How many updates the run was to make."""
  return record['config']['num_steps']


def judge(
  records: Iterable[Record],
  scales: Iterable[str],
  of_scale: Callable[[Mapping[str, Row]], Judgement],
  updates: int = ENOUGH_UPDATES,
) -> Judgement:
  """Asks each scale that has records, the fullest first, until one can tell.

  Args:
    records: of an experiment.
    scales: its `SCALES`, the fullest first.
    of_scale: from one scale's rows (see `gather`) to a word and a sentence.
    updates: with fewer in some run, it is too short to tell and `of_scale`
      isn't asked. 0 for a claim that AGC has no part in.
  """
  answer = ('not run', 'No record is committed yet.')
  for scale, group in by_scale(records, scales).items():
    rows = gather(group)
    word, why = too_short(rows.values(), updates) or of_scale(rows)
    assert word in VERDICTS, word
    prefix = '' if scale == FULL else f'At scale {scale}: '
    if word not in ('not run', 'too short to tell'):
      return word, prefix + why
    if answer[0] == 'not run':
      answer = word, prefix + why
  return answer


def weigh(findings: Mapping[str, bool | str]) -> Judgement:
  """All of the findings, none of them, or some; and which.

  Args:
    findings: each part of a claim, and whether the runs show it, or one of
      `VERDICTS` where they can't tell.
  """
  told = '; '.join(
    f'{what}: {found if isinstance(found, str) else "yes" if found else "no"}'
    for what, found in findings.items()
  )
  found = set(findings.values())
  if found >= {True, False}:
    word = 'mixed'
  elif len(found) > 1:
    word = 'undecided'
  else:
    (one,) = found
    word = {True: 'borne out', False: 'not borne out'}.get(one, one)
  return word, f'{told}.'


def weigh_parts(
  parts: Mapping[str, tuple[Sequence[str], Callable[..., bool | str]]],
  rows: Mapping[str, Row],
) -> Judgement:
  """As `weigh`; 'not run' while a row is missing, with what is known so far.

  Args:
    parts: each part of a claim to the rows that it compares, in its order, and
      a function of those that says whether they show it.
    rows: see `gather`.
  """
  findings = {
    f'{what} ({" against ".join(rows[name].text for name in names)})': holds(
      *(rows[name] for name in names)
    )
    for what, (names, holds) in parts.items()
    if set(names) <= set(rows)
  }
  needed = [name for names, _ in parts.values() for name in names]
  left = missing(dict.fromkeys(needed), rows)
  if not left:
    return weigh(findings)
  known = f' So far: {weigh(findings)[1]}' if findings else ''
  return 'not run', left + known


def beside(
  parts: Mapping[str, tuple[Sequence[str], Callable[..., bool | str]]],
  rows: Mapping[str, Row],
) -> str:
  """What else the runs show, as a sentence; empty if there is nothing."""
  there = {
    what: part for what, part in parts.items() if set(part[0]) <= set(rows)
  }
  return f' Beside the claim: {weigh_parts(there, rows)[1]}' if there else ''


def missing(runs: Iterable[str], rows: Mapping[str, Row]) -> str:
  """Which rows have no record yet, as a sentence; empty if all have."""
  names = [row for row in runs if row not in rows]
  return f'{", ".join(names)}: no record yet.' if names else ''


def too_short(
  rows: Iterable[Row], enough: int = ENOUGH_UPDATES
) -> Judgement | None:
  """The verdict 'too short to tell', if a run had too few updates for AGC."""
  updates = min((row.updates for row in rows), default=enough)
  if updates >= enough:
    return None
  return 'too short to tell', (
    f'{updates} updates are too few: AGC wants about {enough} before the skip '
    'gains have grown.'
  )
