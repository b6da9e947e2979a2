"""Times subjects in turn, so that a machine's drift affects them all alike.

Imports the standard library alone, since PyTorch's process uses it too.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

CHUNK_SECONDS = 0.1  # between two readings: hides the wait for the device

T = TypeVar('T')


def alternate(
  turns: Mapping[str, Callable[[], T]], rounds: int, rest: float = 0.0
) -> dict[str, list[T]]:
  """Calls each function once a round, in reverse order every second round.

  Args:
    turns: the functions, by name.
    rounds: number of rounds.
    rest: seconds to sleep before each call, so that other threads stop.

  Returns:
    The results of each function, one for each round.
  """
  found: dict[str, list[T]] = {name: [] for name in turns}
  for number in range(rounds):
    for name in list(turns)[:: -1 if number % 2 else 1]:
      time.sleep(rest)
      found[name].append(turns[name]())
  return found


def spread(values: Sequence[float]) -> dict[str, float]:
  """Returns the median, the quartiles `low` and `high`, and the extremes."""
  quartiles = [values[0]] * 3
  if len(values) > 1:
    quartiles = statistics.quantiles(values, n=4, method='inclusive')
  found = zip(('low', 'median', 'high'), quartiles)
  return {'lowest': min(values), **dict(found), 'highest': max(values)}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
  """Returns the spread of the ratios ours / theirs of each round."""
  return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def step_seconds(
  run: Callable[[int], None], seconds: float, at_least: int = 1
) -> list[float]:
  """Returns seconds per step for each chunk of steps, after two warm-up steps.

  Args:
    run: runs a number of steps and waits for the last.
    seconds: duration of the measurement.
    at_least: smallest number of chunks.
  """
  run(1)
  start = time.perf_counter()
  run(1)
  chunk = max(1, round(CHUNK_SECONDS / (time.perf_counter() - start)))
  times: list[float] = []
  begin = time.perf_counter()
  while len(times) < at_least or time.perf_counter() - begin < seconds:
    start = time.perf_counter()
    run(chunk)
    times.append((time.perf_counter() - start) / chunk)
  return times


def median_step(run: Callable[[int], None], seconds: float) -> float:
  """Returns the median of `step_seconds`."""
  return statistics.median(step_seconds(run, seconds))


def rate(work: Callable[[], int], seconds: float) -> tuple[float, float]:
  """Returns images per second of wall-clock time and of processor time.

  On a shared machine the latter is more repeatable. A warm-up of a quarter of
  `seconds` empties buffers that filled while other subjects were measured.

  Args:
    work: processes some images and returns their number; called repeatedly.
    seconds: duration of the measurement.
  """
  start = time.perf_counter()
  while time.perf_counter() - start < seconds / 4:
    work()
  images, start, cpu = 0, time.perf_counter(), time.process_time()
  while time.perf_counter() - start < seconds:
    images += work()
  wall = time.perf_counter() - start
  return images / wall, images / max(time.process_time() - cpu, 1e-9)
