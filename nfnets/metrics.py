"""What a run measures of itself: its steps' metrics, speed, memory, a trace."""

import functools
import math
import pathlib
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import haiku as hk
import jax
from ml_collections import ConfigDict

from nfnets import chips, parallel

FIRST = ('loss', 'top_1')  # in the log's order; then the step's own


class Meter:
  """Averages the steps' metrics between logs; counts non-finite steps.

  Args:
    config: of the run.
    first_step: where this process begins.
    observed: names of the entries of the step's `observed` vector, in order.
    flops: of the model in one step over all devices; 0 if unknown.
  """

  def __init__(
    self,
    config: ConfigDict,
    first_step: int,
    observed: Sequence[str] = (),
    flops: float = 0.0,
  ):
    self._config = config
    self._observed = observed
    self._flops = flops
    self._sums: dict[str, float] = {}
    self._count = 0
    self._rows: list[tuple[int, dict[str, float]]] = []
    self._waited = 0.0
    self._compiled = compile_seconds()
    self._first_step = first_step
    self.last_step = first_step
    self.nonfinite_in_a_row = 0
    self.diverged_at: int | None = None  # the step that ends the run
    self.restart_clock()

  def restart_clock(self) -> None:
    """Leaves out of the rate what isn't training, such as an evaluation."""
    self._since, self._since_step = time.perf_counter(), self.last_step

  def next_of(self, batches: Iterator[Any]) -> Any:
    """The next batch, or None; counts how long it kept the loop waiting."""
    start = time.perf_counter()
    batch = next(batches, None)
    self._waited += time.perf_counter() - start
    return batch

  def add(self, step_done: int, metrics: Any) -> None:
    """Takes what the step returned that made the count `step_done`.

    Every scalar in it is averaged from log to log, whatever its name.
    """
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
    is_last = step_done == self._config.num_steps
    if step_done % self._config.log_every == 0 or is_last:
      self._rows.append((step_done, self._row(values)))
    if observed is not None and step_done % self._config.observe_every == 0:
      numbers = map(float, parallel.to_host(observed))
      self._rows.append((step_done, dict(zip(self._observed, numbers))))
    if step_done == self._first_step + 1:  # it was compiled meanwhile
      self.restart_clock()

  def due(self) -> Iterator[tuple[int, dict[str, float]]]:
    """The rows to log since the last call: (step, values by name)."""
    while self._rows:
      yield self._rows.pop(0)

  def _row(self, newest: dict[str, float]) -> dict[str, float]:
    names = sorted(self._sums, key=lambda name: name not in FIRST)
    row = {f'train/{k}': self._sums[k] / self._count for k in names}
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
    devices = jax.device_count()
    images = self._config.batch_size * steps_per_second
    speed = {
      'train/images_per_second': images,
      'train/images_per_second_per_device': images / devices,
    }
    if self._flops:
      rate = self._flops * steps_per_second / devices
      speed['train/teraflops_per_device'] = rate / 1e12
      kind = jax.devices()[0].device_kind
      if peak := chips.peak_flops(kind, self._config.precision):
        speed['train/model_flops_utilization'] = rate / peak
    return speed


def step_flops(
  config: ConfigDict,
  network: hk.TransformedWithState,
  params: Any,
  state: Any,
) -> float:
  """Of the model in one step: a backward pass costs two forward ones.

  SAM's ascent adds its share of the batch (paper A, section 5.1);
  recomputation isn't counted.

  Args:
    config: of the run.
    network: its network.
    params, state: the network's, arrays or shapes.
  """
  size = config.data.train_image_size
  images = jax.ShapeDtypeStruct((1, size, size, 3), 'float32')

  def forward(params: Any, state: Any, images: jax.Array) -> Any:
    return network.apply(params, state, jax.random.key(0), images, True)

  macs = multiply_adds(jax.make_jaxpr(forward)(params, state, images).jaxpr)
  passes = 1 + (config.sam.ascent_fraction if config.sam.rho else 0)
  return 2.0 * 3 * passes * macs * config.batch_size


def multiply_adds(jaxpr: Any) -> int:
  """Of the convolutions and matrix products in a jaxpr, loops unrolled."""
  total = 0
  for equation in jaxpr.eqns:
    params, count = equation.params, 1
    if equation.primitive.name == 'conv_general_dilated':
      kernel = equation.invars[1].aval.shape
      outputs = kernel[params['dimension_numbers'].rhs_spec[0]]
      count = math.prod(kernel) // outputs
    elif equation.primitive.name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      left = equation.invars[0].aval.shape
      count = math.prod(left[axis] for axis in contracted)
    else:
      inner = jax.tree.leaves(
        list(params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
      )
      turns = params['length'] if equation.primitive.name == 'scan' else 1
      total += turns * sum(
        multiply_adds(x) for x in inner if hasattr(x, 'eqns')
      )
      continue
    total += count * math.prod(equation.outvars[0].aval.shape)
  return total


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
    self._first, self._end = steps or (0, 0)
    self._folder = folder
    self._running = False

  def __enter__(self) -> 'Profile':
    return self

  def __exit__(self, *_: object) -> None:
    if self._running:
      jax.profiler.stop_trace()

  def before(self, done: int, newest: Any) -> None:
    """Begins or ends; `newest` are the metrics of the last step, to wait for.

    Waiting here costs nothing: steps that are traced are slow anyway.
    """
    if self._running == (self._first <= done < self._end):
      return
    jax.block_until_ready(newest)
    if self._running:
      jax.profiler.stop_trace()
    else:
      jax.profiler.start_trace(str(self._folder))
    self._running = not self._running
