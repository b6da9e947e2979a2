"""What the loop watches: steps' metrics, speed, a profile, requests to stop."""

import functools
import pathlib
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from nfnets import chips, guard, parallel


class Work(NamedTuple):
  """What a step computes, and on what.

  Attributes:
    flops: of the model in one step over all devices: twice the multiply-adds
      of forward and backward passes, recomputation left out; 0 if unknown.
    devices: how many.
    peak: FLOP/s of one of them; None if unknown.
  """

  flops: float = 0.0
  devices: int = 1
  peak: float | None = None


def work_of(flops: float, precision: str) -> Work:
  """On all devices there are."""
  kind = jax.devices()[0].device_kind
  return Work(flops, jax.device_count(), chips.peak_flops(kind, precision))


class Meter:
  """Averages the steps' metrics between logs; counts non-finite steps.

  Args:
    config: of the run.
    first_step: where this process begins.
    observed: names of the entries of the step's `observed` vector, in order.
    work: of a step.
  """

  def __init__(
    self,
    config: ConfigDict,
    first_step: int,
    observed: Sequence[str] = (),
    work: Work = Work(),  # noqa: B008
  ):
    self._config = config
    self._observed = observed
    self._work = work
    self._sums: dict[str, float] = {}
    self._count = 0
    self._rows: list[tuple[int, dict[str, float]]] = []
    self._waited = 0.0
    self._compiled = compile_seconds()
    self._first_step = first_step
    self.last_step = first_step
    self.nonfinite_in_a_row = 0
    self.diverged_at: int | None = None  # the step that ends the run
    self.stop_asked = False  # by any process
    self.restart_clock()

  def restart_clock(self) -> None:
    """Leaves out of the rate what isn't training, such as an evaluation."""
    self._since, self._since_step = time.perf_counter(), self.last_step

  def next_of(self, batches: Iterator[Any]) -> Any:
    """The next batch, and counts how long it kept the loop waiting."""
    start = time.perf_counter()
    batch = next(batches)
    self._waited += time.perf_counter() - start
    return batch

  def add(self, step_done: int, metrics: Any) -> None:
    """Takes the metrics of the dispatch that made the count `step_done`.

    Of several steps they are `[steps, ...]`.
    """
    observed = metrics.pop('observed', None)
    values = parallel.to_host(metrics)
    self.stop_asked = self.stop_asked or values.pop('stop', 0) > 0
    count = self._config.steps_per_dispatch
    for index in range(count):
      done = step_done - count + 1 + index
      one = {k: float(v.reshape(-1)[index]) for k, v in values.items()}
      self._add(done, one, observed, index)
    if step_done == self._first_step + count:  # it was compiled meanwhile
      self.restart_clock()

  def _add(
    self, step_done: int, values: dict[str, float], observed: Any, index: int
  ) -> None:
    self.last_step = step_done
    skipped = values['nonfinite'] > 0
    self.nonfinite_in_a_row = self.nonfinite_in_a_row + 1 if skipped else 0
    if self.nonfinite_in_a_row == self._config.stop_after_nonfinite:
      self.diverged_at = self.diverged_at or step_done
    self._count += 1
    for name, value in values.items():
      self._sums[name] = self._sums.get(name, 0.0) + value
    if (
      step_done % self._config.log_every == 0
      or step_done == self._config.num_steps
    ):
      self._rows.append((step_done, self._row(values)))
    if observed is not None and step_done % self._config.observe_every == 0:
      numbers = parallel.to_host(observed).reshape(-1, len(self._observed))
      row = zip(self._observed, map(float, numbers[index]))
      self._rows.append((step_done, dict(row)))

  def due(self) -> Iterator[tuple[int, dict[str, float]]]:
    while self._rows:
      yield self._rows.pop(0)

  def _row(self, newest: dict[str, float]) -> dict[str, float]:
    row = {f'train/{k}': v / self._count for k, v in self._sums.items()}
    row['train/learning_rate'] = newest['learning_rate']
    row['train/nonfinite'] = self._sums['nonfinite']
    row['train/input_wait_seconds'] = self._waited / self._count
    compiled = compile_seconds()
    row['train/compile_seconds'] = compiled - self._compiled
    steps = self.last_step - self._since_step
    seconds = time.perf_counter() - self._since
    if steps:
      left = self._config.num_steps - self.last_step
      row['train/step_seconds'] = seconds / steps
      row['train/seconds_left'] = left * seconds / steps
      row |= self._speed(steps / seconds)
    row |= memory()
    self._sums, self._count = {}, 0
    self._waited, self._compiled = 0.0, compiled
    self.restart_clock()
    return row

  def _speed(self, steps_per_second: float) -> dict[str, float]:
    flops, devices, peak = self._work
    images = self._config.batch_size * steps_per_second
    speed = {
      'train/images_per_second': images,
      'train/images_per_second_per_device': images / devices,
    }
    if flops:
      rate = flops * steps_per_second / devices
      speed['train/teraflops_per_device'] = rate / 1e12
      if peak:
        speed['train/model_flops_utilization'] = rate / peak
    return speed


