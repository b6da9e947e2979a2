"""What a run shows and records, and what watches over it."""

import contextlib
import os
from typing import Any

import jax
from ml_collections import ConfigDict

from nfnets import (
  checkpoint,
  distributed,
  loggers,
  metrics,
  plots,
  stacks,
  step,
  watch,
)
from nfnets.analysis import counts
from nfnets.optim import observe as observing
from nfnets.run import Options, Run


def watch_others(
  workdir: str | os.PathLike[str], options: Options
) -> watch.Watch:
  return watch.Watch(
    workdir, jax.process_index(), jax.process_count(), options.missing_after
  )


def profile(run: Run) -> metrics.Profile:
  folder = run.folder.path / 'tensorboard'
  return metrics.Profile(run.options.profile_steps, folder)


def open_loggers(
  run: Run, first_step: int, stack: contextlib.ExitStack
) -> tuple[loggers.Console, list[Any]]:
  """The console and all loggers; only process 0 writes and speaks."""
  first = jax.process_index() == 0
  console = loggers.Console(run.config.num_steps, first_step, quiet=not first)
  sinks: list[Any] = [console]
  if first:
    path = run.folder.path
    sinks.append(loggers.JsonLines(path / 'metrics.jsonl', first_step))
    sinks.append(loggers.TensorBoard(path / 'tensorboard', first_step))
    if run.config.wandb:
      sinks.append(loggers.WeightsAndBiases(path, run.config.to_dict()))
  for sink in sinks:
    stack.callback(sink.close)
  return console, sinks


def open_meter(
  run: Run, state: step.TrainState, first_step: int
) -> metrics.Meter:
  config = run.config
  names = observed_names(run, state.params)
  work = metrics.work_of(flops_per_step(config), config.precision)
  return metrics.Meter(config, first_step, names, work)


def flops_per_step(config: ConfigDict) -> float:
  """Of the model: a backward pass costs two forward ones, a MAC two FLOPs.

  SAM's ascent adds its share of the batch (paper A, section 5.1).
  """
  overrides = {k: v for k, v in config.model.items() if k != 'name'}
  macs = counts.multiply_adds(
    config.model.name,
    config.data.train_image_size,
    config.data.num_classes,
    **overrides,
  )
  passes = 1 + (config.sam.ascent_fraction if config.sam.rho else 0)
  return 2.0 * 3 * macs * config.batch_size * passes


def log(sinks: list[Any], step_done: int, row: dict[str, float]) -> None:
  for sink in sinks:
    sink.log(step_done, row)


def observed_names(run: Run, params: Any) -> list[str]:
  if not run.config.observe_every:
    return []

  def values(tree: Any) -> Any:
    norms = observing.unit_norms(tree)
    return step.observe(run.config, stacks.shapes(tree), norms, norms)

  return sorted(jax.eval_shape(values, params))


def warn_of_clipping(
  config: ConfigDict, console: loggers.Console, row: dict[str, float]
) -> None:
  if config.optimizer.clip == 'agc' and 'agc/clipped_fraction' in row:
    warning = observing.warning(row, config.optimizer.clipping)
    if warning:
      console.print(warning)


def skipped_everywhere(
  run: Run, console: loggers.Console
) -> dict[str, dict[str, str]]:
  """The unreadable examples of all processes, for the summary."""
  skipped: dict[str, str] = {}
  for others in distributed.exchange(run.skipped):
    skipped |= others
  if not skipped:
    return {}
  console.print(f'{len(skipped)} unreadable examples: see summary.json')
  return {'skipped': dict(sorted(skipped.items()))}


def plot(run: Run, summary: dict[str, Any]) -> None:
  name, data = run.config.model.name, run.config.data.name
  rows, path = run.folder.read_metrics(), run.folder.path
  title = f'{name} on {data}: {summary["status"]} at step {summary["step"]}'
  plots.plot(rows, path / 'curves.png', title)
  plots.heat_map(rows, path / 'clipping.png', title)


def divergence(
  meter: metrics.Meter, checkpoints: checkpoint.Checkpoints
) -> str:
  saved = checkpoints.latest_step()
  left = (
    f'the last good state is the checkpoint of step {saved}'
    if saved
    else 'there is no checkpoint'
  )
  more = meter.nonfinite_in_a_row - 1
  others = f', like the {more} before' if more else ''
  return (
    f'stopped: the loss or gradient of step {meter.diverged_at} is not finite'
    f'{others}; {left}'
  )
