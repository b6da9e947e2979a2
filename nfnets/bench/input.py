"""Throughput of the input pipeline, by stages, and of the model it feeds."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nfnets import checks, factory
from nfnets.bench import clock, programs
from nfnets.data import augment, images, sources

COUNT = 128  # examples of a host stage; batch size of a host pipeline
CHUNK = 16  # examples between two readings of the clock
REST = 0.5  # seconds before each turn, so that pipelines fill their buffers

Work = Callable[[], int]  # processes some images and returns their number


def measure(
  config: ConfigDict,
  *,
  rounds: int = 5,
  seconds: float = 1.0,
  with_step: bool = True,
) -> dict[str, Any]:
  """Measures a recipe's input on its own data, all stages in turn.

  Args:
    config: a resolved recipe; here `batch_size` is one device's.
    rounds: number of turns of each stage.
    seconds: duration of a turn.
    with_step: whether to build and time the training step too.

  Returns:
    `rates`: each stage's images per second of wall-clock time (`per_second`)
    and of processor time (`per_core`), as `clock.spread`; and `bottleneck`, a
    sentence.

  Raises:
    ValueError, OSError: for an invalid config or unreadable data.
  """
  checks.check(config, 1)
  source, _ = factory.sources_of(config)
  stages = host_stages(config, source) | host_pipelines(config, source)
  stages['device: augmentation'] = augmentation(config)
  if with_step:
    run = programs.training(config).run
    stages['device: train step'] = lambda: run(1) or config.batch_size
  turns = {
    name: functools.partial(clock.rate, work, seconds)
    for name, work in stages.items()
  }
  rates = {
    name: dict(zip(('per_second', 'per_core'), map(clock.spread, zip(*found))))
    for name, found in clock.alternate(turns, rounds, REST).items()
  }
  return {'rates': rates, 'bottleneck': bottleneck(config, rates)}


def host_stages(config: ConfigDict, source: sources.Source) -> dict[str, Work]:
  """Reading, decoding and cropping, each by itself in the caller's thread."""
  data = config.data
  order = np.random.RandomState(0).permutation(len(source))
  ids = [int(i) for i in order[:COUNT]]
  files = [source[i]['image'] for i in ids]
  crop = images.augmentation(data, 0)
  pictures = [(images.decode(file), i) for i, file in enumerate(files)]
  return {
    'host: read': _each(source.__getitem__, ids),
    'host: decode': _each(images.decode, files),
    'host: crop, flip, resize': _each(lambda pair: crop(*pair), pictures),
  }


def _each(function: Callable[[Any], Any], items: Sequence[Any]) -> Work:
  turn = itertools.cycle(items)

  def work() -> int:
    for item in itertools.islice(turn, CHUNK):
      function(item)
    return CHUNK

  return work


def host_pipelines(
  config: ConfigDict, source: sources.Source
) -> dict[str, Work]:
  """The input pipeline on one thread and on as many as the config says.

  With `data.cache`, all images are decoded beforehand.
  """
  data, found = config.data, {}
  for threads in sorted({1, data.num_threads}):
    one = config.copy_and_resolve_references()
    with one.unlocked():
      one.batch_size, one.data.num_threads = COUNT, threads
    batches = factory.train_batches(one, source, 0)
    for _ in range(data.cache * (1 + len(source) // COUNT)):
      next(batches)
    work = lambda batches=batches: len(jax.tree.leaves(next(batches))[0])
    if data.on_device:
      return {'host pipeline: ids': work}
    found[f'host pipeline, {threads} thread{"s" * (threads > 1)}'] = work
  return found


def augmentation(config: ConfigDict) -> Work:
  """The recipe's augmentation, applied to noise on the first device."""
  batch = programs.random_batch(config)
  mapped = jax.jit(
    lambda key, turn, batch: augment.augment(
      config, jax.random.fold_in(key, turn), batch
    )['images']
  )
  key, batch = jax.device_put((jax.random.key(0), batch), jax.devices()[0])
  turn = itertools.count()

  def work() -> int:
    augmented = mapped(key, np.int32(next(turn)), batch)
    return len(jax.block_until_ready(augmented))

  work()  # compiles
  return work


def bottleneck(config: ConfigDict, rates: dict[str, Any]) -> str:
  """Says in a sentence whether the host keeps up with the device.

  On a CPU both share the cores, so that images per second of processor time are
  compared; elsewhere, of wall-clock time.
  """
  on_cpu = jax.default_backend() == 'cpu'
  by, unit = ('per_core', ' a core') if on_cpu else ('per_second', '')
  *_, host = (name for name in rates if name.startswith('host pipeline'))
  *_, device = (name for name in rates if name.startswith('device'))
  feeds = rates[host][by]['median']
  feeds /= 2 if config.augment.pairs == 'fresh' else 1  # two decoded for one
  takes = rates[device][by]['median']
  takes *= 1 if on_cpu else jax.local_device_count()
  return (
    f'{host if feeds < takes else device}; the host supplies {feeds:,.4g} '
    f'images/s{unit}, {feeds / takes:.3g} times the rate of "{device}"'
  )
