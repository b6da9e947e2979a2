"""Checks of a config; an error names the key, its value and the remedy."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from nfnets.data import images, mixing
from nfnets.data.sources import SPLITS
from nfnets.models import activations
from nfnets.optim import optimizer
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
    'warmup_cosine', 'warmup_exponential', 'piecewise', 'constant',
  ),
  'augment.mix': mixing.MODES,
  'augment.pairs': mixing.PAIRS,
  'data.on_error': ('raise', 'skip'),
}  # fmt: skip
# Keys that hold one or more names; an empty pattern would match everything.
NAMES = 'data.name', 'optimizer.frozen', 'optimizer.unclipped', 'sam.perturbed'
# Intervals of numbers, or of each number in a tuple. The others need only be
# below `LARGEST`.
BOUNDS = {
  '[1, 2147483647]': 'data.num_train num_steps log_every eval_every '
  'checkpoint_every keep_checkpoints stop_after_nonfinite',
  '[1, 1048576]': 'batch_size eval_batch_size data.num_classes',
  '[1, 65536]': 'micro_batches model.widths model.group_size '
  'model.channel_divisor',
  '[1, 4096]': 'data.train_image_size data.eval_image_size',
  '[1, 1000]': 'model.depths',
  '[0, 4294967295]': 'seed',
  '[0, 2147483647]': 'observe_every schedule.warmup_steps schedule.decay_steps',
  '[0, 1048576]': 'sam.m',
  '[0, 1000]': 'data.num_threads augment.pad augment.randaugment_layers '
  'augment.randaugment_magnitude',
  '(0, 1e6]': 'num_epochs',
  '(0, 1000]': 'model.width model.expansion',
  '(0, 1e30)': 'optimizer.clipping optimizer.eps augment.mixup_alpha '
  'model.se_ratio',
  '[0, 1e30)': 'learning_rate schedule.start schedule.end schedule.factor '
  'schedule.decay_rate optimizer.weight_decay sam.rho probe_l2',
  '[-1e6, 1e6]': 'data.mean',
  '[0.001, 1e6]': 'data.std',  # gray levels
  '(0, 1)': 'schedule.boundaries',
  '[0, 1)': 'model.drop_rate model.stochdepth_rate optimizer.momentum '
  'label_smoothing ema.decay',
  '(0, 1]': 'sam.ascent_fraction',
}
BOUND_OF = {key: b for b, keys in BOUNDS.items() for key in keys.split()}
MAX_HELD = 2**31  # bytes of images on a device; offsets stay within 32 bits
LARGEST = 1e30  # well within float32's range
WHOLE = 'model.depths', 'model.widths'  # tuples of whole numbers
# Numbers that a recipe computes, and what it computes them from.
DERIVED = (
  'num_steps', 'schedule.warmup_steps', 'schedule.decay_steps', 'eval_every',
  'checkpoint_every', 'learning_rate',
)  # fmt: skip
ORIGINS = 'data.num_train', 'num_epochs', 'batch_size'


def resolve(config: ConfigDict, trains: bool = True) -> ConfigDict:
  """Computes the derived numbers and checks every value, as `check_values`.

  Raises:
    ValueError: names the key and its value.
  """
  check_origins(config, trains)
  resolved = config.copy_and_resolve_references()
  check_values(resolved, trains)
  return resolved


def check_origins(config: ConfigDict, trains: bool) -> None:
  """Refuses numbers from which the derived ones can't be computed.

  Raises:
    ValueError: names the key and its value.
  """
  for key in ORIGINS if trains else ORIGINS[1:]:
    group, _, name = key.rpartition('.')
    _check_numbers(key, (config[group] if group else config)[name])


def check(config: ConfigDict, device_count: int) -> None:
  """Refuses a resolved config that can't be trained on that many devices.

  Raises:
    ValueError: names the key, its value and the remedy.
  """
  check_values(config)
  schedule, data = config.schedule, config.data
  if schedule.warmup_steps > config.num_steps:
    raise ValueError(
      f'config.schedule.warmup_steps={schedule.warmup_steps}: must be at most '
      f'config.num_steps={config.num_steps}; set config.schedule.warmup_steps '
      'lower, or config.num_epochs or config.num_steps higher (what you do not '
      f'set follows from {_origins(flat(config.to_dict()))})'
    )
  if config.batch_size % (config.sam.m or 1):
    raise ValueError(
      f'config.sam.m={config.sam.m}: must be 0 or divide config.batch_size='
      f'{config.batch_size}'
    )
  if config.augment.pairs == 'fresh' and config.augment.mix == 'none':
    raise ValueError("config.augment.pairs='fresh' needs config.augment.mix")
  parts = device_count * config.micro_batches
  if config.batch_size % parts:
    below = config.batch_size // parts * parts
    near = f'{below} or {below + parts}' if below else str(parts)
    raise ValueError(
      f'config.batch_size={config.batch_size} does not divide into '
      f'{device_count} devices x config.micro_batches={config.micro_batches}: '
      f'take {near}'
    )
  _check_sharing(config, device_count)
  if data.on_device:
    _check_held(data)


def _check_sharing(config: ConfigDict, device_count: int) -> None:
  """Refuses groups of SAM that fit neither micro-batches nor devices."""
  m, parts = config.sam.m, config.micro_batches
  size = config.batch_size // device_count
  if not config.sam.rho or not m or m % size == 0:  # `check`: m divides a batch
    return
  if size % m or m % parts:
    raise ValueError(
      f'config.sam.m={m}: must be a multiple of config.micro_batches={parts} '
      f'that divides the {size} images of a device (config.batch_size='
      f'{config.batch_size} on {device_count} devices), or a multiple of {size}'
    )


def _check_held(data: ConfigDict) -> None:
  """Refuses what a device can't hold or the host would have to augment."""
  if data.crop != 'none' or data.flip:
    raise ValueError(
      'config.data.on_device=True: the host cannot augment; set '
      f"config.data.crop='none' (not {data.crop!r}) and config.data.flip=False "
      f'(not {data.flip}); config.augment.pad crops and flips on the device'
    )
  side = data.train_image_size
  if (size := data.num_train * side**2 * 3) > MAX_HELD:
    raise ValueError(
      f'config.data.on_device=True: {data.num_train} images of {side} x {side} '
      f'pixels are {size / 2**30:.1f} GiB, over the limit of '
      f'{MAX_HELD / 2**30:.0f}: set config.data.on_device=False'
    )


