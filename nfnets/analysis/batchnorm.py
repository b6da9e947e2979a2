"""What batch normalization costs, measured on networks that nobody trained.

Each function compares normalizers of one network and returns a dictionary of
numbers for each. Images are those that the recipe evaluates on. With skip gains
of 0 a normalizer-free network's branches would take no part, so a recipe for
anything but time sets others. Logits have their mean over all images taken off,
for an untrained head prefers one class.
"""

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nfnets import factory, step
from nfnets.analysis import cost
from nfnets.data import augment, pipeline, sources

NORMALIZERS = ('batch', 'nf')
BATCH_SIZES = (4, 16, 64)
DEVICES = (1, 2, 8, 32)

Tree = Any
Numbers = dict[str, Any]


def measure(config: ConfigDict, drawback: str) -> dict[str, Numbers]:
  """One of `DRAWBACKS`, for each of `NORMALIZERS`.

  Args:
    config: a recipe of `cifar_resnet_*`.
    drawback: a key of `DRAWBACKS`.

  Raises:
    ValueError: for an unknown drawback.
  """
  if drawback not in DRAWBACKS:
    raise ValueError(
      f'no drawback {drawback!r}: choose one of {", ".join(DRAWBACKS)}'
    )
  configs = {
    name: cost.with_overrides(config, {'model.normalizer': name})
    for name in NORMALIZERS
  }
  return DRAWBACKS[drawback](configs)


def step_cost(
  configs: Mapping[str, ConfigDict], rounds: int = 21
) -> dict[str, Numbers]:
  """Seconds of a training step, and the compiler's account of its memory.

  Returns:
    For each: `seconds` (quartiles), `temporary` (bytes beside state and batch)
    and `ratio` (quartiles of its time over the last one's, in pairs).
  """
  steppers = {name: cost.make_stepper(c) for name, c in configs.items()}
  *_, reference = configs
  order, times = random.Random(0), {name: [] for name in configs}
  for _ in range(rounds):
    for name in order.sample(list(configs), len(configs)):
      times[name].append(steppers[name](2))
  found = {}
  for name, config in configs.items():
    train_step, shapes = cost.make_step(config)
    memory = train_step.lower(*shapes).compile().memory_analysis()
    ratios = [a / b for a, b in zip(times[name], times[reference])]
    found[name] = {
      'seconds': cost.quartiles(times[name]),
      'ratio': cost.quartiles(ratios),
      'temporary': memory.temp_size_in_bytes,
    }
  return found


def batch_mates(
  configs: Mapping[str, ConfigDict], batch_size: int = 16, draws: int = 8
) -> dict[str, Numbers]:
  """How far one image's prediction depends on the others of its batch.

  Returns:
    For each: `changed`, the share of images whose top-1 class is another with
    some mates, and `logits`, the root mean square change of the logits with
    the mates, relative to the logits themselves.
  """
  images, _ = images_of(next(iter(configs.values())))
  probes, others = images[:32], images[32:]
  rng = np.random.RandomState(0)
  mates = np.stack(
    [
      rng.choice(len(others), batch_size - 1, replace=False)
      for _ in range(draws)
    ]
  )
  found = {}
  for name, config in configs.items():
    forward = _forward(config)

    @jax.jit
    def with_mates(probe: jax.Array) -> jax.Array:
      def of_draw(mates: jax.Array) -> jax.Array:
        batch = jnp.concatenate([probe[None], others[mates]])
        return forward(batch, True)[0][0]  # noqa: B023

      return jax.vmap(of_draw)(mates)

    logits = [with_mates(probe) for probe in probes]
    logits = np.asarray(logits)  # [probes, draws, K]
    logits -= logits.mean((0, 1))
    classes = logits.argmax(-1)
    change = logits - logits.mean(1, keepdims=True)
    found[name] = {
      'changed': float(np.mean(np.any(classes != classes[:, :1], axis=1))),
      'logits': _size(change) / _size(logits),
    }
  return found


