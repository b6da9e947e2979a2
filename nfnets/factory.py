"""From a config to its parts: data, network, schedule, optimizer; checked.

Every function raises `ValueError` with one line that names the culprit.
"""

import functools
from typing import Any

import haiku as hk
import optax
from ml_collections import ConfigDict

from nfnets import models, optim, stacks, variants
from nfnets.data import images, mixing, pipeline, sources
from nfnets.optim import audit, groups


def check(config: ConfigDict, device_count: int, process_count: int) -> None:
  """Refuses what can't be trained, before anything is compiled.

  Args:
    config: a recipe, resolved.
    device_count: of all processes together.
    process_count: of the run.

  Raises:
    ValueError: names the key, its value and the remedy.
  """
  choices = {
    'precision': ('float32', 'bfloat16'),
    'loss': ('softmax', 'sigmoid'),
    'optimizer.clip': ('agc', 'norm', 'layer', 'none'),
    'optimizer.decayed': ('weights', 'all'),
    'ema.mode': ('warmup', 'constant', 'none'),
    'schedule.name': (
      'warmup_cosine',
      'warmup_exponential',
      'piecewise',
      'constant',
    ),
    'augment.mix': mixing.MODES,
    'augment.pairs': mixing.PAIRS,
    'data.eval_preprocessing': tuple(images.PREPARATIONS),
    'data.on_error': ('raise', 'skip'),
  }
  for key, allowed in choices.items():
    if _get(config, key) not in allowed:
      raise ValueError(
        f'config.{key}={_get(config, key)!r}: choose one of '
        + ', '.join(allowed)
      )
  positive = (
    'batch_size eval_batch_size micro_batches num_steps num_epochs log_every '
    'eval_every checkpoint_every keep_checkpoints stop_after_nonfinite '
    'steps_per_dispatch '
    'data.num_classes data.num_train data.train_image_size '
    'data.eval_image_size optimizer.clipping optimizer.eps augment.mixup_alpha'
  )
  for key in positive.split():
    if not _get(config, key) > 0:
      raise ValueError(f'config.{key}={_get(config, key)}: must be above 0')
  not_negative = (
    'learning_rate schedule.start schedule.end optimizer.weight_decay sam.rho '
    'augment.pad augment.randaugment_layers augment.randaugment_magnitude '
    'data.num_threads observe_every'
  )
  for key in not_negative.split():
    if not 0 <= _get(config, key) < float('inf'):
      raise ValueError(f'config.{key}={_get(config, key)}: must be 0 or more')
  rates = ['model.drop_rate', 'model.stochdepth_rate']
  shares = ['optimizer.momentum', 'label_smoothing', 'ema.decay']
  for key in shares + [k for k in rates if k.split('.')[1] in config.model]:
    if not 0 <= _get(config, key) < 1:
      raise ValueError(f'config.{key}={_get(config, key)}: must be in [0, 1)')
  if not 0 <= config.schedule.warmup_steps <= config.num_steps:
    raise ValueError(
      f'config.schedule.warmup_steps={config.schedule.warmup_steps}: must be '
      f'from 0 to config.num_steps={config.num_steps}'
    )
  if config.sam.m < 0 or config.batch_size % (config.sam.m or 1):
    raise ValueError(
      f'config.sam.m={config.sam.m}: must be 0 or divide config.batch_size='
      f'{config.batch_size}'
    )
  if not 0 < config.sam.ascent_fraction <= 1:
    raise ValueError(
      f'config.sam.ascent_fraction={config.sam.ascent_fraction}: must be in '
      '(0, 1]'
    )
  if config.augment.pairs == 'fresh' and config.augment.mix == 'none':
    raise ValueError("config.augment.pairs='fresh' needs config.augment.mix")
  pipeline.host_augmentation(
    config.data.crop, config.data.flip, config.data.train_image_size, 0
  )
  _check_batch(config, device_count, process_count)
  _check_dispatch(config)
  if config.data.on_device:
    pipeline.check_held(
      config.data.num_train,
      config.data.train_image_size,
      config.data.crop,
      config.data.flip,
    )


def _check_batch(
  config: ConfigDict, device_count: int, process_count: int
) -> None:
  parts = device_count * config.micro_batches
  if config.batch_size % parts:
    below = config.batch_size // parts * parts
    near = f'{below} or {below + parts}' if below else str(parts)
    raise ValueError(
      f'config.batch_size={config.batch_size} does not divide into '
      f'{device_count} devices x {config.micro_batches} micro-batches: '
      f'take {near}'
    )


