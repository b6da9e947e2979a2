"""Whether rows of an experiment differ by more than their seeds explain."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from experiments._study import Row

# Percentage points that a row is taken to spread by over seeds, at least: the
# pooled standard deviation (0.6 to 3.2 each) of the eleven rows of
# resnet20_three_ways and where_to_clip with three finished seeds at scale cpu.
# Other scales and networks have no such number yet and borrow this one.
SEED_SPREAD = 1.6
BORROWED = (
  f'A spread over seeds of {SEED_SPREAD:g} points is assumed: it was measured '
  "on the CIFAR-10 study's ResNet-20 at scale cpu."
)
# Single runs that are less apart have no order.
ONE_RUN = 2 * math.hypot(SEED_SPREAD, SEED_SPREAD)
# The range of so many equal rows exceeds this many standard deviations in one
# of 20 cases.
RANGES = {
  2: 2.77, 3: 3.31, 4: 3.63, 5: 3.86, 6: 4.03, 7: 4.17, 8: 4.29, 9: 4.39,
}  # fmt: skip

UNDECIDED = 'undecided'
Finding = bool | str  # True, False or UNDECIDED
Key = TypeVar('Key')


def below(a: Row, b: Row, margin: float = 0.0) -> Finding:
  """Whether a is worse than b by more than the margin.

  The row with the larger share of diverged runs is worse. Of equal shares
  `worth` decides, if it is further from the margin than seeds explain, on
  either side. Seeds explain two standard errors of the difference: of single
  runs 4.5 points.
  """
  if _diverged(a) != _diverged(b):
    return _diverged(a) > _diverged(b)
  if not (a.values and b.values):
    return UNDECIDED
  apart = b.worth - a.worth - margin
  explained = 2 * math.hypot(_error(a), _error(b))
  return apart > 0 if abs(apart) > explained else UNDECIDED


def no_worse(a: Row, b: Row, margin: float = 0.0) -> Finding:
  """The opposite of `below`."""
  found = below(a, b, margin)
  return found if found == UNDECIDED else not found


def changed(a: Row, b: Row) -> Finding:
  """True if one is `below` the other; that they are equal is never shown."""
  return UNDECIDED if below(a, b) == UNDECIDED else True


def both(a: Finding, b: Finding) -> Finding:
  """Whether both are True; False if one is."""
  if False in (a, b):
    return False
  return UNDECIDED if UNDECIDED in (a, b) else True


def spans(rows: Iterable[Row]) -> Finding:
  """True if best and worst of many rows are apart by more than chance makes.

  The more rows there are, the further apart their extremes are by chance.
  """
  rows = sorted(rows, key=_rank)
  low, high = rows[0], rows[-1]
  if _diverged(low) != _diverged(high):
    return True
  if not (low.values and high.values):
    return UNDECIDED
  error = math.hypot(_error(low), _error(high)) / math.sqrt(2)
  apart = high.worth - low.worth > RANGES[len(rows)] * error
  return True if apart else UNDECIDED


def _diverged(row: Row) -> float:
  return row.diverged / (len(row.values) + row.diverged)


def _rank(row: Row) -> tuple[float, float]:
  return -_diverged(row), row.worth


def _error(row: Row) -> float:
  own = row.spread if len(row.values) > 1 else 0.0
  return max(own, SEED_SPREAD) / math.sqrt(len(row.values))


def contenders(rows: Mapping[Key, Row]) -> list[Key]:
  """The keys of the best row, and of those not `below` it."""
  best = max(rows.values(), key=_rank)
  return [key for key, row in rows.items() if below(row, best) is not True]


def falls(
  best: Mapping[float, Sequence[float]], tried: Iterable[float]
) -> Finding:
  """Whether the best value falls as the key grows, by rank.

  Args:
    best: each key's `contenders`; undecided if it depends on which is best.
    tried: all values. If the smallest or the largest of them is the best for
      every key, what lies beyond is unknown: undecided.
  """
  tried = list(tried)
  edges = {min(tried)}, {max(tried)}
  found = {
    UNDECIDED
    if set(choice) in edges
    else rank_correlation(list(best), choice) < -0.5
    for choice in itertools.product(*best.values())
  }
  return found.pop() if len(found) == 1 else UNDECIDED


def positive(correlation: float, count: int) -> Finding:
  """Whether a correlation of so many points is; within chance undecided."""
  clear = 2 / math.sqrt(count)  # at about 5 %
  return correlation > 0 if abs(correlation) > clear else UNDECIDED


def either(values: Sequence[float]) -> str:
  """'0.1', '0.1 or 1', '0.1, 1 or 10'."""
  *most, last = (f'{value:g}' for value in values)
  return f'{", ".join(most)} or {last}' if most else last


def partial_correlation(
  x: Sequence[float], y: Sequence[float], other: Sequence[float]
) -> float:
  """Pearson's of x and y after a linear part of the other is removed."""
  x_other, y_other = _correlation(x, other), _correlation(y, other)
  left = (1 - x_other**2) * (1 - y_other**2)
  if left < 1e-9:  # nothing is left to correlate
    return 0.0
  return (_correlation(x, y) - x_other * y_other) / math.sqrt(left)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
  """Spearman's, from -1 to 1; equals share their rank, all equal give 0."""
  ranks = [
    [sum(b < a for b in v) + sum(b == a for b in v) / 2 for a in v]
    for v in (x, y)
  ]
  return _correlation(*ranks)


def _correlation(x: Sequence[float], y: Sequence[float]) -> float:
  if len(set(x)) == 1 or len(set(y)) == 1:
    return 0.0
  return statistics.correlation(x, y)