def train_eval_gap(
  configs: Mapping[str, ConfigDict],
  batches: int = 50,
  batch_sizes: Sequence[int] = BATCH_SIZES,
) -> dict[str, Numbers]:
  """How far training mode and inference mode are apart, for equal weights.

  Running averages see that many batches of the same images first.

  Returns:
    For each, by batch size: `changed`, the share of images whose top-1 class
    differs, and `logits`, the difference relative to those of inference.
  """
  images, _ = images_of(next(iter(configs.values())))
  found: dict[str, Numbers] = {}
  for name, config in configs.items():
    found[name] = {'changed': {}, 'logits': {}}
    forward = _forward(config)
    train = jax.jit(functools.partial(forward, is_training=True))
    infer = jax.jit(functools.partial(forward, is_training=False))
    for size in batch_sizes:
      state, rng = None, np.random.RandomState(0)
      for _ in range(batches):
        _, state = train(images[rng.choice(len(images), size)], state=state)
      rest = images[: len(images) // size * size].reshape(
        -1, size, *images.shape[1:]
      )
      together = np.concatenate([train(x, state=state)[0] for x in rest])
      alone = np.concatenate([infer(x, state=state)[0] for x in rest])
      together, alone = together - alone.mean(0), alone - alone.mean(0)
      differs = together.argmax(-1) != alone.argmax(-1)
      found[name]['changed'][str(size)] = float(differs.mean())
      change = _size(together - alone) / _size(alone)
      found[name]['logits'][str(size)] = change
  return found


def device_count(
  configs: Mapping[str, ConfigDict],
  batch_size: int = 64,
  counts: Sequence[int] = DEVICES,
) -> dict[str, Numbers]:
  """How far the gradient depends on how many devices share the batch.

  A device computes the gradient of its part, with its part's statistics; all
  are averaged, as `step.make_train_step` does.

  Returns:
    For each, by device count: `gradient`, the difference from one device's
    gradient relative to that one, and `loss`, the loss.
  """
  config = next(iter(configs.values()))
  images, labels = (values[:batch_size] for values in images_of(config))
  targets = np.eye(config.data.num_classes, dtype=np.float32)[labels]
  found: dict[str, Numbers] = {}
  for name, config in configs.items():
    results = {
      count: split_gradient(config, images, targets, count) for count in counts
    }
    reference = _flat(results[1][0])
    found[name] = {
      'gradient': {
        str(count): _size(_flat(grads) - reference) / _size(reference)
        for count, (grads, _) in results.items()
      },
      'loss': {str(count): float(loss) for count, (_, loss) in results.items()},
    }
  return found


def split_gradient(
  config: ConfigDict, images: jax.Array, targets: jax.Array, count: int
) -> tuple[Tree, jax.Array]:
  """Gradient and loss of a batch over that many devices.

  Args:
    config: a recipe.
    images: `[N, H, W, 3]`, normalized.
    targets: `[N, K]`.
    count: of devices; divides N.
  """
  network = factory.network_of(config)
  gradient = step.make_gradient(config, network)
  params, state = _variables(config, images)
  key = jax.random.key(0)

  @jax.jit
  def of_part(images: jax.Array, targets: jax.Array) -> tuple[Tree, jax.Array]:
    inputs = {'images': images, 'targets': targets}
    grads, (metrics, _) = gradient(params, state, key, inputs)
    return grads, metrics['loss']

  parts = zip(jnp.split(images, count), jnp.split(targets, count))
  return jax.tree.map(
    lambda *x: np.mean(x, axis=0), *[of_part(*part) for part in parts]
  )


def images_of(config: ConfigDict) -> tuple[jax.Array, np.ndarray]:
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
  images = jnp.asarray(batch['images'], jnp.float32)
  return augment.normalize(images, data.mean, data.std), batch['labels']


def _variables(config: ConfigDict, images: jax.Array) -> tuple[Tree, Tree]:
  network = factory.network_of(config)
  return jax.jit(functools.partial(network.init, is_training=True))(
    jax.random.key(0), images[:2]
  )


def _forward(config: ConfigDict) -> Any:
  """`forward(images, is_training, state)` to logits and the next state."""
  network = factory.network_of(config)
  size = config.data.train_image_size
  params, first = _variables(config, jnp.zeros((2, size, size, 3)))

  def forward(
    images: jax.Array, is_training: bool, state: Tree = None
  ) -> tuple[jax.Array, Tree]:
    outputs, state = network.apply(
      params, first if state is None else state, None, images, is_training
    )
    return outputs['logits'], state

  return forward


def _flat(tree: Tree) -> np.ndarray:
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _size(values: np.ndarray) -> float:
  return float(np.sqrt(np.mean(np.square(values))))


DRAWBACKS = {
  'step_cost': step_cost,
  'batch_mates': batch_mates,
  'train_eval_gap': train_eval_gap,
  'device_count': device_count,
}
