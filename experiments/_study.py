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
  'too short to tell',
  'not run',
)
TRUST = {
  'P': "paper's text or table",
  'C': 'released code',
  'K': 'computed with the released code',
  'D': "digitised from the paper's figure, ± 0.05 points",
  'R': "paper's text or table",
  'S': 'second hand: public notes on the paper',
  'M': 'from memory, not verified: never a criterion',
  'T': 'timm',
}
# Fewer updates can't judge AGC: skip gains start at 0 and grow by no more than
# lr lambda 1e-3 a step (PAPER_FACTS 5.5).
ENOUGH_UPDATES = 1000

CHANCE = 10.0  # %: what a diverged network is worth on CIFAR-10
ONE_RUN = 1.0  # percentage points between single runs that say nothing

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
  """A row's runs over seeds. `values` are the finished ones' test top-1, %."""

  values: tuple[float, ...]
  diverged: int
  updates: int  # of the shortest run, as planned

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
    return statistics.fmean((*self.values, *[CHANCE] * self.diverged))

  @property
  def text(self) -> str:
    """Mean and spread, and what diverged; a mean is never of survivors only."""
    if self.diverged and not self.values:
      return 'diverged'
    if self.diverged:
      runs = len(self.values) + self.diverged
      values = ', '.join(f'{value:.2f}' for value in self.values)
      return f'diverged in {self.diverged} of {runs}; else {values}'
    spread = '' if math.isnan(self.spread) else f' ± {self.spread:.2f}'
    return f'{self.mean:.2f}{spread}'


def gather(records: Iterable[Record]) -> dict[str, Row]:
  """Each row's runs, by row in the order of the records."""
  found: dict[str, list[Record]] = {}
  for record in records:
    found.setdefault(record['row'], []).append(record)
  return {row: _row(runs) for row, runs in found.items()}


def _row(runs: Sequence[Record]) -> Row:
  done = [r for r in runs if r['status'] == 'finished']
  return Row(
    tuple(100 * r['summary']['eval/top_1'] for r in done),
    len(runs) - len(done),
    min(planned(r) for r in runs),
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


def weigh(findings: Mapping[str, bool]) -> Judgement:
  """All of the findings, none of them, or some; and which.

  Args:
    findings: each part of a claim, and whether the runs show it.
  """
  holding = sum(findings.values())
  word = 'mixed'
  if holding in (0, len(findings)):
    word = 'borne out' if holding else 'not borne out'
  told = [
    f'{what}: {"yes" if holds else "no"}' for what, holds in findings.items()
  ]
  return word, '; '.join(told) + '.'


def weigh_parts(
  parts: Mapping[str, tuple[Sequence[str], Callable[..., bool]]],
  rows: Mapping[str, Row],
) -> Judgement:
  """As `weigh`; 'not run' while a row is missing, with what is known so far.

  Args:
    parts: each part of a claim to the rows it is about, and a function of
      those that says whether they show it.
    rows: see `gather`.
  """
  findings = {
    what: holds(*(rows[name] for name in names))
    for what, (names, holds) in parts.items()
    if set(names) <= set(rows)
  }
  needed = [name for names, _ in parts.values() for name in names]
  left = missing(dict.fromkeys(needed), rows)
  if not left:
    return weigh(findings)
  known = f' So far: {weigh(findings)[1]}' if findings else ''
  return 'not run', left + known


def missing(runs: Iterable[str], rows: Mapping[str, Row]) -> str:
  """Which rows have no record yet, as a sentence; empty if all have."""
  names = [row for row in runs if row not in rows]
  return f'{", ".join(names)}: no record yet.' if names else ''


def below(a: Row, b: Row, margin: float = 0.0) -> bool:
  """Whether a is worse than b by more than the margin and what seeds explain.

  A row in which a run diverged is worse than one in which none did. What seeds
  explain is two standard errors of the difference; of single runs, a point.
  """
  if bool(a.diverged) != bool(b.diverged):
    return bool(a.diverged)
  if not (a.values and b.values):
    return False
  if len(a.values) > 1 and len(b.values) > 1:
    noise = 2 * math.hypot(
      a.spread / math.sqrt(len(a.values)), b.spread / math.sqrt(len(b.values))
    )
  else:
    noise = ONE_RUN
  return b.mean - a.mean > margin + noise


def differ(a: Row, b: Row) -> bool:
  """Whether one of them is `below` the other."""
  return below(a, b) or below(b, a)


def tags(paper: Mapping[str, tuple], runs: Iterable[str]) -> str:
  """What the published numbers' trust tags mean; empty without a number."""
  found = sorted({entry[1] for row in runs if (entry := paper.get(row))})
  trust = '; '.join(f'[{tag}] {TRUST[tag]}' for tag in found)
  return f'Published: {trust}.' if trust else ''


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
  """Spearman's, from -1 to 1; equals share their rank, all equal give 0."""
  if len(set(x)) == 1 or len(set(y)) == 1:
    return 0.0
  ranks = [
    [sum(b < a for b in v) + sum(b == a for b in v) / 2 for a in v]
    for v in (x, y)
  ]
  return statistics.correlation(*ranks)


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
