"""What each piece of a recipe costs on this machine, in time and in memory."""

import functools
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nfnets import factory, parallel, step

NEVER = 10**9
# What strips a recipe down to a plain SGD step.
PLAIN = {
  'micro_batches': 1,
  'observe_every': 0,
  'optimizer.clip': 'none',
  'sam.rho': 0.0,
  'ema.mode': 'none',
  'model.remat': False,
}
# What is added to it, one at a time.
UNOBSERVED, OBSERVED = (
  'AGC observatory, a step it skips',
  'AGC observatory, a step it sees',
)
TIMED = {
  'AGC': {'optimizer.clip': 'agc'},
  'SAM, ascent on 0.2 of the batch': {
    'sam.rho': 0.05,
    'sam.ascent_fraction': 0.2,
  },
  'SAM, ascent on the whole batch': {
    'sam.rho': 0.05,
    'sam.ascent_fraction': 1.0,
  },
  'EMA': {'ema.mode': 'warmup'},
  UNOBSERVED: {'observe_every': NEVER},
  OBSERVED: {'observe_every': 1},
  'accumulation over 2 micro-batches': {'micro_batches': 2},
  'accumulation over 4 micro-batches': {'micro_batches': 4},
  'rematerialization': {'model.remat': True},
}
MEMORY = {
  'plain': {},
  'rematerialization': {'model.remat': True},
  '4 micro-batches': {'micro_batches': 4},
}

Stepper = Callable[[int], float]


def measure_time(config: ConfigDict, rounds: int, steps: int) -> dict[str, Any]:
  """Seconds of plain steps, and ratios to them of the steps with a piece.

  Args:
    config: resolved.
    rounds: pairs of each piece, in a random order.
    steps: of each of a pair.
  """
  plain = make_stepper(with_overrides(config, {}))
  pieces = {
    name: make_stepper(with_overrides(config, values))
    for name, values in TIMED.items()
  }
  seconds: list[float] = []
  ratios: dict[str, list[float]] = {name: [] for name in pieces}
  order = random.Random(0)
  for done in range(rounds):
    print(f'round {done + 1} of {rounds}', file=sys.stderr, flush=True)
    for name in order.sample(list(pieces), len(pieces)):
      pair = [plain, pieces[name]]
      swapped = order.random() < 0.5
      times = [stepper(steps) for stepper in (pair[::-1] if swapped else pair)]
      before, after = times[::-1] if swapped else times
      seconds.append(before)
      ratios[name].append(after / before)
  return {
    'rounds': rounds,
    'steps': steps,
    'observe_every': config.observe_every or 100,
    'seconds': quartiles(seconds),
    'ratios': {name: quartiles(values) for name, values in ratios.items()},
  }


def measure_memory(config: ConfigDict) -> dict[str, dict[str, int]]:
  """Bytes of the compiled step, from the compiler's own analysis."""
  found = {}
  for name, values in MEMORY.items():
    train_step, shapes = make_step(with_overrides(config, values))
    analysis = train_step.lower(*shapes).compile().memory_analysis()
    found[name] = {
      'arguments': analysis.argument_size_in_bytes,
      'donated': analysis.alias_size_in_bytes,
      'temporary': analysis.temp_size_in_bytes,
    }
    jax.clear_caches()
  return found


def with_overrides(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
  """The plain recipe with a piece added to it."""
  config = config.copy_and_resolve_references()  # a copy of every level
  with config.unlocked():
    config.update_from_flattened_dict(PLAIN | dict(values))
  return config


def make_step(config: ConfigDict) -> tuple[Any, tuple]:
  """The mapped step for one device, and its arguments' shapes."""
  network, optimizer = factory.network_of(config), factory.optimizer_of(config)
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(
    lambda key: step.init_state(config, network, optimizer, key), key
  )
  size, count = config.data.train_image_size, config.batch_size
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  batch = {
    'images': jax.ShapeDtypeStruct((1, count * fresh, size, size, 3), np.uint8),
    'labels': jax.ShapeDtypeStruct((1, count * fresh), np.int32),
  }
  train_step = parallel.map_step(
    step.make_train_step(
      config, network, optimizer, factory.schedule_of(config)
    ),
    jax.devices()[:1],
  )
  return train_step, (factory.looped(config, state), batch, key)


def make_stepper(config: ConfigDict) -> Stepper:
  """Returns `seconds(count)` per step; compiled, with a state of its own."""
  train_step, (_, batch, _) = make_step(config)
  devices = jax.devices()[:1]
  network, optimizer = factory.network_of(config), factory.optimizer_of(config)
  init = functools.partial(step.init_state, config, network, optimizer)
  state = jax.jit(init)(jax.random.key(0))
  # Copies: the step donates every leaf, and two leaves may share a buffer.
  state = jax.tree.map(np.array, parallel.to_host(state))
  state = parallel.replicate(factory.looped(config, state), devices)
  key = parallel.replicate(jax.random.key(0), devices)
  random_batch = np.random.RandomState(0)
  batch = parallel.shard(
    {
      'images': random_batch.randint(
        0, 256, batch['images'].shape[1:], dtype=np.uint8
      ),
      'labels': random_batch.randint(
        0, config.data.num_classes, batch['labels'].shape[1:], dtype=np.int32
      ),
    },
    devices,
  )

  def seconds(count: int) -> float:
    nonlocal state
    start = time.perf_counter()
    for _ in range(count):
      state, _ = train_step(state, batch, key)
    jax.block_until_ready(state)
    return (time.perf_counter() - start) / count

  seconds(1)
  return seconds


def quartiles(values: Sequence[float]) -> list[float]:
  """The lower quartile, the median and the upper quartile."""
  return statistics.quantiles(values, n=4, method='inclusive')
