"""Times subjects in turn, so that a machine's drift affects all alike.

Imports the standard library alone: PyTorch's side runs it in another Python.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

CHUNK_SECONDS = 0.1  # between two looks at the clock: hides the device's wait

T = TypeVar('T')


def alternate(
  turns: Mapping[str, Callable[[], T]], rounds: int, rest: float = 0.0
) -> dict[str, list[T]]:
  """Calls every turn once a round, every second round in reverse order.

  Args:
    turns: by name.
    rounds: how many.
    rest: seconds before each turn, for the others' threads to stop.

  Returns:
    What each turn returned, by round.
  """
  found: dict[str, list[T]] = {name: [] for name in turns}
  for number in range(rounds):
    for name in list(turns)[:: -1 if number % 2 else 1]:
      time.sleep(rest)
      found[name].append(turns[name]())
  return found


def spread(values: Sequence[float]) -> dict[str, float]:
  """Median, quartiles (`low` and `high`), and the extremes."""
  quartiles = [values[0]] * 3
  if len(values) > 1:
    quartiles = statistics.quantiles(values, n=4, method='inclusive')
  found = zip(('low', 'median', 'high'), quartiles)
  return {'lowest': min(values), **dict(found), 'highest': max(values)}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
  """The spread of one subject's value over another's, round by round."""
  return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def step_seconds(
  run: Callable[[int], None], seconds: float, at_least: int = 1
) -> list[float]:
  """Seconds a step, of each chunk of steps; two steps go unmeasured first.

  Args:
    run: takes that many steps and waits for the last.
    seconds: for how long.
    at_least: chunks.
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
  """The median of `step_seconds`."""
  return statistics.median(step_seconds(run, seconds))


def rate(work: Callable[[], int], seconds: float) -> tuple[float, float]:
  """Images a second by the wall clock, and of this process's processor time.

  On a shared machine the second repeats better. A quarter of the time goes by
  unmeasured first: buffers that filled while others had their turn run empty.

  Args:
    work: does some images' work and returns their number; called repeatedly.
    seconds: for how long.
  """
  start = time.perf_counter()
  while time.perf_counter() - start < seconds / 4:
    work()
  images, start, cpu = 0, time.perf_counter(), time.process_time()
  while time.perf_counter() - start < seconds:
    images += work()
  wall = time.perf_counter() - start
  return images / wall, images / max(time.process_time() - cpu, 1e-9)
