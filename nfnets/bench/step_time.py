"""Times one device's training step or inference, its data there already.

`measure` is what `scripts.benchmark` prints and what a latency table is made
of; `prepare` alone compiles a program, for timing next to another.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from nfnets import chips, step, variants
from nfnets.analysis import counts
from nfnets.bench import programs

# Of a chunk of steps between two looks at the clock: the wait for the device
# that ends it is then less than a thousandth.
CHUNK_SECONDS = 0.1
MIN_CHUNKS = 3


def measure(
  model: str,
  batch_size: int,
  image_size: int = 0,
  precision: str = 'float32',
  mode: str = 'train',
  *,
  steps: int = 100,
  seconds: float = 10.0,
  config: ConfigDict | None = None,
  clip: str = '',
  ema: bool = False,
  overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Compiles a network's step for the first device and times many of it.

  Args:
    model: a name of `variants.ALL`.
    batch_size: images of a step.
    image_size: pixels a side; 0 for the variant's, of training in mode 'train'
      and of evaluation in the others.
    precision: 'float32' or 'bfloat16', of the computation.
    mode: 'train' for the whole step: forward and backward pass, clipping,
      decay, Nesterov momentum and the update; 'eval' for the logits; 'folded'
      for those of the network by `weights.fold`.
    steps: how many at most, and
    seconds: for how long at most; three chunks at least.
    config: for 'train', a recipe of the network's family (configs/). Of it the
      network, the loss and the optimizer are taken; what augments, observes,
      perturbs or splits the batch is switched off.
    clip: 'agc' or 'none'; '' for 'agc' where the network is an NFNet.
    ema: whether the step averages parameters too.
    overrides: of the network, as `models.create` takes them.

  Returns:
    What was asked for, and `seconds` {median, low, high (quartiles), fastest},
    `images_per_second`, `steps`, `chunk` (steps between two looks at the
    clock), `trace_seconds`, `compile_seconds`, `memory` (the compiler's bytes),
    `peak_bytes` and `peak_source`, `model_flops` of a step, and with it
    `utilization` of `peak_flops`, from `peak_flops_source`.

  Raises:
    ValueError: for an argument that no network or device can take.
  """
  image_size = image_size or default_size(model, mode)
  clip = clip or default_clip(model, overrides or {})
  before = _allocated()
  program = programs.prepare(
    model,
    batch_size,
    image_size,
    precision,
    mode,
    config=config,
    clip=clip,
    ema=ema,
    overrides=overrides,
  )
  times, chunk = time_chunks(program.run, steps, seconds)
  flops = model_flops(model, batch_size, image_size, mode, overrides)
  peak, peak_source = peak_flops(precision)
  middle = statistics.median(times)
  after = _allocated()
  return {
    'model': model,
    'batch_size': batch_size,
    'image_size': image_size,
    'precision': precision,
    'mode': mode,
    'clip': clip if mode == 'train' else 'none',
    'ema': ema and mode == 'train',
    'overrides': dict(overrides or {}),
    'device': jax.devices()[0].device_kind,
    'seconds': spread(times),
    'images_per_second': batch_size / middle,
    'steps': len(times) * chunk,
    'chunk': chunk,
    'trace_seconds': program.trace_seconds,
    'compile_seconds': program.compile_seconds,
    'memory': program.memory,
    # The allocator's peak is of the whole process: ours if it rose.
    'peak_bytes': after if after > before else program.memory['peak'],
    'peak_source': 'allocator' if after > before else 'compiler',
    'model_flops': flops,
    'peak_flops': peak,
    'peak_flops_source': peak_source,
    'utilization': flops / middle / peak,
  }


def default_size(model: str, mode: str) -> int:
  """The variant's own image size, in pixels a side."""
  kind = 'train' if mode == 'train' else 'eval'
  return variants.find(model)[f'{kind}_image_size']


def default_clip(model: str, overrides: Mapping[str, Any]) -> str:
  """'agc' for NFNets, 'none' for their batch-normalized twins and all others.

  Whether paper A clips the twins that it times isn't known.
  """
  is_nf = overrides.get('normalizer', 'nf') == 'nf'
  return 'agc' if model in variants.NFNET and is_nf else 'none'


def time_chunks(
  run: Callable[[int], None],
  steps: int,
  seconds: float,
  at_least: int = MIN_CHUNKS,
) -> tuple[list[float], int]:
  """Seconds a step of each chunk, and a chunk's steps; two warm-ups first."""
  run(1)
  start = time.perf_counter()
  run(1)
  once = time.perf_counter() - start
  chunk = max(1, min(round(CHUNK_SECONDS / once), steps // at_least))
  times: list[float] = []
  begin = time.perf_counter()
  while len(times) < at_least or (
    (len(times) + 1) * chunk <= steps and time.perf_counter() - begin < seconds
  ):
    start = time.perf_counter()
    run(chunk)
    times.append((time.perf_counter() - start) / chunk)
  return times, chunk


def spread(times: list[float]) -> dict[str, float]:
  """Median, quartiles and the fastest."""
  if len(times) < 2:
    return dict.fromkeys(('low', 'median', 'high', 'fastest'), times[0])
  low, middle, high = statistics.quantiles(times, n=4, method='inclusive')
  return {'low': low, 'median': middle, 'high': high, 'fastest': min(times)}


def model_flops(
  model: str,
  batch_size: int,
  image_size: int,
  mode: str,
  overrides: Mapping[str, Any] | None = None,
) -> int:
  """Of one step, by the network's multiply-adds alone, nothing recomputed.

  A multiply-add is two operations, and the backward pass twice the forward.
  """
  counted = {k: v for k, v in (overrides or {}).items() if k != 'folded'}
  macs = counts.multiply_adds(model, image_size, **counted)
  return 2 * macs * batch_size * (3 if mode == 'train' else 1)


def peak_flops(precision: str) -> tuple[float, str]:
  """FLOP/s of the first device, and where the number comes from."""
  device = jax.devices()[0]
  chip = chips.find(device.device_kind)
  if chip is not None:
    return getattr(chip, precision), chip.source
  return product_rate(precision), 'a 2048 x 2048 matrix product, measured'


@functools.cache
def product_rate(precision: str, size: int = 2048) -> float:
  """FLOP/s of the fastest of ten square matrix products."""
  x = jnp.ones((size, size), step.DTYPES[precision])
  product = jax.jit(lambda x: x @ x)
  product(x).block_until_ready()
  times = []
  for _ in range(10):
    start = time.perf_counter()
    product(x).block_until_ready()
    times.append(time.perf_counter() - start)
  return 2 * size**3 / min(times)


def _allocated() -> int:
  """The allocator's peak in bytes; 0 where it keeps none, as on the CPU."""
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get('peak_bytes_in_use', 0)
