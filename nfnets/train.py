"""`train_and_evaluate(config, workdir)`: the whole run, top to bottom."""

import contextlib
import os
from typing import Any

import jax
from ml_collections import ConfigDict

from nfnets import factory, instruments, parallel, watch
from nfnets import run as running
from nfnets.metrics import Interrupts


def train_and_evaluate(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  options: running.Options = running.Options(),  # noqa: B008
) -> dict[str, Any]:
  """Trains to `config.num_steps`, from the newest checkpoint in `workdir`.

  Args:
    config: a recipe (configs/), resolved.
    workdir: the run's folder; of several processes, one folder for all.
    options: what changes how the run goes, and no number.

  Returns:
    The summary, as in summary.json: `status` ('finished', 'interrupted' or
    'diverged'), `step` and the last evaluation's metrics.

  Raises:
    ValueError: the config or the workdir is refused, before any compilation.
    OSError: a checkpoint could not be written.
  """
  with instruments.watch_others(workdir, options) as others:
    return train(running.set_up(config, workdir, options), others)


def train(
  run: running.Run, others: watch.Watch | None = None
) -> dict[str, Any]:
  """The loop: dispatch step t, then read the metrics of step t - 1.

  Args:
    run: a checked one.
    others: the watch over the other processes; None if there are none.
  """
  config = run.config
  if run.folder.is_finished():
    return run.folder.read_summary()
  with contextlib.ExitStack() as stack:
    interrupts = stack.enter_context(Interrupts())
    profile = stack.enter_context(instruments.profile(run))
    checkpoints = stack.enter_context(running.open_checkpoints(run))
    state, done = running.initial_state(run, checkpoints)
    evaluation = running.evaluation_at(run, done)
    console, sinks = instruments.open_loggers(run, done, stack)
    console.print(factory.audit_of(config, run.shapes.params))
    train_step, key = running.train_step_of(run)
    eval_step = running.eval_step_of(run)
    meter = instruments.open_meter(run, state, done)
    batches = running.train_batches(run, done)
    due = running.is_evaluated(run, done) and not evaluation
    status, metrics = 'finished', None
    while True:
      if due:
        found = running.evaluate(run, eval_step, state, interrupts)
        if found is None:  # the next start makes up for it
          status = 'interrupted'
          break
        evaluation = found
        instruments.log(sinks, done, evaluation)
        meter.restart_clock()
      if done == config.num_steps:
        break
      profile.before(done, metrics)
      batch = meter.next_of(batches) | parallel.vote(bool(interrupts))
      state, new_metrics = train_step(state, parallel.shard(batch), key)
      if metrics is not None:
        meter.add(done, metrics)
      metrics, done = new_metrics, done + config.steps_per_dispatch
      if others:
        others.step = done
      console.advance(done)
      due = running.is_evaluated(run, done)
      saves = done % config.checkpoint_every == 0
      alone = jax.process_count() == 1
      # An evaluation and a save wait for the state anyway.
      if due or saves or meter.stop_asked or (interrupts and alone):
        meter.add(done, metrics)
        metrics = None
      for logged_step, row in meter.due():
        instruments.log(sinks, logged_step, row)
        instruments.warn_of_clipping(config, console, row)
      if meter.diverged_at:
        status = 'diverged'
        break
      if meter.stop_asked:
        status = 'interrupted'
        break
      if saves:
        checkpoints.save(done, state)
    if status != 'diverged':
      checkpoints.save(done, state)
    checkpoints.wait()
    summary = {'status': status, 'step': done, **evaluation}
    if status == 'diverged':
      summary['step'] = meter.diverged_at
      console.print(instruments.divergence(meter, checkpoints))
    if status == 'interrupted':
      console.print(
        f'interrupted: step {done} is saved; run the same command to go on'
      )
    summary |= instruments.skipped_everywhere(run, console)
    if jax.process_index() == 0:
      run.folder.write_summary(summary)
      instruments.plot(run, summary)
  return summary
