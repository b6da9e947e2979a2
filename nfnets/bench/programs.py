"""A network's training step or inference, compiled, with its data in place."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nfnets import factory, models, parallel, step, variants
from nfnets.weights import folding

MODES = ('train', 'eval', 'folded')
# What a training step leaves out of its recipe.
PLAIN = {
  'micro_batches': 1,
  'observe_every': 0,
  'stop_after_nonfinite': 1,  # which needs no guard; other steps have none
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
  network = factory.network_of(config)
  optimizer = factory.optimizer_of(config)
  shapes = jax.eval_shape(
    lambda key: step.init_state(config, network, optimizer, key),
    jax.random.key(0),
  )
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  params = filled(shapes.params)
  state = state._replace(params=params)
  if state.ema_params:
    state = state._replace(ema_params=jax.tree.map(np.copy, params))
  size, random = config.data.train_image_size, np.random.RandomState(0)
  batch = {
    'images': random.randint(
      0, 256, (config.batch_size, size, size, 3), np.uint8
    ),
    'labels': random.randint(
      0, config.data.num_classes, config.batch_size, np.int32
    ),
  }
  train_step = step.make_train_step(
    config, network, optimizer, factory.schedule_of(config)
  )
  return training(train_step, factory.looped(config, state), batch)


def training(train_step: Callable[..., Any], state: Any, batch: Any) -> Program:
  """Compiles a step, as `parallel.map_step` takes it, for the first device.

  Args:
    train_step: of (state, batch, key).
    state, batch: NumPy arrays.
  """
  devices = jax.devices()[:1]
  state = parallel.replicate(state, devices)
  batch = parallel.shard(batch, devices)
  key = parallel.replicate(jax.random.key(0), devices)
  mapped = parallel.map_step(train_step, devices)
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
