"""Times one device's training step or inference, its data there already.

`measure` is what `scripts.benchmark` prints and what a latency table is made
of; `prepare` alone compiles a program, for timing next to another.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nfnets import chips, models, parallel, recipe, step, variants
from nfnets.analysis import counts
from nfnets.weights import folding

MODES = ('train', 'eval', 'folded')
# Of a chunk of steps between two looks at the clock: the wait for the device
# that ends it is then less than a thousandth.
CHUNK_SECONDS = 0.1
MIN_CHUNKS = 3
# What a training step leaves out of its recipe.
PLAIN = {
  'micro_batches': 1,
  'observe_every': 0,
  'sam.rho': 0.0,
  'augment.pad': 0,
  'augment.mix': 'none',
  'augment.pairs': 'batch',
  'augment.randaugment_layers': 0,
}


class Program(NamedTuple):
  """A compiled step with its arguments on the device.

  Attributes:
    run: dispatches that many steps and waits for the last.
    trace_seconds: from Python to StableHLO.
    compile_seconds: from there to the device's program.
    memory: bytes by the compiler's own account: arguments, outputs, temporary,
      and `peak`, all of them but what is donated twice.
  """

  run: Callable[[int], None]
  trace_seconds: float
  compile_seconds: float
  memory: dict[str, int]


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
  program = prepare(
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


def prepare(
  model: str,
  batch_size: int,
  image_size: int,
  precision: str,
  mode: str,
  *,
  config: ConfigDict | None = None,
  clip: str = 'none',
  ema: bool = False,
  overrides: Mapping[str, Any] | None = None,
) -> Program:
  """Compiles what `measure` times; its arguments."""
  for name, value, known in (
    ('mode', mode, MODES),
    ('precision', precision, tuple(step.DTYPES)),
    ('clip', clip, ('agc', 'none')),
  ):
    if value not in known:
      raise ValueError(f'no {name} {value!r}: choose one of {", ".join(known)}')
  if batch_size < 1 or image_size < 1:
    raise ValueError(
      f'batch_size={batch_size}, image_size={image_size}: must be above 0'
    )
  overrides = dict(overrides or {})
  if mode == 'train':
    if config is None:
      raise ValueError(f'training {model} needs a recipe: pass config')
    values = {
      'batch_size': batch_size,
      'precision': precision,
      'data.train_image_size': image_size,
      'data.num_classes': default_classes(model),
      'optimizer.clip': clip,
      'ema.mode': 'warmup' if ema else 'none',
    }
    return _training(_plain(config, model, values, overrides))
  return _inference(
    model, batch_size, image_size, precision, mode == 'folded', overrides
  )


def default_size(model: str, mode: str) -> int:
  """The variant's own image size, in pixels a side."""
  kind = 'train' if mode == 'train' else 'eval'
  return variants.find(model)[f'{kind}_image_size']


def default_clip(model: str, overrides: Mapping[str, Any]) -> str:
  """Paper A clips NFNets alone, not their batch-normalized twins."""
  is_nf = overrides.get('normalizer', 'nf') == 'nf'
  return 'agc' if model in variants.NFNET and is_nf else 'none'


