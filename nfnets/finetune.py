"""Fine-tuning: completing a recipe from weights and data, and the new head.

A recipe leaves a key open by '' for a name, 0 for a number or () for constants.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nfnets import bucket, checks, factory, models, step, variants
from nfnets.data import sources
from nfnets.weights import files, match, pictures, pretrained, stack_like
from nfnets.workdir import RunFolder

# Arguments that affect how a network is trained, not what it computes.
TRAINING_ONLY = (
  'drop_rate', 'stochdepth_rate', 'skipinit_gain', 'remat', 'scan', 'features',
  'cross_replica_axis',
)  # fmt: skip
# Keys that the weights fill in, and what leaves them open.
DATA_KEYS = {
  'eval_preprocessing': '',
  'eval_image_size': 0,
  'train_image_size': 0,
  'mean': (),
  'std': (),
}


def complete(
  config: ConfigDict,
  workdir: str | pathlib.Path | None = None,
  trains: bool = True,
) -> tuple[list[str], factory.Splits]:
  """Fills in, in place, what the recipe leaves open.

  Args:
    config: a recipe with unresolved references.
    workdir: the run's folder; the config.json of a run with a checkpoint there,
      or of a finished one, replaces the file of weights.
    trains: whether the training split is needed; if not, `data.num_train` may
      stay open.

  Returns:
    Lines for the user, that say what was filled in; and the splits of the data
    if they were opened.

  Raises:
    ValueError, FileNotFoundError: weights or data are missing or don't fit.
  """
  checks.check_origins(config, trains=False)
  lines, opened, data = [], (None, None), config.data
  is_open = any(data[key] == value for key, value in DATA_KEYS.items())
  if not config.model.name or (config.weights and is_open):
    lines.append(_take_from_weights(config, workdir))
  if not trains and not data.num_classes:
    data.num_classes = sources.of(data, data.eval_split).num_classes
  elif trains and not (data.num_classes and data.num_train):
    splits = data.train_split, data.eval_split
    opened = train, test = tuple(sources.of(data, split) for split in splits)
    data.num_train = data.num_train or len(train)
    data.num_classes = data.num_classes or train.num_classes
    lines.append(
      f'{data.name}: {train.num_classes} classes, {len(train)} pictures to '
      f'train on, {len(test)} to test on'
    )
  return lines, opened


def _take_from_weights(
  config: ConfigDict, workdir: str | pathlib.Path | None
) -> str:
  before = _earlier(config, workdir)
  if before:
    config.weights = before['weights']
  if not config.weights:
    raise ValueError(
      "config.model.name='' and config.weights='': name a network, or pass "
      '--config.weights=FILE (published, timm, .safetensors, a run)'
    )
  model, found = (
    (before['model'], before['data']) if before else _described(config.weights)
  )
  _check_same_network(config, model['name'])
  with config.unlocked():
    for key in model.keys() - set(TRAINING_ONLY):
      config.model[key] = models.as_tuples(model[key])
  data = config.data
  for key, is_open in DATA_KEYS.items():
    if data[key] == is_open:
      value = found[key]
      data[key] = tuple(value) if isinstance(is_open, tuple) else value
  used, made = (_images(x, trains=not config.probe) for x in (data, found))
  more = '' if made == used else f'; the weights were made for {made}'
  return f'{config.weights}: {config.model.name}, used at {used}{more}'


def _images(data: Mapping[str, Any], trains: bool) -> str:
  size, in_training = data['eval_image_size'], data['train_image_size']
  more = (
    f', {in_training} in training' if trains and in_training != size else ''
  )
  return (
    f'{size} pixels{more}, {pictures.crop_words(data["eval_preprocessing"])}'
  )


def fitting(
  config: ConfigDict, shapes: step.TrainState, class_names: Sequence[str] = ()
) -> files.Weights:
  """Reads the weights of a resolved recipe, without a head for other classes.

  `shapes` are those of its state, `class_names` those of the training data.

  Raises:
    match.Mismatch: a report of the parameters that don't fit.
    ValueError, FileNotFoundError: the weights can't be read or trained.
  """
  weights = _read(config.weights)
  _read.cache_clear()
  if weights.overrides.get('folded'):
    raise ValueError(
      f'{config.weights} is folded, for inference only: convert the original '
      'without --fold'
    )
  check_same_function(config, weights)
  own = weights.data.get('class_names')
  if own and sorted(own) == sorted(class_names):  # perhaps in another order
    weights = files.with_classes(weights, class_names)
  is_kept, why = _keeps_head(weights, config.data.num_classes, class_names)
  found, wanted = stack_like(weights.params, shapes.params), shapes.params
  if not is_kept:
    found, wanted = match.without_head(found), match.without_head(wanted)
  state = stack_like(weights.state, shapes.state)
  match.require(found, wanted, config.weights)
  match.require(state, shapes.state, config.weights)
  files.require_finite(weights, config.weights)
  if jax.process_index() == 0:
    count = sum(leaf.size for leaf in jax.tree.leaves(found))
    note = f', {weights.note}' if weights.note else ''
    print(
      f'weights: {config.weights}, {weights.model}, {count:,} parameters{note}'
    )
    print(f'head: {"kept" if is_kept else "new"}, {why}', flush=True)
  return weights._replace(params=found, state=state)


def start(state: step.TrainState, weights: files.Weights) -> step.TrainState:
  """An initial state, on the host, with weights from `fitting`.

  A head that they lack stays as it is.
  """

  def overlaid(tree: match.Tree, found: match.Tree) -> match.Tree:
    in_its_dtype = lambda own, leaf: np.asarray(leaf, own.dtype)
    return jax.tree.map(in_its_dtype, tree, dict(tree) | dict(found))

  params = overlaid(state.params, weights.params)
  net_state = overlaid(state.state, weights.state)
  state = state._replace(params=params, state=net_state)
  if state.ema_params:
    state = state._replace(ema_params=params, ema_state=net_state)
  return state


@functools.lru_cache(maxsize=1)  # `complete` and `fitting` read the same file
def _read(path: str) -> files.Weights:
  return pretrained.read(path)


def _earlier(
  config: ConfigDict, workdir: str | pathlib.Path | None
) -> dict[str, Any] | None:
  """The config of the run in `workdir`, if it started from these weights.

  A recipe without weights resumes from whatever weights the run started from.
  A folder without a checkpoint may be used for any config, so it has none.
  """
  if not workdir:
    return None
  with bucket.fetched(workdir, whole=False) as path:
    folder = RunFolder(path)
    has_begun = folder.saved_steps() or folder.is_finished()
    before = folder.read_config() if has_begun else None
  own = (before or {}).get('weights', '')
  return before if own and config.weights in ('', own) else None


def _described(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """`config.model` and the `DATA_KEYS` of `config.data`, from the weights."""
  _read.cache_clear()  # the file may have changed since
  weights = _read(path)
  if weights.model is None:
    raise ValueError(
      f'{path} does not name its network: convert it with scripts.convert, or '
      'take a recipe that names the network'
    )
  row = variants.find(weights.model)
  size = pictures.image_size(weights)
  usual = size == row['eval_image_size']
  data = {
    'eval_preprocessing': pictures.crop_name(weights),
    'eval_image_size': size,
    'train_image_size': row['train_image_size'] if usual else size,
    **pictures.statistics(weights),
  }
  return {'name': weights.model, **weights.overrides}, data


def check_same_function(config: ConfigDict, weights: files.Weights) -> None:
  """Refuses `config.weights` of a network that computes another function.

  Raises:
    ValueError: names the key of `config.model` and both values.
  """
  mine = config.model.to_dict()
  name = mine.pop('name')
  if weights.model is None:
    return
  _check_same_network(config, weights.model)
  there = models.arguments(name, **weights.overrides)
  here = models.arguments(name, **mine)
  for key in ('depths', 'widths', *models.own_arguments(name)):
    if key not in TRAINING_ONLY and there[key] != here[key]:
      raise ValueError(
        f'{config.weights} was trained with {key}={there[key]!r}, '
        f'but config.model.{key} is {here[key]!r}: the network would compute '
        'another function'
      )


def _check_same_network(config: ConfigDict, model: str) -> None:
  """Raises ValueError if the recipe names a network other than `model`."""
  name = config.model.name
  if name and variants.canonical(model) != variants.canonical(name):
    raise ValueError(
      f'{config.weights} holds {model}, but config.model.name is {name!r}: '
      f'pass --config.model.name={model}'
    )


def _keeps_head(
  weights: files.Weights, num_classes: int, class_names: Sequence[str]
) -> tuple[bool, str]:
  """Whether the weights have the same classes, and a reason to print."""
  there, names = weights.num_classes, weights.data.get('class_names')
  if there != num_classes:
    return False, f'{there} classes in the weights, {num_classes} in the data'
  if names and class_names and list(names) != list(class_names):
    return False, f'{num_classes} classes, but with other names'
  return True, f'the same {num_classes} classes'