def memory() -> dict[str, float]:
  """Peaks so far, in bytes: of the fullest local device, and of the host."""
  kib = 1 if sys.platform == 'darwin' else 1024  # the unit of ru_maxrss
  used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  row = {'host/peak_memory_bytes': float(used * kib)}
  stats = [device.memory_stats() for device in jax.local_devices()]
  peaks = [s['peak_bytes_in_use'] for s in stats if s]
  if peaks:  # a CPU keeps no such statistics
    row['train/peak_memory_bytes'] = float(max(peaks))
  return row


def compile_seconds() -> float:
  """Seconds that JAX lowered and compiled since this was first called."""
  return _compilations()[0]


@functools.cache
def _compilations() -> list[float]:
  total = [0.0]
  counted = tuple(
    f'/jax/core/compile/{name}_duration'
    for name in ('jaxpr_to_mlir_module', 'backend_compile')
  )

  def listen(event: str, seconds: float, **_: object) -> None:
    if event in counted:
      total[0] += seconds

  jax.monitoring.register_event_duration_secs_listener(listen)
  return total


class Profile:
  """Within the block, traces steps A to B - 1 for TensorBoard or XProf.

  Args:
    steps: (A, B), counted as the loop does; None traces nothing.
    folder: TensorBoard's; the trace goes to `plugins/profile` in it.
  """

  def __init__(self, steps: tuple[int, int] | None, folder: pathlib.Path):
    self._steps, self._folder = steps, folder
    self._running = False

  def __enter__(self) -> 'Profile':
    return self

  def __exit__(self, *_: object) -> None:
    self._end()

  def before(self, done: int, newest: Any) -> None:
    """Begins or ends; `newest` are the metrics of the last step, to wait for.

    Waiting here costs nothing: steps that are traced are slow anyway.
    """
    if self._steps is None:
      return
    first, end = self._steps
    if not self._running and first <= done < end:
      jax.block_until_ready(newest)
      jax.profiler.start_trace(str(self._folder))
      self._running = True
    elif self._running and done >= end:
      jax.block_until_ready(newest)
      self._end()

  def _end(self) -> None:
    if self._running:
      jax.profiler.stop_trace()
    self._running = False


class Interrupts:
  """Within the block, Ctrl-C, SIGTERM and SIGHUP only ask for a stop.

  Another Ctrl-C insists: KeyboardInterrupt. But not within a second: where a
  signal is sent to a whole job, as srun does, it comes once more by the parent
  (guard.py).
  """

  SIGNALS = guard.SIGNALS
  PATIENCE = 1.0  # seconds

  def __enter__(self) -> 'Interrupts':
    self._asked = False
    self._since = 0.0
    self._old = {}
    try:
      for number in self.SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
          self._old[number] = signal.signal(number, self._ask)
    except ValueError:  # not in the main thread: the caller handles signals
      pass
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def __bool__(self) -> bool:
    return self._asked

  def _ask(self, number: int, _: object) -> None:
    now = time.monotonic()
    if not self._asked:
      self._asked, self._since = True, now
    elif number == signal.SIGINT and now - self._since >= self.PATIENCE:
      raise KeyboardInterrupt
