"""What the loop watches: the steps' metrics, and requests to stop."""

import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from nfnets import parallel


class Meter:
  """Averages the steps' metrics between logs; counts non-finite steps.

  Args:
    config: of the run.
    first_step: where this process begins.
    observed: names of the entries of the step's `observed` vector, in order.
  """

  def __init__(
    self, config: ConfigDict, first_step: int, observed: Sequence[str] = ()
  ):
    self._config = config
    self._observed = observed
    self._sums: dict[str, float] = {}
    self._count = 0
    self._rows: list[tuple[int, dict[str, float]]] = []
    self.last_step = first_step
    self.nonfinite_in_a_row = 0
    self.diverged_at: int | None = None  # the step that ends the run
    self.restart_clock()

  def restart_clock(self) -> None:
    """Leaves out of the rate what isn't training, such as an evaluation."""
    self._since, self._since_step = time.perf_counter(), self.last_step

  def add(self, step_done: int, metrics: Any) -> None:
    """Takes the metrics of the step that made the count `step_done`."""
    observed = metrics.pop('observed', None)
    values = {k: float(v) for k, v in parallel.to_host(metrics).items()}
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
      numbers = map(float, parallel.to_host(observed))
      self._rows.append((step_done, dict(zip(self._observed, numbers))))

  def due(self) -> Iterator[tuple[int, dict[str, float]]]:
    while self._rows:
      yield self._rows.pop(0)

  def _row(self, newest: dict[str, float]) -> dict[str, float]:
    row = {f'train/{k}': v / self._count for k, v in self._sums.items()}
    row['train/learning_rate'] = newest['learning_rate']
    row['train/nonfinite'] = self._sums['nonfinite']
    steps = self.last_step - self._since_step
    seconds = time.perf_counter() - self._since
    if steps:
      left = self._config.num_steps - self.last_step
      row['train/step_seconds'] = seconds / steps
      row['train/images_per_second'] = self._config.batch_size * steps / seconds
      row['train/seconds_left'] = left * seconds / steps
    self._sums, self._count = {}, 0
    self.restart_clock()
    return row


class Interrupts:
  """Within the block, Ctrl-C and SIGTERM only ask for a stop."""

  SIGNALS = (signal.SIGINT, signal.SIGTERM)

  def __enter__(self) -> 'Interrupts':
    self._asked = False
    self._old = {}
    try:
      for number in self.SIGNALS:
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
    if self._asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._asked = True
