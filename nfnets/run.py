"""A run's parts, checked: data, network, first state, batches, loggers."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import haiku as hk
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from nfnets import (
  checkpoint,
  curves,
  evaluate,
  finetune,
  monitor,
  parallel,
  recipe,
  results,
  step,
)
from nfnets.data import on_device, pipeline, sources
from nfnets.optim import observe as observing


class Run(NamedTuple):
  """A checked run, nothing compiled yet."""

  config: ConfigDict
  folder: results.RunFolder
  train_source: sources.Source
  eval_source: sources.Source
  network: hk.TransformedWithState
  optimizer: optax.GradientTransformation
  shapes: step.TrainState  # of the state, abstract
  skipped: dict[str, str]  # unreadable examples: where, and why


def set_up(config: ConfigDict, workdir: str | os.PathLike[str]) -> Run:
  """Checks everything that can be checked without compiling."""
  recipe.check(config, jax.device_count(), jax.process_count())
  network = recipe.network_of(config)
  optimizer = recipe.optimizer_of(config)
  if config.wandb:
    results.need_wandb()
  # Networks check their arguments when they are traced.
  shapes = jax.eval_shape(
    lambda: step.init_state(config, network, optimizer, jax.random.key(0))
  )
  train_source, eval_source = recipe.sources_of(config)
  folder = results.RunFolder(workdir)
  folder.check_same_run(config.to_dict())
  return Run(
    config, folder, train_source, eval_source, network, optimizer, shapes, {}
  )


def initial_state(
  run: Run, checkpoints: checkpoint.Checkpoints
) -> tuple[step.TrainState, int]:
  def init(key: jax.Array) -> step.TrainState:
    return step.init_state(run.config, run.network, run.optimizer, key)

  key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
  state = checkpoints.restore_latest(run.shapes)
  if state is None:
    state = parallel.to_host(jax.jit(init)(key))
    state = finetune.start(run.config, state, run.train_source.class_names)
  # Copies: the step donates every leaf, and two leaves may share a buffer.
  state = jax.tree.map(np.array, state)
  return parallel.replicate(state), int(state.step)


def whole_set(run: Run) -> dict[str, np.ndarray]:
  data = run.config.data
  return on_device.load(
    run.train_source, data.train_image_size, data.on_error, run.skipped
  )


def train_batches(run: Run, start_step: int) -> Iterator[dict[str, Any]]:
  config = run.config
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  place = {
    'batch_size': config.batch_size * fresh,
    'seed': config.seed,
    'start_step': start_step,
    'process_index': jax.process_index(),
    'process_count': jax.process_count(),
  }
  if config.data.on_device:
    yield from on_device.id_batches(len(run.train_source), **place)
    return
  batches = pipeline.train_batches(
    run.train_source,
    **place,
    image_size=config.data.train_image_size,
    crop=config.data.crop,
    flip=config.data.flip,
    num_threads=config.data.num_threads,
    cache=config.data.cache,
    on_error=config.data.on_error,
    skipped=run.skipped,
  )
  for batch in batches:
    yield {name: batch[name] for name in ('images', 'labels')}


def evaluation(
  run: Run, eval_step: Any, state: step.TrainState
) -> dict[str, float]:
  config = run.config
  batches = evaluate.eval_batches(config, run.eval_source, run.skipped)
  variables = evaluate.variables_of(state, config.ema.mode)
  return evaluate.evaluate(eval_step, variables, batches)


def open_loggers(
  run: Run, console: results.Console, first_step: int
) -> list[Any]:
  loggers: list[Any] = [console]
  if jax.process_index() == 0:
    path = run.folder.path
    loggers.append(results.JsonLines(path / 'metrics.jsonl', first_step))
    loggers.append(results.TensorBoard(path / 'tensorboard', first_step))
    if run.config.wandb:
      loggers.append(results.WeightsAndBiases(path, run.config.to_dict()))
  return loggers


def log(loggers: list[Any], step_done: int, row: dict[str, float]) -> None:
  for logger in loggers:
    logger.log(step_done, row)


def observed_names(run: Run, params: Any) -> list[str]:
  if not run.config.observe_every:
    return []
  shapes = jax.eval_shape(
    lambda tree: step.observe(run.config, tree, tree), params
  )
  return sorted(shapes)


def warn_of_clipping(
  config: ConfigDict, console: results.Console, row: dict[str, float]
) -> None:
  if config.optimizer.clip == 'agc' and 'agc/clipped_fraction' in row:
    warning = observing.warning(row, config.optimizer.clipping)
    if warning:
      console.print(warning)


def plot(run: Run, summary: dict[str, Any]) -> None:
  name, data = run.config.model.name, run.config.data.name
  rows, path = run.folder.read_metrics(), run.folder.path
  title = f'{name} on {data}: {summary["status"]} at step {summary["step"]}'
  curves.plot(rows, path / 'curves.png', title)
  curves.heat_map(rows, path / 'clipping.png', title)


def divergence(
  meter: monitor.Meter, checkpoints: checkpoint.Checkpoints
) -> str:
  saved = checkpoints.latest_step()
  left = f'checkpoint of step {saved}' if saved else 'no checkpoint'
  return (
    f'stopped: the loss or gradient of step {meter.diverged_at} is not finite; '
    f'the last good state is the {left}'
  )