def _check_dispatch(config: ConfigDict) -> None:
  count = config.steps_per_dispatch
  if count == 1:
    return
  if not config.data.on_device:
    raise ValueError(
      f'config.steps_per_dispatch={count} needs config.data.on_device=True: '
      'the host has no turn between the steps'
    )
  for key in ('num_steps', 'log_every', 'eval_every', 'checkpoint_every'):
    if config[key] % count:
      raise ValueError(
        f'config.steps_per_dispatch={count} does not divide config.{key}='
        f'{config[key]}'
      )


def sources_of(config: ConfigDict) -> tuple[sources.Source, sources.Source]:
  """The training and the evaluation source, checked against the config."""
  create = functools.partial(
    sources.create, config.data.name, data_dir=config.data.data_dir
  )
  train, evaluation = (
    create(config.data.train_split),
    create(config.data.eval_split),
  )
  for source in (train, evaluation):
    if source.num_classes != config.data.num_classes:
      raise ValueError(
        f'config.data.num_classes={config.data.num_classes}, but '
        f'{config.data.name} has {source.num_classes} classes'
      )
  if len(train) != config.data.num_train:
    raise ValueError(
      f'config.data.num_train={config.data.num_train}, but the split '
      f'{config.data.train_split!r} of {config.data.name} has {len(train)} '
      f'examples: pass --config.data.num_train={len(train)}'
    )
  return train, evaluation


def network_of(config: ConfigDict) -> hk.TransformedWithState:
  """The network; every key of `config.model` but `name` is an override."""
  overrides = {k: v for k, v in config.model.items() if k != 'name'}
  return models.create(config.model.name, config.data.num_classes, **overrides)


def schedule_of(config: ConfigDict) -> optax.Schedule:
  """The learning rate as a function of the step."""
  peak, spec = config.learning_rate, config.schedule
  match spec.name:
    case 'warmup_cosine':
      return optim.warmup_cosine(
        peak, config.num_steps, spec.warmup_steps, spec.start, spec.end
      )
    case 'warmup_exponential':
      return optim.warmup_exponential(
        peak,
        config.num_steps,
        spec.warmup_steps,
        spec.decay_rate,
        spec.decay_steps,
        spec.start,
      )
    case 'piecewise':
      return optim.piecewise(
        peak,
        [round(share * config.num_steps) for share in spec.boundaries],
        spec.factor,
        spec.warmup_steps,
        spec.start,
      )
    case 'constant':
      return optim.constant(peak, spec.warmup_steps, spec.start)
  raise ValueError(f'config.schedule.name={spec.name!r} is unknown')


def optimizer_of(config: ConfigDict) -> optax.GradientTransformation:
  """Clipping, weight decay, momentum and the schedule, in that order."""
  spec = config.optimizer
  return optim.sgd(
    schedule_of(config),
    momentum=spec.momentum,
    nesterov=spec.nesterov,
    weight_decay=spec.weight_decay,
    decayed=spec.decayed,
    clip=spec.clip,
    clipping=spec.clipping,
    eps=spec.eps,
    unclipped=spec.unclipped,
    frozen=spec.frozen,
    learning_rate_scales=spec.learning_rate_scales,
  )


def looped(config: ConfigDict, state: Any) -> Any:
  """A `TrainState` as its train step takes it; `stacks.unstack` goes back.

  Where `config.model.scan` runs equal blocks as one loop, their parameters,
  momentum and averages are stacked once, and all that follows the gradient is
  compiled once for a whole stack. On unstacked ones the step computes the same.

  Args:
    config: a recipe.
    state: arrays or shapes.

  Raises:
    ValueError: the blocks keep a state, as batch normalization does.
  """
  if not config.model.scan or stacks.any_in(state.params):
    return state
  row = variants.find(config.model.name) | config.model.to_dict()
  blocks = groups.equal_blocks(state.params, row['depths'])
  whole = stacks.stack(state, blocks)
  if stacks.any_in(whole.state):
    raise ValueError(
      f"config.model.scan=True loops over {config.model.name}'s blocks, which "
      'keep a state (batch normalization): take config.model.scan=False'
    )
  return whole


def audit_of(config: ConfigDict, params: Any) -> str:
  """Who is decayed and clipped, as a table; every parameter exactly once.

  Args:
    config: a recipe.
    params: the network's parameters, or their shapes.
  """
  spec = config.optimizer
  rows = audit.rows(
    params,
    learning_rate=config.learning_rate,
    weight_decay=spec.weight_decay,
    decayed=spec.decayed,
    clipping=spec.clipping,
    eps=spec.eps,
    unclipped=spec.unclipped,
    clip=spec.clip,
    frozen=spec.frozen,
    learning_rate_scales=spec.learning_rate_scales,
  )
  return audit.table(rows)


def _get(config: ConfigDict, key: str) -> Any:
  for part in key.split('.'):
    config = config[part]
  return config
