"""The device's side of the input as subjects: augmentation and train step."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nfnets import factory, parallel, step
from nfnets.bench import clock, verdict
from nfnets.data import mixing, pipeline, randaugment, sources

Batch = dict[str, np.ndarray]


def batch_of(config: ConfigDict, source: sources.Source, size: int) -> Batch:
  """One device's batch, from the host; `size` 0: the config's, 64 at most."""
  size = size or min(config.batch_size, 64)
  batch = next(
    pipeline.train_batches(
      source,
      batch_size=size * (2 if config.augment.pairs == 'fresh' else 1),
      image_size=config.data.train_image_size,
      crop=config.data.crop,
      flip=config.data.flip,
      num_threads=0,
    )
  )
  return {name: batch[name] for name in ('images', 'labels')}


def augmentations(config: ConfigDict, batch: Batch) -> dict[str, clock.Subject]:
  """On one device: each part of `augment.augment` alone, and the whole."""
  spec = config.augment
  soft = jax.nn.one_hot(batch['labels'], config.data.num_classes)
  parts: dict[str, Callable] = {}
  if spec.mix != 'none':
    parts['device: mixing'] = lambda key, batch, soft: mixing.mix(
      key, batch['images'], soft, spec.mix, pairs=spec.pairs,
      alpha=spec.mixup_alpha,
    )[0]  # fmt: skip
  if spec.randaugment_layers:
    parts['device: RandAugment'] = lambda key, batch, _: (
      randaugment.rand_augment(
        key, batch['images'], spec.randaugment_layers,
        spec.randaugment_magnitude,
      )
    )  # fmt: skip
  parts[verdict.AUGMENTATION] = lambda key, batch, _: step.augment_batch(
    config, key, batch
  )['images']
  return {name: _jitted(part, batch, soft) for name, part in parts.items()}


def _jitted(function: Callable, *inputs: Any) -> clock.Subject:
  mapped = jax.jit(
    lambda key, turn, *inputs: function(jax.random.fold_in(key, turn), *inputs)
  )
  inputs = jax.device_put((jax.random.key(0), *inputs), jax.devices()[0])
  turn = itertools.count()

  def work() -> int:
    images = mapped(inputs[0], np.int32(next(turn)), *inputs[1:])
    return len(jax.block_until_ready(images))

  work()  # compiles
  return clock.subject(work)


def train_step(
  config: ConfigDict, source: sources.Source, batch: Batch
) -> clock.Subject:
  """The whole step on one device, its batch there already."""
  device = jax.local_devices()[:1]
  network, optimizer = factory.network_of(config), factory.optimizer_of(config)
  init = jax.jit(lambda k: step.init_state(config, network, optimizer, k))
  # Copies: the step donates every leaf, and two leaves may share a buffer.
  state = jax.tree.map(np.array, parallel.to_host(init(jax.random.key(0))))
  state = factory.looped(config, state)
  mapped = step.make_train_step(
    config, network, optimizer, factory.schedule_of(config)
  )
  key: Any = jax.random.key(0)
  if config.data.on_device:
    data = pipeline.load_all(source, config.data.train_image_size)
    mapped, key = step.gathering(mapped), (key, data)
    batch = {
      'ids': np.arange(len(batch['labels']), dtype=np.int32) % len(source)
    }
  mapped = parallel.map_step(mapped, device)
  key, state = parallel.replicate((key, state), device)
  count = len(jax.tree.leaves(batch)[0])
  count //= 2 if config.augment.pairs == 'fresh' else 1
  batch = parallel.shard(batch, device)
  waiting = None

  def work() -> int:
    nonlocal state, waiting
    state, metrics = mapped(state, batch, key)
    jax.block_until_ready(waiting)  # as the loop does: one step behind
    waiting = metrics
    return count

  work()  # compiles
  return clock.subject(work)
