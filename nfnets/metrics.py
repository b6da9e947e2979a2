"""Measurements of a run: metrics, speed, memory, and profiles."""

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

FIRST = ('loss', 'top_1')  # in each log; the step's others follow


class Meter:
  """Averages metrics over the steps between logs; counts non-finite steps.

  Args:
    config: of the run.
    first_step: the number of steps done before.
    observed: names of the entries of the step's `observed` vector, in order.
    flops: of the model per step, over all devices; 0 if unknown.
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
    self._waited = 0.0
    self._compiled = compile_seconds()
    self._first_step = self._last_step = first_step
    self._nonfinite_in_a_row = 0
    self.diverged_at: int | None = None  # the step that ends the run
    self.restart_clock()

  def restart_clock(self) -> None:
    """Excludes the time so far, such as an evaluation's, from the speed."""
    self._since, self._since_step = time.perf_counter(), self._last_step

  def next_of(self, batches: Iterator[Any]) -> Any:
    """The next batch, or None; adds up how long the loop waits for input."""
    start = time.perf_counter()
    batch = next(batches, None)
    self._waited += time.perf_counter() - start
    return batch

  def add(self, step: int, metrics: dict[str, Any]) -> dict[str, float]:
    """Adds the metrics that step number `step` (from 1) returned.

    Every scalar is averaged over the steps between logs, whatever its name.

    Returns:
      The metrics to log at this step, by name; usually none.
    """
    observed = metrics.pop('observed', None)
    newest = {k: float(v) for k, v in parallel.to_host(metrics).items()}
    self._last_step, self._count = step, self._count + 1
    for name, value in newest.items():
      self._sums[name] = self._sums.get(name, 0.0) + value
    is_bad = newest['nonfinite'] > 0
    self._nonfinite_in_a_row = self._nonfinite_in_a_row + 1 if is_bad else 0
    if self._nonfinite_in_a_row == self._config.stop_after_nonfinite:
      self.diverged_at = self.diverged_at or step
    row = {}
    if step == self._first_step + 1:  # the time so far includes compilation
      self.restart_clock()
    if step % self._config.log_every == 0 or step == self._config.num_steps:
      row = self._row(newest['learning_rate'])
    if observed is not None and step % self._config.observe_every == 0:
      row |= zip(self._observed, map(float, parallel.to_host(observed)))
    return row

  def _row(self, learning_rate: float) -> dict[str, float]:
    names = sorted(self._sums, key=lambda name: name not in FIRST)
    row = {f'train/{k}': self._sums[k] / self._count for k in names}
    row['train/learning_rate'] = learning_rate
    row['train/nonfinite'] = self._sums['nonfinite']
    row['train/input_wait_seconds'] = self._waited / self._count
    compiled = compile_seconds()
    row['train/compile_seconds'] = compiled - self._compiled
    if steps := self._last_step - self._since_step:
      row |= self._speed((time.perf_counter() - self._since) / steps)
    self._sums, self._count = {}, 0
    self._waited, self._compiled = 0.0, compiled
    self.restart_clock()
    return row | memory()

  def _speed(self, step_seconds: float) -> dict[str, float]:
    devices, config = jax.device_count(), self._config
    images = config.batch_size / step_seconds
    speed = {
      'train/step_seconds': step_seconds,
      'train/seconds_left': (config.num_steps - self._last_step) * step_seconds,
      'train/images_per_second': images,
      'train/images_per_second_per_device': images / devices,
    }
    if self._flops:
      rate = self._flops / step_seconds / devices
      speed['train/teraflops_per_device'] = rate / 1e12
      kind = jax.devices()[0].device_kind
      if peak := chips.peak_flops(kind, config.precision):
        speed['train/model_flops_utilization'] = rate / peak
    return speed


def step_flops(
  config: ConfigDict, network: hk.TransformedWithState, shapes: Any
) -> float:
  """The model's FLOPs per step, from the shapes of its `TrainState`.

  A backward pass counts as two forward passes. SAM's ascent adds its fraction
  of the batch (paper A, section 5.1); recomputation doesn't count.
  """
  size = config.data.train_image_size
  images = jax.ShapeDtypeStruct((1, size, size, 3), 'float32')

  def forward(params: Any, state: Any, images: jax.Array) -> Any:
    return network.apply(params, state, jax.random.key(0), images, True)

  # In a step, batch normalization may average over the mapped axis.
  traced = jax.make_jaxpr(forward, axis_env=[(parallel.AXIS, 1)])(
    shapes.params, shapes.state, images
  )
  macs = multiply_adds(traced.jaxpr)
  passes = 1 + (config.sam.ascent_fraction if config.sam.rho else 0)
  return 2.0 * 3 * passes * macs * config.batch_size


def multiply_adds(jaxpr: Any) -> int:
  """Counts those of convolutions and matrix products, loops unrolled."""
  total = 0
  for equation in jaxpr.eqns:
    params, outputs = equation.params, equation.outvars[0].aval
    if equation.primitive.name == 'conv_general_dilated':
      kernel = equation.invars[1].aval.shape
      channels = kernel[params['dimension_numbers'].rhs_spec[0]]
      total += math.prod(outputs.shape) * math.prod(kernel) // channels
    elif equation.primitive.name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      left = equation.invars[0].aval.shape
      terms = math.prod(left[axis] for axis in contracted)
      total += math.prod(outputs.shape) * terms
    else:  # a loop, a branch or a function call
      inner = jax.tree.leaves(
        list(params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
      )
      turns = params['length'] if equation.primitive.name == 'scan' else 1
      total += turns * sum(
        multiply_adds(x) for x in inner if hasattr(x, 'eqns')
      )
  return total


def memory() -> dict[str, float]:
  """Peak memory in bytes: of the fullest local device, and of the host."""
  kib = 1 if sys.platform == 'darwin' else 1024  # the unit of ru_maxrss
  used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  row = {'host/peak_memory_bytes': float(used * kib)}
  stats = [device.memory_stats() for device in jax.local_devices()]
  peaks = [s['peak_bytes_in_use'] for s in stats if s]
  if peaks:  # CPU devices have no such statistics
    row['train/peak_memory_bytes'] = float(max(peaks))
  return row


def compile_seconds() -> float:
  """Seconds of lowering and compiling since the first call of this."""
  return _compilations()[0]


@functools.cache
def _compilations() -> list[float]:
  total = [0.0]
  counted = (
    '/jax/core/compile/jaxpr_to_mlir_module_duration',
    '/jax/core/compile/backend_compile_duration',
  )

  def listen(event: str, seconds: float, **_: object) -> None:
    if event in counted:
      total[0] += seconds

  jax.monitoring.register_event_duration_secs_listener(listen)
  return total


class Profile:
  """Traces steps A to B - 1 for TensorBoard or XProf.

  Args:
    steps: (A, B), counted from 0; None traces nothing.
    folder: of TensorBoard; the trace goes to its `plugins/profile`.
  """

  def __init__(self, steps: tuple[int, int] | None, folder: pathlib.Path):
    self._steps = range(*steps or (0, 0))
    self._folder = folder
    self._running = False

  def before(self, step: int, newest: Any) -> None:
    """Starts or stops the trace before a step, once `newest` is computed.

    `newest` are the metrics of the step before. Waiting for them is harmless:
    traced steps are slow anyway.
    """
    if self._running != (step in self._steps):
      jax.block_until_ready(newest)
      self.close()
      if step in self._steps:
        jax.profiler.start_trace(str(self._folder))
        self._running = True

  def close(self) -> None:
    if self._running:
      jax.profiler.stop_trace()
    self._running = False
