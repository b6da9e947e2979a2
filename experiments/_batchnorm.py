"""Measures batch normalization's costs on networks that nobody trained.

Each function takes the recipes of a batch-normalized and of a normalizer-free
network, {'batch': ..., 'nf': ...}, and returns numbers of each. Images are
those that the recipes evaluate on.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from nfnets import factory
from nfnets.bench import clock, pieces, programs
from nfnets.data import augment, pipeline, sources


def measure(config: ConfigDict) -> dict[str, dict[str, Any]]:
  """Measures one drawback, `config.drawback`, of both networks."""
  configs = {}
  for name in ('batch', 'nf'):
    configs[name] = config.copy_and_resolve_references()
    with configs[name].unlocked():
      configs[name].model.normalizer = name
  return DRAWBACKS[config.drawback](configs)


def step_cost(configs: Mapping[str, ConfigDict], rounds: int = 21) -> dict:
  """Quartiles of a training step's seconds, in turn, and memory.

  Returns:
    For each: `seconds`, their `ratio` to the last one's by round, and
    `temporary`, the compiler's bytes beside state and batch.
  """
  built = {
    name: programs.training(
      pieces.with_piece(config, {'augment.pad': config.augment.pad})
    )
    for name, config in configs.items()
  }
  turns = {
    name: functools.partial(clock.median_step, program.run, 0.3)
    for name, program in built.items()
  }
  times = clock.alternate(turns, rounds)
  quartiles = lambda found: [found[key] for key in ('low', 'median', 'high')]
  return {
    name: {
      'seconds': quartiles(clock.spread(times[name])),
      'ratio': quartiles(clock.ratio(times[name], times['nf'])),
      'temporary': program.memory['temp'],
    }
    for name, program in built.items()
  }


def batch_mates(
  configs: Mapping[str, ConfigDict], batch_size: int = 16, draws: int = 8
) -> dict:
  """How far one image's prediction depends on the others of its batch.

  Returns:
    For each: `changed`, the share of images whose top-1 class is another with
    some mates, and `logits`, the root mean square change of the logits with
    the mates, relative to the logits.
  """
  images, _ = images_of(configs['batch'])
  probes, others = images[:32], images[32:]
  random = np.random.RandomState(0)
  pick = lambda: random.choice(len(others), batch_size - 1, replace=False)
  mates = [pick() for _ in range(draws)]
  found = {}
  for name, config in configs.items():
    forward = forward_of(config, is_training=True)
    logits = np.array(
      [
        [forward(np.stack([probe, *others[draw]]))[0][0] for draw in mates]
        for probe in probes
      ]
    )  # [probes, draws, K]
    logits -= logits.mean((0, 1))  # an untrained head prefers one class
    classes = logits.argmax(-1)
    change = logits - logits.mean(1, keepdims=True)
    found[name] = {
      'changed': float(np.mean(np.any(classes != classes[:, :1], axis=1))),
      'logits': size(change) / size(logits),
    }
  return found


def train_eval_gap(
  configs: Mapping[str, ConfigDict],
  batches: int = 50,
  batch_sizes: tuple[int, ...] = (4, 16, 64),
) -> dict:
  """How far training and inference are apart, for equal weights and images.

  Running averages see that many batches of the same images first.

  Returns:
    For each, by batch size: `changed`, the share of images whose top-1 class
    differs, and `logits`, the difference relative to those of inference.
  """
  images, _ = images_of(configs['batch'])
  found = {name: {'changed': {}, 'logits': {}} for name in configs}
  for name, config in configs.items():
    train, infer = (forward_of(config, mode) for mode in (True, False))
    for count in batch_sizes:
      state, random = None, np.random.RandomState(0)
      for _ in range(batches):
        _, state = train(images[random.choice(len(images), count)], state)
      parts = np.split(
        images[: len(images) // count * count], len(images) // count
      )
      together = np.concatenate([train(part, state)[0] for part in parts])
      alone = np.concatenate([infer(part, state)[0] for part in parts])
      together, alone = together - alone.mean(0), alone - alone.mean(0)
      differs = together.argmax(-1) != alone.argmax(-1)
      found[name]['changed'][str(count)] = float(differs.mean())
      found[name]['logits'][str(count)] = size(together - alone) / size(alone)
  return found


def device_count(
  configs: Mapping[str, ConfigDict],
  batch_size: int = 64,
  counts: tuple[int, ...] = (1, 2, 8, 32),
) -> dict:
  """How far the gradient depends on how many devices share the batch.

  Returns:
    For each, by device count: `gradient`, the difference from one device's
    gradient relative to that one.
  """
  images, labels = (values[:batch_size] for values in images_of(configs['nf']))
  found = {}
  for name, config in configs.items():
    split = {
      count: split_gradient(config, images, labels, count) for count in counts
    }
    off = {
      str(c): size(g - split[1]) / size(split[1]) for c, g in split.items()
    }
    found[name] = {'gradient': off}
  return found


def split_gradient(
  config: ConfigDict, images: np.ndarray, labels: np.ndarray, count: int
) -> np.ndarray:
  """The mean of the gradients of so many devices, each of its part, flat.

  Args:
    config: a recipe.
    images: `[N, H, W, 3]`, normalized.
    labels: `[N]`.
    count: of devices; divides N.
  """
  network, params, state = initialized(config)

  @jax.jit
  @jax.grad
  def gradient(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    outputs, _ = network.apply(params, state, None, images, True)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      outputs['logits'], labels
    )
    return losses.mean()

  parts = zip(np.split(images, count), np.split(labels, count))
  trees = [jax.tree.leaves(gradient(params, *part)) for part in parts]
  flat = [np.concatenate([np.ravel(x) for x in leaves]) for leaves in trees]
  return np.mean(flat, axis=0)


def images_of(config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
  """What the recipe evaluates on, as the network takes it.

  Returns:
    float32 `[N, H, W, 3]`, normalized by the recipe, and int labels `[N]`.

  Raises:
    ValueError, FileNotFoundError: the images aren't where the recipe says.
  """
  data = config.data
  source = sources.create(
    data.name, data.eval_split, data.data_dir or None, data.num_classes
  )
  (batch,) = pipeline.eval_batches(
    source,
    batch_size=len(source),
    image_size=data.train_image_size,
    preprocessing=data.eval_preprocessing,
  )
  images = np.float32(batch['images'])
  normalized = augment.normalize(images, data.mean, data.std)
  return np.asarray(normalized), batch['labels']


def forward_of(config: ConfigDict, is_training: bool) -> Callable:
  """`forward(images, state=None)` to logits and the next state."""
  network, params, first = initialized(config)
  apply = jax.jit(functools.partial(network.apply, is_training=is_training))

  def forward(images: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
    outputs, state = apply(params, state or first, None, images)
    return np.asarray(outputs['logits']), state

  return forward


def initialized(config: ConfigDict) -> tuple[Any, Any, Any]:
  """A recipe's network, its parameters and its state."""
  network, pixels = factory.network_of(config), config.data.train_image_size
  init = jax.jit(functools.partial(network.init, is_training=True))
  images = np.zeros((2, pixels, pixels, 3), np.float32)
  return network, *init(jax.random.key(0), images)


def size(values: np.ndarray) -> float:
  """The root mean square."""
  return float(np.sqrt(np.mean(np.square(values))))


DRAWBACKS = {
  'step_cost': step_cost,
  'batch_mates': batch_mates,
  'train_eval_gap': train_eval_gap,
  'device_count': device_count,
}
