"""`train_and_evaluate(config, workdir)`: the whole run, top to bottom."""

import contextlib
import os
from typing import Any

import jax
from ml_collections import ConfigDict

from nfnets import checkpoint, monitor, parallel, recipe, results, step
from nfnets import run as running


def train_and_evaluate(
  config: ConfigDict, workdir: str | os.PathLike[str]
) -> dict[str, Any]:
  """Trains to `config.num_steps`, from the newest checkpoint in `workdir`.

  Args:
    config: a recipe (configs/), resolved.
    workdir: the run's folder.

  Returns:
    The summary, as in summary.json: `status` ('finished', 'interrupted' or
    'diverged'), `step` and the last evaluation's metrics.

  Raises:
    ValueError: the config or the workdir is refused, before any compilation.
  """
  return train(running.set_up(config, workdir))


def train(run: running.Run) -> dict[str, Any]:
  """The loop: dispatch step t, then read the metrics of step t - 1."""
  config = run.config
  if run.folder.is_finished():
    return run.folder.read_summary()
  checkpoints = checkpoint.Checkpoints(run.folder.path, config.keep_checkpoints)
  state, first_step = running.initial_state(run, checkpoints)
  train_step = step.make_train_step(
    config, run.network, run.optimizer, recipe.schedule_of(config)
  )
  key: Any = jax.random.key(config.seed)
  if config.data.on_device:
    train_step, key = step.gathering(train_step), (key, running.whole_set(run))
  train_step, key = parallel.map_step(train_step), parallel.replicate(key)
  eval_step = parallel.map_eval(step.make_eval_step(config, run.network))
  run.folder.write_config(config.to_dict())
  console = results.Console(config.num_steps, first_step)
  loggers = running.open_loggers(run, console, first_step)
  console.print(recipe.audit_of(config, state.params))
  meter = monitor.Meter(
    config, first_step, running.observed_names(run, state.params)
  )
  batches = running.train_batches(run, first_step)
  evaluation: dict[str, float] = {}
  status = 'finished'
  done = first_step
  with monitor.Interrupts() as interrupts, contextlib.ExitStack() as stack:
    for logger in loggers:
      stack.callback(logger.close)
    metrics = None
    while done < config.num_steps:
      batch = parallel.shard(next(batches))
      state, new_metrics = train_step(state, batch, key)
      if metrics is not None:
        meter.add(done, metrics)
      metrics, done = new_metrics, done + 1
      console.advance(done)
      last = done == config.num_steps
      if last or interrupts or done % config.eval_every == 0:
        meter.add(done, metrics)
        metrics = None
      if meter.diverged_at:
        status = 'diverged'
        break
      for logged_step, row in meter.due():
        running.log(loggers, logged_step, row)
        running.warn_of_clipping(config, console, row)
      if interrupts and not last:
        status = 'interrupted'
        break
      if last or done % config.eval_every == 0:
        evaluation = running.evaluation(run, eval_step, state)
        running.log(loggers, done, evaluation)
        meter.restart_clock()
      if done % config.checkpoint_every == 0:
        checkpoints.save(done, state)
    if status == 'finished' and not evaluation:  # killed before its summary
      evaluation = running.evaluation(run, eval_step, state)
    if status != 'diverged':
      checkpoints.save(done, state)
    checkpoints.wait()
  summary = {'status': status, 'step': done, **evaluation}
  if status == 'diverged':
    summary['step'] = meter.diverged_at
    console.print(running.divergence(meter, checkpoints))
  if status == 'interrupted':
    console.print(
      f'interrupted: step {done} is saved; run the same command to go on'
    )
  if run.skipped:
    summary['skipped'] = dict(sorted(run.skipped.items()))
    console.print(f'{len(run.skipped)} unreadable examples: see summary.json')
  run.folder.write_summary(summary)
  if jax.process_index() == 0:
    running.plot(run, summary)
  checkpoints.close()
  return summary
