"""`train_and_evaluate(config, workdir)`: a whole run, from top to bottom."""

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from nfnets import (
  bucket,
  checkpoint,
  checks,
  distributed,
  evaluate,
  factory,
  loggers,
  metrics,
  models,
  optim,
  parallel,
  step,
)
from nfnets.data import pipeline, sources
from nfnets.optim import agc_stats
from nfnets.workdir import RunFolder, flat, plain

# Keys that may differ between processes.
PER_PROCESS_KEYS = ('data.data_dir', 'data.num_threads', 'data.cache')


class Run(NamedTuple):
  """What the loop works with.

  Attributes:
    config: the recipe, complete and resolved.
    folder: the run's; for one in a bucket, its local copy.
    shapes: of the state.
    train_source, eval_source: the data.
    weights: to start from, or None.
    interrupts: Ctrl-C and signals, which end the loop after a step.
    checkpoints: in the folder.
    console: prints lines and progress; silent except in process 0.
    sinks: all loggers, the console included; those of files in process 0 only.
    profile: the trace of `profile_steps`, if any.
    skipped: this process's unreadable examples, {where: why}.
  """

  config: ConfigDict
  folder: RunFolder
  shapes: step.TrainState
  train_source: sources.Source
  eval_source: sources.Source
  weights: Any
  interrupts: distributed.Interrupts
  checkpoints: checkpoint.Checkpoints
  console: loggers.Console
  sinks: list[Any]
  profile: metrics.Profile
  skipped: dict[str, str]


def train_and_evaluate(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  *,
  defaults: Mapping[str, Any] | None = None,
  processes: Mapping[str, Any] | None = None,
  profile_steps: tuple[int, int] | None = None,
) -> dict[str, Any]:
  """Trains to `config.num_steps`, from the newest checkpoint in `workdir`.

  Args:
    config: a recipe (configs/); what it leaves open is taken from its weights
      and its data (finetune.py).
    workdir: the run's folder, one for all processes; it may be in a bucket
      (bucket.py).
    defaults: `configs.base.defaults()`: the values of keys that the config of
      an older version's run lacks.
    processes: arguments of `distributed.initialize`; None if alone or joined.
    profile_steps: (A, B) traces steps A to B - 1.

  Returns:
    The summary, as in summary.json: `status` ('finished', 'interrupted' or
    'diverged'), `step` and the last evaluation's metrics.

  Raises:
    ValueError: the config or the workdir is refused, before any compilation.
    OSError: a file could not be written.
    jax.errors.JaxRuntimeError: for instance, a step needs too much memory.
  """
  if processes is not None:
    distributed.initialize(**processes)
  if config.probe:
    if profile_steps:
      raise ValueError('profile_steps: a linear probe takes no training steps')
    from nfnets import linear_probe

    config, opened = complete(config, workdir)
    return linear_probe.probe(config, workdir, defaults, opened)
  with contextlib.ExitStack() as stack:
    run = _build_run(config, workdir, defaults or {}, profile_steps, stack)
    if run.folder.is_finished():
      return _print_results(run, run.folder.read_summary())
    try:
      state, done = _first_state(run)
      evaluation = _open_loggers(run, done, stack)
      summary = _loop(run, state, done, evaluation)
    except distributed.Interrupted:
      saved = run.checkpoints.latest_step() or 0
      summary = {'status': 'interrupted', 'step': saved}
    return _finish(run, summary)


def complete(
  config: ConfigDict, workdir: str | os.PathLike[str] | None = None
) -> tuple[ConfigDict, factory.Splits]:
  """Fills in what the config leaves open (finetune.py), resolves, checks.

  Returns:
    The config, and the splits of its data if they had to be opened for that.
  """
  data, opened = config.data, (None, None)
  is_whole = config.model.name and data.num_classes and data.num_train
  if config.weights or not is_whole:
    from nfnets import finetune

    lines, opened = finetune.complete(config, workdir)
    if jax.process_index() == 0:
      for line in lines:
        print(line)
  return checks.resolve(config), opened


