"""Measures drawbacks of batch normalization on untrained networks.

The images are those that a recipe evaluates on. Logits are centered over
images, because an untrained head prefers one class.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

from nfnets import factory
from nfnets.bench import clock, pieces, programs
from nfnets.data import augment, pipeline, sources


def measure(config: ConfigDict) -> dict[str, dict[str, Any]]:
  """Measures `config.drawback` of both networks, by their names."""
  configs = {}
  for name in ('batch', 'nf'):
    configs[name] = config.copy_and_resolve_references()
    configs[name].model.normalizer = name
  if config.drawback == 'step_cost':
    return step_cost(configs)
  of_one = {
    'batch_mates': batch_mates,
    'train_eval_gap': train_eval_gap,
    'device_count': device_count,
  }[config.drawback]
  return {name: of_one(each) for name, each in configs.items()}


def step_cost(configs: Mapping[str, ConfigDict], rounds: int = 21) -> dict:
  """The time and memory of a training step, measured in turn.

  Returns:
    For each network the quartiles of `seconds` and of its `ratio` to the
    normalizer-free one in each round, and `temporary`: the bytes that the
    compiler reserves beside state and batch.
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


class Untrained:
  """A recipe's network at initialization.

  Attributes:
    images: those that the recipe evaluates on, normalized, `[N, H, W, 3]`.
    labels: their classes, `[N]`.
  """

  def __init__(self, config: ConfigDict):
    network, data = factory.network_of(config), config.data
    source = sources.of(data, data.eval_split)
    (batch,) = pipeline.eval_batches(
      source,
      batch_size=len(source),
      image_size=data.train_image_size,
      preprocessing=data.eval_preprocessing,
    )
    images = np.float32(batch['images'])
    self.images = np.asarray(augment.normalize(images, data.mean, data.std))
    self.labels = batch['labels']
    init = jax.jit(functools.partial(network.init, is_training=True))
    self.params, self.state = init(jax.random.key(0), self.images[:2])
    self._apply = jax.jit(network.apply, static_argnums=4)

  def __call__(
    self, images: np.ndarray, is_training: bool, state: Any = None
  ) -> tuple[np.ndarray, Any]:
    """The logits of images `[N, H, W, 3]`, and the next state."""
    state = state or self.state
    outputs, state = self._apply(self.params, state, None, images, is_training)
    return np.asarray(outputs['logits']), state

  def gradient(
    self, images: np.ndarray, labels: np.ndarray, count: int
  ) -> np.ndarray:
    """The flat mean gradient of `count` devices that share the batch."""

    def loss(params: Any, images: np.ndarray, labels: np.ndarray) -> jax.Array:
      outputs, _ = self._apply(params, self.state, None, images, True)
      return optax.softmax_cross_entropy_with_integer_labels(
        outputs['logits'], labels
      ).mean()

    parts = zip(np.split(images, count), np.split(labels, count))
    grads = [jax.grad(loss)(self.params, *part) for part in parts]
    return np.mean([ravel_pytree(tree)[0] for tree in grads], axis=0)


def batch_mates(
  config: ConfigDict, batch_size: int = 16, draws: int = 8
) -> dict[str, float]:
  """How much an image's prediction depends on the others in its batch.

  Returns:
    `changed`, the share of images whose top-1 class differs between sets of
    mates; and `logits`, the root mean square change of the logits with the
    mates, relative to the logits.
  """
  network, random = Untrained(config), np.random.RandomState(0)
  probes, others = network.images[:32], network.images[32:]
  pick = lambda: random.choice(len(others), batch_size - 1, replace=False)
  mates = [pick() for _ in range(draws)]
  of_probe = lambda probe, draw: network(
    np.stack([probe, *others[draw]]), True
  )[0][0]
  logits = np.array([[of_probe(p, draw) for draw in mates] for p in probes])
  logits -= logits.mean((0, 1))  # [probes, draws, K]
  classes = logits.argmax(-1)
  change = logits - logits.mean(1, keepdims=True)
  return {
    'changed': float(np.mean(np.any(classes != classes[:, :1], axis=1))),
    'logits': size(change) / size(logits),
  }


def train_eval_gap(
  config: ConfigDict,
  batches: int = 50,
  batch_sizes: tuple[int, ...] = (4, 16, 64),
) -> dict[str, dict[str, float]]:
  """How much training and inference differ, for equal weights and images.

  Running averages are first computed over that many batches of the images.

  Returns:
    By batch size `changed`, the share of images whose top-1 class differs, and
    `logits`, the difference relative to the logits of inference.
  """
  network = Untrained(config)
  images, found = network.images, {'changed': {}, 'logits': {}}
  for count in batch_sizes:
    state, random = None, np.random.RandomState(0)
    for _ in range(batches):
      seen = images[random.choice(len(images), count)]
      _, state = network(seen, True, state)
    whole = len(images) // count
    parts = np.split(images[: whole * count], whole)
    together, alone = (
      np.concatenate([network(part, mode, state)[0] for part in parts])
      for mode in (True, False)
    )
    together, alone = together - alone.mean(0), alone - alone.mean(0)
    differs = together.argmax(-1) != alone.argmax(-1)
    found['changed'][str(count)] = float(differs.mean())
    found['logits'][str(count)] = size(together - alone) / size(alone)
  return found


def device_count(
  config: ConfigDict,
  batch_size: int = 64,
  counts: tuple[int, ...] = (1, 2, 8, 32),
) -> dict[str, dict[str, float]]:
  """How much the gradient depends on the number of devices.

  Returns:
    `gradient`: by device count, the relative difference from the gradient of
    one device.
  """
  network = Untrained(config)
  batch = network.images[:batch_size], network.labels[:batch_size]
  one, *others = (network.gradient(*batch, count) for count in counts)
  off = [size(grads - one) / size(one) for grads in (one, *others)]
  return {'gradient': dict(zip(map(str, counts), off))}


def size(values: np.ndarray) -> float:
  """The root mean square."""
  return float(np.sqrt(np.mean(np.square(values))))