def time_chunks(
  run: Callable[[int], None], steps: int, seconds: float
) -> tuple[list[float], int]:
  """Seconds a step of each chunk, and a chunk's steps; two warm-ups first."""
  run(1)
  start = time.perf_counter()
  run(1)
  once = time.perf_counter() - start
  chunk = max(1, min(round(CHUNK_SECONDS / once), steps // MIN_CHUNKS))
  times: list[float] = []
  begin = time.perf_counter()
  while len(times) < MIN_CHUNKS or (
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


def _plain(
  config: ConfigDict,
  model: str,
  values: dict[str, Any],
  overrides: dict[str, Any],
) -> ConfigDict:
  """A copy of the recipe with the parts of a plain step alone."""
  config = ConfigDict(config)  # keeps references: what follows the name does
  with config.unlocked():
    config.model.name = model
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(PLAIN | values)
    config.model.update(overrides)
  return config


def _training(config: ConfigDict) -> Program:
  network = recipe.network_of(config)
  optimizer = recipe.optimizer_of(config)
  shapes = jax.eval_shape(
    lambda key: step.init_state(config, network, optimizer, key),
    jax.random.key(0),
  )
  devices = jax.devices()[:1]
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  params = filled(shapes.params)
  state = state._replace(
    params=params, ema_params=jax.tree.map(np.copy, params)
  )
  state = parallel.replicate(state, devices)
  key = parallel.replicate(jax.random.key(0), devices)
  size, random = config.data.train_image_size, np.random.RandomState(0)
  batch = {
    'images': random.randint(
      0, 256, (config.batch_size, size, size, 3), np.uint8
    ),
    'labels': random.randint(
      0, config.data.num_classes, config.batch_size, np.int32
    ),
  }
  batch = parallel.shard(batch, devices)
  mapped = parallel.map_step(
    step.make_train_step(
      config, network, optimizer, recipe.schedule_of(config)
    ),
    devices,
  )
  compiled, *costs = _compile(mapped, state, batch, key)

  def run(count: int) -> None:
    nonlocal state
    for _ in range(count):
      state, metrics = compiled(state, batch, key)
    jax.block_until_ready(metrics)

  return Program(run, *costs)


def _inference(
  model: str,
  batch_size: int,
  image_size: int,
  precision: str,
  is_folded: bool,
  overrides: dict[str, Any],
) -> Program:
  num_classes = default_classes(model)
  network = models.create(model, num_classes, **overrides)
  images = jnp.ones((batch_size, image_size, image_size, 3))
  images = images.astype(step.DTYPES[precision])
  shapes = jax.eval_shape(
    functools.partial(network.init, is_training=True),
    jax.random.key(0),
    images,
  )
  params, state = filled(shapes[0]), filled(shapes[1])
  if is_folded:
    params = folding.fold(params, model, **overrides)
    network = models.create(model, num_classes, **overrides, folded=True)
  device = jax.devices()[0]
  params, state = jax.device_put((params, state), device)

  def logits(params: Any, state: Any, images: jax.Array) -> jax.Array:
    outputs, _ = network.apply(params, state, None, images, False)
    return outputs['logits']

  compiled, *costs = _compile(jax.jit(logits), params, state, images)
  # Independent programs run at once on a CPU; elsewhere they queue.
  waits = device.platform == 'cpu'

  def run(count: int) -> None:
    for _ in range(count):
      out = compiled(params, state, images)
      if waits:
        out.block_until_ready()
    out.block_until_ready()

  return Program(run, *costs)


def _compile(function: Any, *arguments: Any) -> tuple[Any, float, float, dict]:
  start = time.perf_counter()
  lowered = function.lower(*arguments)
  middle = time.perf_counter()
  compiled = lowered.compile()
  end = time.perf_counter()
  analysis = compiled.memory_analysis()
  memory = {
    'arguments': analysis.argument_size_in_bytes,
    'outputs': analysis.output_size_in_bytes,
    'donated': analysis.alias_size_in_bytes,
    'temporary': analysis.temp_size_in_bytes,
  }
  memory['peak'] = (
    memory['arguments']
    + memory['outputs']
    + memory['temporary']
    - memory['donated']
  )
  return compiled, middle - start, end - middle, memory


def default_classes(model: str) -> int:
  return 10 if model in variants.CIFAR_RESNET else 1000


def filled(shapes: Any) -> Any:
  """Plausible float32 values by name; no initialization is compiled.

  Args:
    shapes: a Haiku tree of `[...]` shapes.
  """
  noise = np.random.RandomState(0).randn(1 << 20).astype(np.float32)

  def fill(path: Any, leaf: Any) -> np.ndarray:
    name = path[-1].key
    if name == 'w':
      fan_in = np.prod(leaf.shape[:-1])
      return np.resize(noise, leaf.shape) / np.float32(np.sqrt(fan_in))
    ones = name in ('gain', 'scale', 'skip_gain', 'average')
    return np.full(leaf.shape, float(ones), leaf.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def _allocated() -> int:
  """The allocator's peak in bytes; 0 where it keeps none, as on the CPU."""
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get('peak_bytes_in_use', 0)