def check_values(config: ConfigDict, trains: bool = True) -> None:
  """Refuses values that are invalid whatever the other keys are.

  Numbers that follow from the training data are checked only if `trains`.

  Raises:
    ValueError: names the key, its value and the remedy.
  """
  values, data = flat(config.to_dict()), config.data
  _check_names(values)
  more = f' (unless you set it, it follows from {_origins(values)})'
  for key, value in values.items():
    if trains or key not in (*DERIVED, 'data.num_train'):
      _check_numbers(key, value, more if key in DERIVED else '')
  images.preparation(data.eval_preprocessing)
  for key in ('data.mean', 'data.std'):
    if len(values[key]) != 3:
      raise ValueError(f'config.{key}={values[key]}: give three numbers')
  images.augmentation(data, 0)


def _check_names(values: Mapping[str, Any]) -> None:
  choices = dict(CHOICES)
  for key in ('data.train_split', 'data.eval_split'):
    if '[' not in values[key]:  # a slice, for TFDS
      choices[key] = SPLITS
  for key, allowed in choices.items():
    if key in values and values[key] not in allowed:
      raise ValueError(
        f'config.{key}={values[key]!r}: choose one of ' + ', '.join(allowed)
      )
  for key in NAMES:
    names = values[key]
    for name in (names,) if isinstance(names, str) else names:
      if not isinstance(name, str):
        raise ValueError(f'config.{key}={names!r}: {name!r} is not a string')
      if not name:
        raise ValueError(f'config.{key}={names!r}: an empty name')


def _check_numbers(key: str, value: Any, more: str = '') -> None:
  is_tuple = isinstance(value, list | tuple)
  bound = BOUND_OF.get(key, f'(-{LARGEST:g}, {LARGEST:g})')
  for number in value if is_tuple else [value]:
    is_number = isinstance(number, int | float)
    if is_number and not _is_within(bound, number):
      raise ValueError(f'config.{key}={value}: must be in {bound}{more}')
    if is_tuple and key in BOUND_OF and not is_number:
      raise ValueError(f'config.{key}={value}: {number!r} is not a number')
    if key in WHOLE and not isinstance(number, int):
      raise ValueError(f'config.{key}={value}: {number} is not a whole number')


def _is_within(bound: str, number: float) -> bool:
  """Whether a number is in an interval such as '[0, 1)'."""
  low, high = map(float, bound[1:-1].split(','))
  return low < number < high or (
    number == low and bound[0] == '[' or number == high and bound[-1] == ']'
  )


def _origins(values: Mapping[str, Any]) -> str:
  return ', '.join(f'config.{key}={values[key]}' for key in ORIGINS)
