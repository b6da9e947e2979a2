"""When two rows of an experiment differ by more than their seeds explain."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TypeVar

from experiments._study import Row

# Percentage points that a row of one run is taken to spread by over seeds: the
# pooled standard deviation (0.6 to 3.2 each) of the eleven rows of
# resnet20_three_ways and where_to_clip with three finished seeds at scale cpu.
SEED_SPREAD = 1.6
# Single runs that are less apart have no order.
ONE_RUN = 2 * math.hypot(SEED_SPREAD, SEED_SPREAD)

Key = TypeVar('Key')


def below(a: Row, b: Row, margin: float = 0.0) -> bool:
  """Whether a is worse than b by more than the margin and what seeds explain.

  A row in which a run diverged is worse than one in which none did. What seeds
  explain is two standard errors of the difference: of single runs 4.5 points.
  """
  if bool(a.diverged) != bool(b.diverged):
    return bool(a.diverged)
  if not (a.values and b.values):
    return False
  return b.mean - a.mean > margin + 2 * math.hypot(_error(a), _error(b))


def _error(row: Row) -> float:
  several = len(row.values) > 1
  spread = row.spread if several else SEED_SPREAD
  return spread / math.sqrt(len(row.values))


def changed(a: Row, b: Row) -> bool | str:
  """Whether one is `below` the other; undecided if single runs aren't."""
  if below(a, b) or below(b, a):
    return True
  single = min(len(row.values) + row.diverged for row in (a, b)) == 1
  return 'undecided' if single else False


def contenders(rows: Mapping[Key, Row]) -> list[Key]:
  """The keys of the best row, and of those not `below` it."""
  best = max(rows.values(), key=lambda row: row.worth)
  return [key for key, row in rows.items() if not below(row, best)]


def falls(best: Mapping[float, Sequence[float]]) -> bool | str:
  """Whether the best value falls as the key grows, by rank.

  Args:
    best: each key's `contenders`; undecided if it depends on which is best.
  """
  found = {
    rank_correlation(list(best), choice) < -0.5
    for choice in itertools.product(*best.values())
  }
  return found.pop() if len(found) == 1 else 'undecided'


def either(values: Sequence[float]) -> str:
  """'0.1', '0.1 or 1', '0.1, 1 or 10'."""
  *most, last = (f'{value:g}' for value in values)
  return f'{", ".join(most)} or {last}' if most else last


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
  """Spearman's, from -1 to 1; equals share their rank, all equal give 0."""
  if len(set(x)) == 1 or len(set(y)) == 1:
    return 0.0
  ranks = [
    [sum(b < a for b in v) + sum(b == a for b in v) / 2 for a in v]
    for v in (x, y)
  ]
  return statistics.correlation(*ranks)
