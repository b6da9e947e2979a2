"""Rates of several subjects, measured in turn so that load strikes them alike.

A subject is a function of seconds that works for so long and returns a
`Sample`. Beside the wall clock stands the processor time of the whole process:
on a shared machine the one that repeats.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
  """Work done: images, seconds on the wall, seconds of processor time."""

  images: int
  wall: float
  cpu: float

  @property
  def rate(self) -> float:
    """Images a second."""
    return self.images / self.wall

  @property
  def core_rate(self) -> float:
    """Images a second of processor time."""
    return self.images / max(self.cpu, 1e-9)


Subject = Callable[[float], Sample]


def subject(work: Callable[[], int]) -> Subject:
  """Calls `work`, which returns how many images it did, again and again.

  A quarter of the time goes by unmeasured first: buffers that filled while
  others were measured run empty.
  """

  def run(seconds: float) -> Sample:
    settle()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds / 4:
      work()
    images, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
      images += work()
    wall = time.perf_counter() - start
    return Sample(images, wall, time.process_time() - cpu)

  return run


def settle(limit: float = 2.0) -> None:
  """Waits until this process's other threads rest, `limit` seconds at most."""
  start = time.perf_counter()
  while time.perf_counter() - start < limit:
    cpu = time.process_time()
    time.sleep(0.02)
    if time.process_time() - cpu < 0.002:
      return


def alternate(
  subjects: Mapping[str, Subject], rounds: int, seconds: float
) -> dict[str, list[Sample]]:
  """Measures all in turn, `rounds` times, every second time backwards."""
  samples: dict[str, list[Sample]] = {name: [] for name in subjects}
  for number in range(rounds):
    for name in list(subjects)[:: -1 if number % 2 else 1]:
      samples[name].append(subjects[name](seconds))
  return samples


def median(values: list[float]) -> float:
  return float(np.median(values))


def ratio(
  samples: list[Sample], others: list[Sample], by: str = 'rate'
) -> float:
  """The median over the rounds of one subject's rate to another's.

  Args:
    samples, others: of the same rounds.
    by: 'rate' or 'core_rate'.
  """
  return median(
    [getattr(a, by) / getattr(b, by) for a, b in zip(samples, others)]
  )
