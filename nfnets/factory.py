"""From a config to its parts: data, network, schedule, optimizer; checked.

Every function raises `ValueError` with one line that names the culprit.
"""

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import optax
from ml_collections import ConfigDict

from nfnets import models, optim, step, variants
from nfnets.data import images, mixing, pipeline, sources
from nfnets.models import activations
from nfnets.optim import agc, optimizer
from nfnets.workdir import flat

CHOICES = {
  'model.activation': tuple(activations.GAMMAS),
  'model.se_activation': ('network', *activations.GAMMAS),
  'precision': ('float32', 'bfloat16'),
  'loss': ('softmax', 'sigmoid'),
  'optimizer.name': optimizer.OPTIMIZERS,
  'optimizer.clip': optimizer.CLIPPERS,
  'optimizer.decayed': optimizer.DECAYED,
  'ema.mode': ('warmup', 'constant', 'none'),
  'schedule.name': (
    'warmup_cosine',
    'warmup_exponential',
    'piecewise',
    'constant',
  ),
  'augment.mix': mixing.MODES,
  'augment.pairs': mixing.PAIRS,
  'data.on_error': ('raise', 'skip'),
}
# Texts that name something.
NAMING = (
  'data.name',
  'optimizer.frozen',
  'optimizer.unclipped',
  'sam.perturbed',
)
# The least and the most of each number, or of each in a tuple. All are below
# `LARGEST`; the others have no bounds of their own.
BOUNDS = {
  '[1, 2147483647]': 'data.num_train num_steps log_every eval_every '
  'checkpoint_every keep_checkpoints stop_after_nonfinite',
  '[1, 1048576]': 'batch_size eval_batch_size data.num_classes',
  '[1, 65536]': 'micro_batches model.widths',
  '[1, 4096]': 'data.train_image_size data.eval_image_size',
  '[1, 1000]': 'model.depths',
  '[0, 4294967295]': 'seed',
  '[0, 2147483647]': 'observe_every schedule.warmup_steps schedule.decay_steps',
  '[0, 1048576]': 'sam.m',
  '[0, 1000]': 'data.num_threads augment.pad augment.randaugment_layers '
  'augment.randaugment_magnitude',
  '(0, 1e6]': 'num_epochs',
  '(0, 1e30)': 'optimizer.clipping optimizer.eps augment.mixup_alpha '
  'model.se_ratio',
  '[0, 1e30)': 'learning_rate schedule.start schedule.end schedule.factor '
  'schedule.decay_rate optimizer.weight_decay sam.rho probe_l2',
  '[-1e6, 1e6]': 'data.mean',
  '[0.001, 1e6]': 'data.std',  # grey levels
  '(0, 1)': 'schedule.boundaries',
  '[0, 1)': 'model.drop_rate model.stochdepth_rate optimizer.momentum '
  'label_smoothing ema.decay',
  '(0, 1]': 'sam.ascent_fraction',
}
WHOLE = ('model.depths', 'model.widths')
LARGEST = 1e30  # well within float32's range
BOUND_OF = {key: b for b, keys in BOUNDS.items() for key in keys.split()}
# What other numbers follow where a recipe leaves them open.
ORIGINS = ('data.num_train', 'num_epochs', 'batch_size')
DERIVED = (
  'num_steps',
  'schedule.warmup_steps',
  'schedule.decay_steps',
  'eval_every',
  'checkpoint_every',
  'learning_rate',
)


class Parts(NamedTuple):
  """What a run is made of; nothing is compiled yet.

  Attributes:
    schedule: the learning rate as a function of the step.
    shapes: of the state, abstract.
  """

  network: hk.TransformedWithState
  schedule: optax.Schedule
  optimizer: optax.GradientTransformation
  train_source: sources.Source
  eval_source: sources.Source
  shapes: step.TrainState


def build(config: ConfigDict) -> Parts:
  """Everything that can be made and checked without compiling.

  Args:
    config: a recipe, resolved.

  Raises:
    ValueError: names the key, its value and the remedy.
  """
  check(config, jax.device_count())
  network, optimizer = network_of(config), optimizer_of(config)
  if config.wandb:
    _need_wandb()
  # Networks check their arguments when they are traced.
  shapes = jax.eval_shape(
    lambda: step.init_state(config, network, optimizer, jax.random.key(0))
  )
  # Who is named and isn't there, or is a part of a loop, is refused here.
  params = shapes.params
  jax.eval_shape(optimizer.init, params)
  with agc.naming('sam.perturbed', config.sam.perturbed):
    agc.named(params, config.sam.perturbed)
  schedule, data = schedule_of(config), sources_of(config)
  if config.batch_size > len(data[0]):
    raise ValueError(
      f'config.batch_size={config.batch_size}: the split '
      f'{config.data.train_split!r} of {config.data.name} has {len(data[0])} '
      'examples, and a batch would hold some twice: take a smaller batch'
    )
  return Parts(network, schedule, optimizer, *data, shapes)


