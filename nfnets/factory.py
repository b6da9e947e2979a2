"""From a config to its parts: data, network, schedule, optimizer.

Every function raises `ValueError` with one line that names the key, its value
and the remedy.
"""

from collections.abc import Iterator
from typing import Any

import haiku as hk
import jax
import optax
from ml_collections import ConfigDict

from nfnets import models, optim, variants
from nfnets.data import pipeline, sources

Splits = tuple[sources.Source | None, sources.Source | None]


def sources_of(
  config: ConfigDict, opened: Splits = (None, None)
) -> tuple[sources.Source, sources.Source]:
  """Checks the training and the evaluation split; opens them if need be."""
  train = source_of(config, config.data.train_split, opened[0])
  if getattr(train, 'multi_label', False):
    raise ValueError(
      f'config.data.name={config.data.name!r}: its pictures have several '
      'labels each, for evaluation alone, by scripts.evaluate'
    )
  evaluation = source_of(config, config.data.eval_split, opened[1])
  if len(train) != config.data.num_train:
    raise ValueError(
      f'config.data.num_train={config.data.num_train}, but the split '
      f'{config.data.train_split!r} of {config.data.name} has {len(train)} '
      f'examples: pass --config.data.num_train={len(train)}'
    )
  return train, evaluation


def source_of(
  config: ConfigDict, split: str, opened: sources.Source | None = None
) -> sources.Source:
  """A split, opened if need be, with as many classes as the config says."""
  source = sources.of(config.data, split) if opened is None else opened
  if source.num_classes != config.data.num_classes:
    raise ValueError(
      f'config.data.num_classes={config.data.num_classes}, but '
      f'{config.data.name} has {source.num_classes} classes; to take the '
      "data's own pass --config.data.num_classes=0 --config.data.num_train=0"
    )
  return source


def train_batches(
  config: ConfigDict,
  source: sources.Source,
  start_step: int,
  skipped: dict[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
  """This process's batches after `start_step` steps, without end.

  With `data.on_device` they are ids alone. `skipped` is filled with unreadable
  examples, {where: why}.
  """
  data = config.data
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  place = {
    'batch_size': config.batch_size * fresh,
    'seed': config.seed,
    'start_step': start_step,
    'process': (jax.process_index(), jax.process_count()),
  }
  if data.on_device:
    yield from pipeline.id_batches(len(source), **place)
  for batch in pipeline.train_batches(source, data, **place, skipped=skipped):
    yield {name: batch[name] for name in ('images', 'labels')}


def network_of(config: ConfigDict) -> hk.TransformedWithState:
  """The network; every key of `config.model` but `name` is an override.

  A network by timm's name must have timm's own arguments.
  """
  overrides = {k: v for k, v in config.model.items() if k != 'name'}
  name = config.model.name
  row = variants.TIMM.get(variants.canonical(name), {})
  for key in overrides.keys() & row.keys() & models.own_arguments(name).keys():
    if overrides[key] != row[key]:
      raise ValueError(
        f'config.model.name={name!r} needs {key}={row[key]!r}, not '
        f'{overrides[key]!r}: take --config=configs/timm.py:{name}'
      )
  return models.create(config.model.name, config.data.num_classes, **overrides)


def schedule_of(config: ConfigDict) -> optax.Schedule:
  """The learning rate as a function of the step."""
  peak, num_steps = config.learning_rate, config.num_steps
  spec = config.schedule
  warmup = {'warmup_steps': spec.warmup_steps, 'start': spec.start}
  match spec.name:
    case 'warmup_cosine':
      return optim.warmup_cosine(peak, num_steps, end=spec.end, **warmup)
    case 'warmup_exponential':
      decay = {'decay_rate': spec.decay_rate, 'decay_steps': spec.decay_steps}
      return optim.warmup_exponential(peak, num_steps, **decay, **warmup)
    case 'piecewise':
      boundaries = [round(share * num_steps) for share in spec.boundaries]
      try:
        return optim.piecewise(peak, boundaries, spec.factor, **warmup)
      except ValueError as error:
        raise ValueError(
          f'config.schedule.boundaries={spec.boundaries} of config.num_steps='
          f'{num_steps}: {error}; set config.num_steps or config.num_epochs '
          f'higher, or config.schedule.warmup_steps={spec.warmup_steps} lower'
        ) from error
    case 'constant':
      return optim.constant(peak, **warmup)
  raise ValueError(f'config.schedule.name={spec.name!r} is unknown')


def optimizer_of(config: ConfigDict) -> optax.GradientTransformation:
  """The chain of clipper, optimizer and schedule that the config describes."""
  return optim.create(schedule_of(config), optim.Settings(**config.optimizer))
