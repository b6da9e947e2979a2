"""Compiles a training step or inference, with its data on the device."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nfnets import checks, factory, models, parallel, step
from nfnets.weights import folding, stacked

# The whole training step (forward and backward pass, clipping, decay, Nesterov
# momentum, update); inference; inference of the folded network (`folding`).
MODES = ('train', 'eval', 'folded')
# The plain step has loss, gradient, decay and momentum alone.
PLAIN = {
  'micro_batches': 1,
  'observe_every': 0,
  'stop_after_nonfinite': 1,  # needs no guard in the step
  'optimizer.clip': 'none',
  'ema.mode': 'none',
  'sam.rho': 0.0,
  'augment.pad': 0,
  'augment.mix': 'none',
  'augment.pairs': 'batch',
  'augment.randaugment_layers': 0,
}


class Program(NamedTuple):
  """A compiled step with its arguments on the first device.

  Attributes:
    run: dispatches a number of steps and waits for the last.
    trace_seconds: from Python to StableHLO.
    compile_seconds: from StableHLO to the device's program.
    memory: bytes as the compiler counts them: `argument`, `output`, `donated`,
      `temp`, and the `peak` of them all.
  """

  run: Callable[[int], None]
  trace_seconds: float
  compile_seconds: float
  memory: dict[str, int]


def plain(
  config: ConfigDict,
  model: str,
  batch_size: int,
  image_size: int = 0,
  precision: str = 'float32',
  mode: str = 'train',
  *,
  clip: str = '',
  ema: bool = False,
  overrides: Mapping[str, Any] | None = None,
) -> ConfigDict:
  """Returns the config of a network's plain step, for `prepare`.

  Args:
    config: a recipe of the network's family (configs/); not changed.
    model: a name in `variants.ALL`.
    batch_size: images per step.
    image_size: pixels a side; 0 means the recipe's training size in mode
      'train' and its evaluation size in the others.
    precision: 'float32' or 'bfloat16'.
    mode: one of `MODES`.
    clip: 'agc' or 'none'. '' means the recipe's, except for batch-normalized
      networks: 'none'. (Whether paper A clips the ones it times isn't known.)
    ema: whether the step also averages parameters.
    overrides: of the network, as for `models.create`.

  Raises:
    ValueError: for an invalid argument.
  """
  overrides = dict(overrides or {})
  config = ConfigDict(config)  # keeps the references to the model's name
  with config.unlocked():
    config.model.name = model
    config = config.copy_and_resolve_references()
    is_normalized = overrides.get('normalizer', 'nf') != 'nf'
    clip = clip or ('none' if is_normalized else config.optimizer.clip)
    kind = 'train' if mode == 'train' else 'eval'
    image_size = image_size or config.data[f'{kind}_image_size']
    config.update_from_flattened_dict(PLAIN)
    config.batch_size, config.precision = batch_size, precision
    config.data.train_image_size = image_size
    config.optimizer.clip = clip if mode == 'train' else 'none'
    config.ema.mode = 'warmup' if ema and mode == 'train' else 'none'
    config.model.update(overrides)
  checks.check(config, 1)
  return config


def prepare(config: ConfigDict, mode: str) -> Program:
  """Compiles a step of one of `MODES`, on images of `data.train_image_size`."""
  if mode not in MODES:
    raise ValueError(f'unknown mode {mode!r}: choose from {", ".join(MODES)}')
  if mode == 'train':
    return training(config)
  return _inference(config, mode == 'folded')


def training(config: ConfigDict) -> Program:
  """Compiles a recipe's whole training step, for noise on the first device.

  Args:
    config: a resolved recipe; here `batch_size` is one device's.
  """
  devices = jax.devices()[:1]
  state = parallel.replicate(filled(step.state_shapes(config)), devices)
  batch = parallel.shard(random_batch(config), devices)
  key = parallel.replicate(jax.random.key(0), devices)
  compiled, *costs = _compile(
    parallel.map_step(step.make_train_step(config), devices), state, batch, key
  )

  def run(count: int) -> None:
    nonlocal state
    for _ in range(count):
      state, metrics = compiled(state, batch, key)
    jax.block_until_ready(metrics)

  return Program(run, *costs)


def random_batch(config: ConfigDict) -> dict[str, np.ndarray]:
  """Returns noise, uint8 `[N, H, W, 3]`, and labels, int32 `[N]`."""
  size, random = config.data.train_image_size, np.random.RandomState(0)
  count = config.batch_size * (2 if config.augment.pairs == 'fresh' else 1)
  return {
    'images': random.randint(0, 256, (count, size, size, 3), np.uint8),
    'labels': random.randint(0, config.data.num_classes, count, np.int32),
  }


def _inference(config: ConfigDict, is_folded: bool) -> Program:
  network = factory.network_of(config)
  _, params, state, *_ = filled(step.state_shapes(config))
  if is_folded:
    model = config.model.to_dict()
    name = model.pop('name')
    eps = models.arguments(name, **model).get('ws_eps', 'published')
    params = folding.fold(stacked.unstack(params), eps)
    network = models.create(name, config.data.num_classes, **model, folded=True)
  size, device = config.data.train_image_size, jax.devices()[0]
  images = jnp.ones((config.batch_size, size, size, 3), config.precision)
  params, state = jax.device_put((params, state), device)

  def logits(params: Any, state: Any, images: jax.Array) -> jax.Array:
    outputs, _ = network.apply(params, state, None, images, False)
    return outputs['logits']

  compiled, *costs = _compile(jax.jit(logits), params, state, images)
  # On a CPU independent programs run concurrently; elsewhere they queue.
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
  analysis, kinds = compiled.memory_analysis(), ('argument', 'output', 'temp')
  memory = {kind: getattr(analysis, f'{kind}_size_in_bytes') for kind in kinds}
  memory['donated'] = analysis.alias_size_in_bytes  # outputs reuse them
  memory['peak'] = sum(memory[k] for k in kinds) - memory['donated']
  return compiled, middle - start, end - middle, memory


def filled(shapes: Any) -> Any:
  """Fills a tree of shapes with noise / sqrt(fan-in), or ones below rank 2."""
  noise = np.random.RandomState(0).randn(1 << 20).astype(np.float32)

  def fill(leaf: Any) -> np.ndarray:
    if leaf.ndim < 2:  # gains, biases, averages
      return np.ones(leaf.shape, leaf.dtype)
    fan_in = np.float32(np.prod(leaf.shape[:-1]))
    return np.resize(noise, leaf.shape) / np.sqrt(fan_in)

  return jax.tree.map(fill, shapes)