def _need_wandb() -> None:
  if importlib.util.find_spec('wandb') is None:
    raise ValueError(
      'config.wandb is on but the wandb package is missing: '
      'pip install wandb, or --config.wandb=False'
    )


def check(config: ConfigDict, device_count: int) -> None:
  """Refuses what can't be trained, before anything is compiled.

  Args:
    config: a recipe, resolved.
    device_count: of all processes together.

  Raises:
    ValueError: names the key, its value and the remedy.
  """
  check_values(config)
  values = flat(config.to_dict())
  if not 0 <= config.schedule.warmup_steps <= config.num_steps:
    raise ValueError(
      f'config.schedule.warmup_steps={config.schedule.warmup_steps}: must be '
      f'from 0 to config.num_steps={config.num_steps}{_follows(values)}'
    )
  if config.batch_size % (config.sam.m or 1):
    raise ValueError(
      f'config.sam.m={config.sam.m}: must be 0 or divide config.batch_size='
      f'{config.batch_size}'
    )
  if config.augment.pairs == 'fresh' and config.augment.mix == 'none':
    raise ValueError("config.augment.pairs='fresh' needs config.augment.mix")
  _check_batch(config, device_count)
  data = config.data
  if data.on_device:
    from nfnets.data import on_device

    on_device.check(data.num_train, data.train_image_size, data.crop, data.flip)


def check_values(config: ConfigDict, trains: bool = True) -> None:
  """Refuses values that are impossible by themselves.

  Args:
    config: a recipe, resolved.
    trains: False where it is only evaluated: numbers that follow the training
      data may be anything.

  Raises:
    ValueError: names the key, its value and the remedy.
  """
  values, data = flat(config.to_dict()), config.data
  _check_texts(values)
  for key, value in values.items():
    if trains or key not in (*DERIVED, 'data.num_train'):
      _check_numbers(key, value, values)
  images.preparation(data.eval_preprocessing)
  for key in ('data.mean', 'data.std'):
    if len(values[key]) != 3:
      raise ValueError(f'config.{key}={values[key]}: give three numbers')
  pipeline.host_augmentation(data.crop, data.flip, data.train_image_size, 0)


def _check_texts(values: Mapping[str, Any]) -> None:
  for key, allowed in CHOICES.items():
    if key in values and values[key] not in allowed:
      raise ValueError(
        f'config.{key}={values[key]!r}: choose one of ' + ', '.join(allowed)
      )
  for key in ('data.train_split', 'data.eval_split'):
    if values[key] not in sources.SPLITS and '[' not in values[key]:
      raise ValueError(
        f'config.{key}={values[key]!r}: choose one of '
        + ', '.join(sources.SPLITS)
      )
  for key in NAMING:
    names = values[key]
    for name in (names,) if isinstance(names, str) else names:
      if not isinstance(name, str):
        raise ValueError(f'config.{key}={names!r}: {name!r} is no text')
      if not name:
        raise ValueError(f'config.{key}={names!r}: an empty name')


def resolve(config: ConfigDict, trains: bool = True) -> ConfigDict:
  """The config, its derived numbers computed, its values checked.

  Args:
    config: a recipe that leaves nothing open.
    trains: as for `check_values`; the number of training examples may be open.

  Raises:
    ValueError: names the key and its value.
  """
  check_origins(config, ORIGINS if trains else ORIGINS[1:])
  resolved = config.copy_and_resolve_references()
  check_values(resolved, trains)
  return resolved


def check_origins(config: ConfigDict, keys: Iterable[str] = ORIGINS) -> None:
  """Refuses numbers from which others can't be computed.

  Raises:
    ValueError: names the key that they follow, where it is out of bounds.
  """
  for key in keys:
    group, _, name = key.rpartition('.')
    _check_numbers(key, (config[group] if group else config)[name], {})