def prepare(
  config: ConfigDict, opened: factory.Splits = (None, None)
) -> tuple[step.TrainState, sources.Source, sources.Source]:
  """Checks everything that needs no compilation.

  Args:
    config: a recipe, resolved.
    opened: the splits of its data, if they have been opened before.

  Returns:
    The state's shapes, the training and the evaluation split.
  """
  checks.check(config, jax.device_count())
  if config.wandb and importlib.util.find_spec('wandb') is None:
    raise ValueError(
      'config.wandb is on but the wandb package is missing: '
      'pip install wandb, or --config.wandb=False'
    )
  shapes = step.state_shapes(config)
  train, evaluation = factory.sources_of(config, opened)
  if config.batch_size > len(train):
    raise ValueError(
      f'config.batch_size={config.batch_size}: the split '
      f'{config.data.train_split!r} of {config.data.name} has {len(train)} '
      'examples, so a batch would repeat some; take a smaller batch'
    )
  return shapes, train, evaluation


def _check_profile(steps: tuple[int, int] | None, num_steps: int) -> None:
  if steps and steps[1] > num_steps:
    raise ValueError(
      f'profile_steps={steps[0]}:{steps[1]}: the run has {num_steps} steps, '
      'from 0'
    )


def _build_run(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  defaults: Mapping[str, Any],
  profile_steps: tuple[int, int] | None,
  stack: contextlib.ExitStack,
) -> Run:
  """Makes and checks all parts; what one process refuses, all refuse."""
  is_first = jax.process_index() == 0
  # Where this block ends, all processes compare their errors and `facts`.
  with distributed.agreement() as facts:
    copy = stack.enter_context(bucket.working_copy(workdir, uploads=is_first))
    config, opened = complete(config, copy.path)
    shapes, *splits = prepare(config, opened)
    _check_profile(profile_steps, config.num_steps)
    folder = RunFolder(copy.path, url=copy.url)
    if is_first:
      stack.enter_context(folder.lock())
    network_defaults = {'model': models.arguments(config.model.name)}
    lacking = dict(defaults) | network_defaults
    folder.check_same_run(config.to_dict(), lacking)
    saved, is_finished = folder.saved_steps(), folder.is_finished()
    names, weights = splits[0].class_names, None
    if saved and not is_finished:
      folder.check_class_names(names)
    if config.weights and not (saved or is_finished):
      from nfnets import finetune

      weights = finetune.fitting(config, shapes, names)
    facts |= _facts(config, *splits)
  if is_first:
    folder.write_config(config.to_dict())
    if not is_finished:
      folder.write_class_names(names)
  run = Run(
    config,
    folder,
    shapes,
    *splits,
    weights,
    stack.enter_context(distributed.Interrupts()),
    checkpoint.Checkpoints(folder.path, config.keep_checkpoints, copy.upload),
    loggers.Console(config.num_steps, quiet=not is_first),
    [],
    metrics.Profile(profile_steps, folder.path / 'tensorboard'),
    {},
  )
  for part in (run.checkpoints, run.console, run.profile):
    stack.callback(part.close)
  return run


def _facts(config: ConfigDict, *splits: sources.Source) -> dict[str, Any]:
  """What must be equal in all processes."""
  return {
    'numbers of examples': [len(split) for split in splits],
    'number of devices': jax.local_device_count(),
    'version of jax': jax.__version__,
  } | {
    f'config.{key}': value
    for key, value in flat(plain(config.to_dict())).items()
    if key not in PER_PROCESS_KEYS
  }


