"""The training loop's rate beside its bare compiled step's, in turn."""

import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from nfnets import parallel, train, workdir
from nfnets import run as running
from nfnets.bench import clock, step_time

STEP_SECONDS = 0.1
WINDOWS = 3  # of a run, between two logged rows; the first starts up


def measure(
  config: ConfigDict, pairs: int = 5, window: int = 10
) -> dict[str, Any]:
  """Runs `train.train` and its step alone alternately, at about 0.1 s a step.

  The batch is made as large as that takes. The loop's seconds are those that it
  logs itself: input, logging and the console are in them; compilation, the
  evaluation and checkpoints are not.

  Args:
    config: a recipe whose data are at hand.
    pairs: runs of each.
    window: steps between two logged rows.

  Returns:
    `loop` and `bare`: seconds of a step in each pair; `ratio` {median, low,
    high} of the loop's rate to the bare step's, 1 where nothing is lost;
    `batch_size`.
  """
  options = ('jax_compilation_cache_dir',
             'jax_persistent_cache_min_compile_time_secs')  # fmt: skip
  before = {name: getattr(jax.config, name) for name in options}
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    # Each run compiles the same step: the first for all.
    jax.config.update(options[0], str(root / 'cache'))
    jax.config.update(options[1], 0.0)
    try:
      return _measure(config, pairs, window, root)
    finally:
      for name, value in before.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()  # it holds on to the folder


def _measure(
  config: ConfigDict, pairs: int, window: int, root: pathlib.Path
) -> dict[str, Any]:
  once = clock.median(_bare(_prepared(config, window), root / 'try')(3))
  unit = jax.device_count() * config.micro_batches
  count = round(config.batch_size * STEP_SECONDS / once / unit)
  config = _prepared(config, window, unit * max(1, count))
  bare = _bare(config, root / 'bare')
  taken: dict[str, list[float]] = {'loop': [], 'bare': []}
  for pair in range(pairs):
    turns = {
      'loop': lambda pair=pair: _loop(config, root / str(pair)),
      'bare': lambda: bare((WINDOWS - 1) * window),
    }
    for name in list(turns)[:: -1 if pair % 2 else 1]:
      taken[name].append(clock.median(turns[name]()))
  ratios = [b / a for a, b in zip(taken['loop'], taken['bare'])]
  return {
    'batch_size': config.batch_size,
    **taken,
    'ratio': {
      'median': clock.median(ratios),
      'low': min(ratios),
      'high': max(ratios),
    },
  }


def _prepared(
  config: ConfigDict, window: int, batch_size: int = 0
) -> ConfigDict:
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.num_steps = WINDOWS * window
    config.batch_size = batch_size or config.batch_size
    config.schedule.name = 'constant'
    config.schedule.warmup_steps = 0
    config.log_every = window
    config.eval_every = config.checkpoint_every = 10**9
    config.observe_every = 0
  return config


def _loop(config: ConfigDict, folder: pathlib.Path) -> list[float]:
  """Seconds of a step in each window of a run but the first."""
  train.train(running.set_up(config, folder))
  rows = workdir.RunFolder(folder).read_metrics()
  return [r['train/step_seconds'] for r in rows if 'train/loss' in r][1:]


def _bare(
  config: ConfigDict, folder: pathlib.Path
) -> Callable[[int], list[float]]:
  """`seconds(steps)` of the run's own step, its batch on the device already."""
  run = running.set_up(config, folder)
  with running.open_checkpoints(run) as checkpoints:
    state, _ = running.initial_state(run, checkpoints)
  step, key = running.train_step_of(run)
  batch = next(running.train_batches(run, 0)) | parallel.vote(False)
  batch = parallel.shard(batch)

  def dispatch(count: int) -> None:
    nonlocal state
    for _ in range(count):
      state, metrics = step(state, batch, key)
    jax.block_until_ready(metrics)

  def seconds(count: int) -> list[float]:
    dispatch(1)
    start = time.perf_counter()
    dispatch(count)
    return [(time.perf_counter() - start) / count]

  return seconds


def line(result: dict[str, Any]) -> str:
  """The result as a sentence."""
  loop, bare = (
    step_time.spread(result[name])['median'] * 1e3 for name in ('loop', 'bare')
  )
  ratio = result['ratio']
  return (
    f"The loop's steps/s are {ratio['median']:.3f} of the bare compiled step's "
    f'({ratio["low"]:.3f} to {ratio["high"]:.3f} over {len(result["loop"])} '
    f'alternating pairs): {loop:.1f} and {bare:.1f} ms a step, batch '
    f'{result["batch_size"]}.'
  )