def _check_numbers(key: str, value: Any, values: Mapping[str, Any]) -> None:
  is_tuple = isinstance(value, list | tuple)
  for number in value if is_tuple else [value]:
    is_number = isinstance(number, int | float)
    bound = BOUND_OF.get(key, f'(-{LARGEST:g}, {LARGEST:g})')
    if is_number and not _is_within(bound, number):
      more = _follows(values) if values and key in DERIVED else ''
      raise ValueError(f'config.{key}={value}: must be in {bound}{more}')
    if is_tuple and key in BOUND_OF and not is_number:
      raise ValueError(f'config.{key}={value}: {number!r} is no number')
    if key in WHOLE and not isinstance(number, int):
      raise ValueError(f'config.{key}={value}: {number} is no whole number')


def _is_within(bound: str, number: float) -> bool:
  """Whether the number is in the interval, written as in mathematics."""
  low, high = map(float, bound[1:-1].split(','))
  return low < number < high or (
    number == low and bound[0] == '[' or number == high and bound[-1] == ']'
  )


def _follows(values: Mapping[str, Any]) -> str:
  origins = ', '.join(f'config.{key}={values[key]}' for key in ORIGINS)
  return f' (unless you set it, it follows {origins})'


def _check_batch(config: ConfigDict, device_count: int) -> None:
  parts = device_count * config.micro_batches
  if config.batch_size % parts:
    below = config.batch_size // parts * parts
    near = f'{below} or {below + parts}' if below else str(parts)
    raise ValueError(
      f'config.batch_size={config.batch_size} does not divide into '
      f'{device_count} devices x config.micro_batches={config.micro_batches}: '
      f'take {near}'
    )


def sources_of(config: ConfigDict) -> tuple[sources.Source, sources.Source]:
  """The training and the evaluation source, checked against the config."""
  train = source_of(config, config.data.train_split)
  if getattr(train, 'multi_label', False):
    raise ValueError(
      f'config.data.name={config.data.name!r}: its pictures have several '
      'labels each; it is only evaluated on, by scripts.evaluate'
    )
  evaluation = source_of(config, config.data.eval_split)
  if len(train) != config.data.num_train:
    raise ValueError(
      f'config.data.num_train={config.data.num_train}, but the split '
      f'{config.data.train_split!r} of {config.data.name} has {len(train)} '
      f'examples: pass --config.data.num_train={len(train)}'
    )
  return train, evaluation


def source_of(config: ConfigDict, split: str) -> sources.Source:
  """One split, checked against the config."""
  source = sources.of(config.data, split)
  if source.num_classes != config.data.num_classes:
    raise ValueError(
      f'config.data.num_classes={config.data.num_classes}, but '
      f'{config.data.name} has {source.num_classes} classes; to take what is '
      'there pass --config.data.num_classes=0 --config.data.num_train=0'
    )
  return source


def train_batches(
  config: ConfigDict,
  source: sources.Source,
  start_step: int,
  skipped: dict[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
  """This process's batches from a step on, endless: the same for any start.

  Args:
    config: a recipe; `data.on_device` asks for ids alone.
    source: the training examples.
    start_step: steps already done.
    skipped: takes the unreadable examples: where, and why.
  """
  data = config.data
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  place = {
    'batch_size': config.batch_size * fresh,
    'seed': config.seed,
    'start_step': start_step,
    'process_index': jax.process_index(),
    'process_count': jax.process_count(),
  }
  if data.on_device:
    from nfnets.data import on_device

    yield from on_device.id_batches(len(source), **place)
  batches = pipeline.train_batches(
    source,
    **place,
    image_size=data.train_image_size,
    crop=data.crop,
    flip=data.flip,
    num_threads=data.num_threads,
    cache=data.cache,
    on_error=data.on_error,
    skipped=skipped,
  )
  for batch in batches:
    yield {name: batch[name] for name in ('images', 'labels')}


def network_of(config: ConfigDict) -> hk.TransformedWithState:
  """The network; every key of `config.model` but `name` is an override.

  Raises:
    ValueError: the recipe makes another network of one of timm's.
  """
  overrides = {k: v for k, v in config.model.items() if k != 'name'}
  name = config.model.name
  row = variants.TIMM.get(variants.canonical(name), {})
  for key in overrides.keys() & row.keys() & models.own_arguments(name).keys():
    if overrides[key] != row[key]:
      raise ValueError(
        f'config.model.name={name!r} has {key}={row[key]!r}, the recipe '
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
      return optim.piecewise(peak, boundaries, spec.factor, **warmup)
    case 'constant':
      return optim.constant(peak, **warmup)
  raise ValueError(f'config.schedule.name={spec.name!r} is unknown')


def optimizer_of(config: ConfigDict) -> optax.GradientTransformation:
  """What `config.optimizer` names behind its clipper, and the schedule."""
  return optim.create(schedule_of(config), optim.Settings(**config.optimizer))