def _first_state(run: Run) -> tuple[step.TrainState, int]:
  """The state of the newest checkpoint, or a new one; and its step."""
  config, say = run.config, run.console.print
  say(
    f'{config.model.name} on {config.data.name}: {config.num_steps} steps of '
    f'{config.batch_size} images on {jax.device_count()} devices'
  )
  if run.folder.url:
    say(f'{run.folder} has no lock: start one run at a time there')
  for note in sources.notes(run.train_source, run.eval_source):
    say(f'{config.data.name}: {note}')
  if run.checkpoints.latest_step() is not None:
    say('restoring the newest checkpoint')
    state = run.checkpoints.restore_latest(run.shapes)
  else:
    say('initializing: compiling, may take a minute')
    init = jax.jit(functools.partial(step.init_state, config))
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    state = run.interrupts.call(lambda: parallel.to_host(init(key)))
    if run.weights:
      from nfnets import finetune

      state = finetune.start(state, run.weights)
  done = int(state.step)
  with distributed.agreement() as facts:
    facts['step of the newest checkpoint'] = done
    facts['--workdir, held by'] = run.folder.holder()
  # Copied, as the step donates every leaf and two leaves may share a buffer.
  return parallel.replicate(jax.tree.map(np.array, state)), done


def _open_loggers(
  run: Run, done: int, stack: contextlib.ExitStack
) -> dict[str, float]:
  """Opens the loggers, to go on after step `done`.

  Returns:
    The metrics of an evaluation at this step, if it was logged before.
  """
  path, sinks = run.folder.path, run.sinks
  rows = [row for row in run.folder.read_metrics() if row['step'] <= done]
  if jax.process_index() == 0:
    sinks.append(loggers.JsonLines(path / 'metrics.jsonl', rows))
    sinks.append(loggers.TensorBoard(path / 'tensorboard', done))
    if run.config.wandb:
      sinks.append(loggers.WeightsAndBiases(path, run.config.to_dict()))
    for sink in sinks:
      stack.callback(sink.close)
  sinks.append(run.console)
  run.console.start()
  evaluation = {}
  for row in rows:
    if row['step'] == done:
      evaluation |= {k: v for k, v in row.items() if k.startswith('eval')}
  return evaluation


def _loop(
  run: Run, state: step.TrainState, done: int, evaluation: dict[str, float]
) -> dict[str, Any]:
  """Dispatches step t, then reads the metrics of step t - 1.

  Returns the summary: `step` is how many steps are done; if 'diverged', which
  step, from 1, was the last of those that were not finite.
  """
  config, first = run.config, done
  train_step, key_and_data, eval_step = _steps(run)
  meter = _meter(run, done)
  batches = _batches(run, done)
  # After a resume, unless this step's evaluation was logged before.
  due = _is_evaluated(config, done) and not evaluation
  unread = None  # the metrics of the newest step, still being computed
  try:
    while True:
      if due:
        evaluation = _evaluate(run, eval_step, state)
        _log(run, done, evaluation)
        meter.restart_clock()
      if done == config.num_steps:
        run.checkpoints.save(done, state)
        return {'status': 'finished', 'step': done, **evaluation}
      run.profile.before(done, unread)
      batch = meter.next_of(batches)
      outputs = train_step(state, parallel.shard(batch), key_and_data)
      if unread is not None:
        _log(run, done, meter.add(done, unread))
      state, unread = outputs
      done += 1
      run.console.advance(done)
      due = _is_evaluated(config, done)
      saves = done % config.checkpoint_every == 0
      if due or saves:  # these wait for the device in any case
        _log(run, done, meter.add(done, unread))
        unread = None
      if meter.diverged_at:
        return {'status': 'diverged', 'step': meter.diverged_at, **evaluation}
      if saves:
        run.checkpoints.save(done, state)
  except distributed.Interrupted:
    if unread is not None:
      _log(run, done, meter.add(done, unread))
    if meter.diverged_at:
      return {'status': 'diverged', 'step': meter.diverged_at, **evaluation}
    if done > first:  # else the state may have been donated to the first step
      run.checkpoints.save(done, state)
    return {'status': 'interrupted', 'step': done, **evaluation}


