"""A run's parts, checked: data, network, first state, steps."""

import contextlib
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
  distributed,
  factory,
  finetune,
  loggers,
  loops,
  metrics,
  parallel,
  preflight,
  step,
  watch,
)
from nfnets import evaluate as evaluating
from nfnets.data import pipeline, sources
from nfnets.optim import sam
from nfnets.workdir import RunFolder


class Options(NamedTuple):
  """What changes how a run goes, and no number of it.

  Attributes:
    missing_after: seconds of silence after which the other processes give one
      up.
    profile_steps: (A, B): steps A to B - 1 are traced.
  """

  missing_after: float = distributed.MISSING_AFTER
  profile_steps: tuple[int, int] | None = None


class Run(NamedTuple):
  """A checked run, nothing compiled yet."""

  config: ConfigDict
  options: Options
  folder: RunFolder
  train_source: sources.Source
  eval_source: sources.Source
  network: hk.TransformedWithState
  optimizer: optax.GradientTransformation
  shapes: step.TrainState  # of the state, abstract
  skipped: dict[str, str]  # unreadable examples: where, and why


def set_up(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  options: Options = Options(),  # noqa: B008
) -> Run:
  """Checks everything that can be checked without compiling.

  Raises:
    watch.Agreed: on every process, where one of several finds something wrong.
    ValueError, TypeError, OSError: alone.
  """
  run, problem = None, None
  try:
    run = _set_up(config, workdir, options)
  except (ValueError, TypeError, OSError) as error:
    problem = error
  distributed.agree_on_problem(problem)
  preflight.check(
    run.folder, config, [len(run.train_source), len(run.eval_source)]
  )
  if jax.process_index() == 0:
    run.folder.write_config(config.to_dict())
  return run


def _set_up(
  config: ConfigDict, workdir: str | os.PathLike[str], options: Options
) -> Run:
  factory.check(config, jax.device_count(), jax.process_count())
  network = factory.network_of(config)
  optimizer = factory.optimizer_of(config)
  if config.wandb:
    loggers.need_wandb()
  # Networks check their arguments when they are traced.
  shapes = jax.eval_shape(
    lambda: step.init_state(config, network, optimizer, jax.random.key(0))
  )
  # Who is named and isn't there, or is a part of a loop, is refused here.
  stacked = factory.looped(config, shapes).params
  jax.eval_shape(optimizer.init, stacked)
  if config.sam.rho:
    sam.mask_of(stacked, config.sam.perturbed or None)
  train_source, eval_source = factory.sources_of(config)
  folder = RunFolder(workdir)
  folder.check_writable()
  folder.check_same_run(config.to_dict())
  if folder.read_config() is None:  # who goes on needs the weights no more
    finetune.check(config, shapes, train_source.class_names)
  return Run(
    config,
    options,
    folder,
    train_source,
    eval_source,
    network,
    optimizer,
    shapes,
    {},
  )


@contextlib.contextmanager
def open_checkpoints(run: Run) -> Iterator[checkpoint.Checkpoints]:
  with contextlib.closing(
    checkpoint.Checkpoints(run.folder.path, run.config.keep_checkpoints)
  ) as checkpoints:
    yield checkpoints


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
  steps = distributed.exchange(int(state.step))
  if len(set(steps)) > 1:
    raise watch.Agreed(
      f'processes found checkpoints of different steps, in their order: {steps}'
    )
  if int(state.step) % run.config.steps_per_dispatch:
    raise watch.Agreed(
      f'config.steps_per_dispatch={run.config.steps_per_dispatch} does not '
      f'divide the {int(state.step)} steps already done: go on as before'
    )
  # Copies: the step donates every leaf, and two leaves may share a buffer.
  state = factory.looped(run.config, jax.tree.map(np.array, state))
  return parallel.replicate(state), int(state.step)


def whole_set(run: Run) -> dict[str, np.ndarray]:
  data = run.config.data
  return pipeline.load_all(
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
    ids = pipeline.id_batches(len(run.train_source), **place)
    devices, count = jax.local_device_count(), config.steps_per_dispatch
    while True:
      yield loops.joined([next(ids) for _ in range(count)], devices)
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


def evaluate(
  run: Run,
  eval_step: Any,
  state: step.TrainState,
  interrupts: metrics.Interrupts,
) -> dict[str, float] | None:
  """The metrics; None if any process is asked to stop meanwhile."""
  config = run.config
  batches = evaluating.eval_batches(config, run.eval_source, run.skipped)
  variables = evaluating.variables_of(state, config.ema.mode)
  asked = lambda: bool(interrupts)
  return evaluating.evaluate(eval_step, variables, batches, asked)


def is_evaluated(run: Run, done: int) -> bool:
  config = run.config
  return done == config.num_steps or (
    done > 0 and done % config.eval_every == 0
  )


def evaluation_at(run: Run, done: int) -> dict[str, float]:
  """What an earlier process logged of its evaluation at this step."""
  rows = [row for row in run.folder.read_metrics() if row['step'] == done]
  return {
    key: value
    for row in rows
    for key, value in row.items()
    if key.startswith(('eval/', 'eval_ema/'))
  }


def train_step_of(run: Run) -> tuple[Any, Any]:
  """The mapped train step, and the key (with a set on the device) it takes."""
  train_step = step.make_train_step(
    run.config, run.network, run.optimizer, factory.schedule_of(run.config)
  )
  key: Any = jax.random.key(run.config.seed)
  if run.config.data.on_device:
    train_step, key = step.gathering(train_step), (key, whole_set(run))
  train_step = loops.several(train_step, run.config.steps_per_dispatch)
  train_step = parallel.map_step(parallel.voting(train_step))
  return train_step, parallel.replicate(key)


def eval_step_of(run: Run) -> Any:
  eval_step = step.make_eval_step(run.config, run.network)
  return parallel.map_eval(parallel.voting(eval_step))