def _steps(run: Run) -> tuple[Any, Any, Any]:
  """The mapped train step, its last argument, and the mapped eval step."""
  config, settings = run.config, optim.Settings(**run.config.optimizer)
  table = optim.table(run.shapes.params, config.learning_rate, settings)
  run.console.print(table)
  train_step, key_and_data = _train_step(run)
  run.console.print('compiling the first step (minutes for a large network)')
  network = factory.network_of(config)
  eval_step = parallel.map_eval(step.make_eval_step(config, network))
  in_thread = run.interrupts.first_in_thread
  return in_thread(train_step), key_and_data, in_thread(eval_step)


def _train_step(run: Run) -> tuple[Any, Any]:
  """The mapped train step and, on the devices, its last argument."""
  config = run.config
  key_and_data: Any = jax.random.key(config.seed)
  if config.data.on_device:
    data, source = config.data, run.train_source
    run.console.print(f'reading {len(source)} examples')
    examples = run.interrupts.call(pipeline.load_all, source, data, run.skipped)
    key_and_data = key_and_data, examples
  train_step = parallel.map_step(step.make_train_step(config))
  return train_step, parallel.replicate(key_and_data)


def _meter(run: Run, done: int) -> metrics.Meter:
  network = factory.network_of(run.config)
  flops = metrics.step_flops(run.config, network, run.shapes)
  names = step.observed_names(run.config, run.shapes.params)
  return metrics.Meter(run.config, done, names, flops)


def _batches(run: Run, done: int) -> Iterator[Any]:
  config, source = run.config, run.train_source
  batches = factory.train_batches(config, source, done, run.skipped)
  return run.interrupts.each(batches)


def _is_evaluated(config: ConfigDict, done: int) -> bool:
  return done == config.num_steps or (done > 0 and not done % config.eval_every)


def _evaluate(
  run: Run, eval_step: Any, state: step.TrainState
) -> dict[str, float]:
  batches = evaluate.eval_batches(run.config, run.eval_source, run.skipped)
  variables = {'eval': (state.params, state.state)}
  if run.config.ema.mode != 'none':
    variables['eval_ema'] = (state.ema_params, state.ema_state)
  return evaluate.evaluate(eval_step, variables, run.interrupts.each(batches))


def _log(run: Run, done: int, row: dict[str, float]) -> None:
  if not row:
    return
  for sink in run.sinks:
    sink.log(done, row)
  spec = run.config.optimizer
  clips = spec.clip == 'agc' and 'agc/clipped_fraction' in row
  if clips and (warning := agc_stats.warning(row, spec.clipping)):
    run.console.print(warning)


def _finish(run: Run, summary: dict[str, Any]) -> dict[str, Any]:
  """Writes the summary and the plots, prints the results."""
  config, folder, say = run.config, run.folder, run.console.print
  run.checkpoints.wait()
  skipped: dict[str, str] = {}
  for others in distributed.exchange(run.skipped):
    skipped |= others
  if skipped:
    summary['skipped'] = dict(sorted(skipped.items()))
    say(f'{len(skipped)} unreadable examples, listed in summary.json')
  status, saved = summary['status'], run.checkpoints.latest_step()
  if status == 'interrupted':
    left = f'step {saved} is saved' if saved else 'no step was done yet'
    say(f'interrupted: {left}; run the same command to go on')
  if status == 'diverged':
    good = f'the checkpoint of step {saved} is good' if saved else None
    say(
      f'stopped at step {summary["step"]}: the loss or gradient was not finite '
      f'in {config.stop_after_nonfinite} steps in a row; '
      + (good or 'no checkpoint')
    )
  if jax.process_index() == 0:
    from nfnets import plots

    path, rows = folder.path, folder.read_metrics()
    what = f'{config.model.name} on {config.data.name}'
    title = f'{what}: {status} at step {summary["step"]}'
    plots.plot(rows, path / 'curves.png', title)
    if config.optimizer.clip == 'agc':
      plots.heat_map(rows, path / 'clipping.png', title)
    folder.write_summary(summary)
  return _print_results(run, summary)


def _print_results(run: Run, summary: dict[str, Any]) -> dict[str, Any]:
  for line in run.folder.results(summary):
    run.console.print(line)
  return summary
