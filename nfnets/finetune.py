"""Starting from given weights: what they say of the recipe, and the new head.

In a recipe, '' for a name, 0 for a number and () for constants mean 'as found':
in the weights, or in the data.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nfnets import bucket, step, variants
from nfnets.data import sources
from nfnets.weights import files, match, pictures, pretrained, stack_like
from nfnets.workdir import read_json

# Arguments that change how a network is trained, not what it computes.
TRAINING_ONLY = (
  'drop_rate', 'stochdepth_rate', 'skipinit_gain', 'remat', 'scan', 'features',
  'cross_replica_axis',
)  # fmt: skip
# What weights say of the data, and what it is where they are silent.
DATA_KEYS = {
  'eval_preprocessing': '',
  'eval_image_size': 0,
  'train_image_size': 0,
  'mean': (),
  'std': (),
}


def complete(
  config: ConfigDict, workdir: str | pathlib.Path | None = None
) -> list[str]:
  """Fills in what the recipe leaves to the weights and to the data, in place.

  Args:
    config: a recipe, its references not yet resolved; where it leaves nothing
      open it stays as it is.
    workdir: where the run may have begun before: then its config.json, not the
      file of weights, says what was found.

  Returns:
    Lines that say what was found, for the user.

  Raises:
    ValueError, FileNotFoundError: nothing was found, or it can't be trained.
  """
  lines = []
  if not config.model.name:
    before = _earlier(config, workdir)
    if before:
      config.weights = before['weights']
    if not config.weights:
      raise ValueError(
        "config.weights='': this recipe starts from weights; pass "
        '--config.weights=FILE (published, timm, .safetensors, a run)'
      )
    model, data = (
      (before['model'], before['data']) if before else _found(config)
    )
    _set_model(config, model)
    for key, is_open in DATA_KEYS.items():
      if config.data[key] == is_open:
        value = data[key]
        config.data[key] = tuple(value) if isinstance(is_open, tuple) else value
  if not (config.data.num_train and config.data.num_classes):
    train, test = (
      sources.of(config.data, split)
      for split in (config.data.train_split, config.data.eval_split)
    )
    config.data.num_train = config.data.num_train or len(train)
    config.data.num_classes = config.data.num_classes or train.num_classes
    lines.append(
      f'{config.data.name}: {train.num_classes} classes, {len(train)} pictures '
      f'to train on, {len(test)} to test on'
      + (f' ({test.note})' if getattr(test, 'note', '') else '')
    )
  return lines


def check(
  config: ConfigDict, shapes: step.TrainState, class_names: Sequence[str] = ()
) -> None:
  """Refuses weights that don't fit, before anything is compiled.

  Args:
    config: a recipe, resolved.
    shapes: of its state.
    class_names: of the training data.

  Raises:
    match.Mismatch: the weights are another network's: the whole report.
    ValueError, FileNotFoundError: they can't be read or trained.
  """
  if config.weights:
    _fitting(config, shapes, class_names)


def start(
  config: ConfigDict,
  state: step.TrainState,
  class_names: Sequence[str] = (),
) -> step.TrainState:
  """A state with the numbers of `config.weights`, if the recipe names any.

  Args:
    config: a recipe, resolved.
    state: newly initialized, on the host; its head stays where the weights'
      head is for other classes.
    class_names: of the training data.

  Raises:
    As `check`.
  """
  if not config.weights:
    return state
  weights, is_kept, why = _fitting(config, state, class_names)
  _read_once.cache_clear()
  params = _overlaid(state.params, weights.params, with_head=is_kept)
  net_state = _overlaid(state.state, weights.state, with_head=True)
  if jax.process_index() == 0:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f'weights: {config.weights}, {weights.model}, {count:,} parameters')
    print(f'head: {"kept" if is_kept else "new"}, {why}', flush=True)
  state = state._replace(params=params, state=net_state)
  if state.ema_params:
    state = state._replace(ema_params=params, ema_state=net_state)
  return state


def _fitting(
  config: ConfigDict, wanted: step.TrainState, class_names: Sequence[str]
) -> tuple[files.Weights, bool, str]:
  """The weights, whether their head is kept, and what to say of it."""
  weights = _read(config.weights)
  _check_same_function(config, weights)
  weights = weights._replace(
    params=stack_like(weights.params, wanted.params),
    state=stack_like(weights.state, wanted.state),
  )
  is_kept, why = _keeps_head(weights, config.data.num_classes, class_names)
  found, needed = (
    match.unflatten(
      {
        p: x
        for p, x in match.flatten(tree).items()
        if is_kept or not match.is_head(p)
      }
    )
    for tree in (weights.params, wanted.params)
  )
  match.require(found, needed, config.weights)
  match.require(weights.state, wanted.state, config.weights)
  return weights, is_kept, why


def _overlaid(
  tree: match.Tree, found: match.Tree, with_head: bool
) -> dict[str, dict[str, np.ndarray]]:
  """The tree with the numbers that were found, in its own types."""
  values = {
    path: leaf
    for path, leaf in match.flatten(found).items()
    if with_head or not match.is_head(path)
  }
  return match.unflatten(
    {
      path: np.asarray(values.get(path, leaf), leaf.dtype)
      for path, leaf in match.flatten(tree).items()
    }
  )


def _read(path: str) -> files.Weights:
  file = pathlib.Path(path).expanduser()
  return _read_once(path, file.stat().st_mtime_ns if file.exists() else 0)


@functools.lru_cache(maxsize=1)  # the check and the start read one large file
def _read_once(path: str, modified: int) -> files.Weights:
  del modified
  return pretrained.read(path)


def _earlier(
  config: ConfigDict, workdir: str | pathlib.Path | None
) -> dict[str, Any] | None:
  """The config of the run in `workdir`, if it began with these weights.

  Who names no weights means the run's own.
  """
  if not workdir:
    return None
  with bucket.fetched(bucket.join(workdir, 'config.json')) as path:
    before = read_json(path)
  if before is None:
    return None
  own = before.get('weights', '')
  return before if own and config.weights in ('', own) else None


def _found(config: ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
  """The network and the data's preparation as the weights tell them."""
  weights = _read(config.weights)
  if weights.model is None:
    raise ValueError(
      f'{config.weights} does not say of which network it is: convert it with '
      'scripts.convert, or take a recipe that names its network'
    )
  row = variants.find(weights.model)
  own = {k: v for k, v in weights.overrides.items() if k not in TRAINING_ONLY}
  model = {'name': weights.model, **own}
  size = pictures.image_size(weights)
  usual = size == row['eval_image_size']
  data = {
    'eval_preprocessing': pictures.crop_name(weights),
    'eval_image_size': size,
    'train_image_size': row['train_image_size'] if usual else size,
    **pictures.statistics(weights),
  }
  return model, data


def _set_model(config: ConfigDict, found: Mapping[str, Any]) -> None:
  with config.unlocked():
    for key, value in found.items():
      if key == 'name' or key not in TRAINING_ONLY:
        config.model[key] = tuple(value) if isinstance(value, list) else value


def _check_same_function(config: ConfigDict, weights: files.Weights) -> None:
  if weights.overrides.get('folded'):
    raise ValueError(
      f'{config.weights} is folded, for inference alone: convert the original '
      'without --fold'
    )
  mine = config.model.to_dict()
  if weights.model not in (None, mine['name']):
    raise ValueError(
      f'{config.weights} holds {weights.model}, config.model.name is '
      f'{mine["name"]!r}'
    )
  for key in sorted(weights.overrides.keys() & mine.keys()):
    there, here = weights.overrides[key], mine[key]
    if isinstance(there, list | tuple):
      there, here = tuple(there), tuple(here)
    if key not in TRAINING_ONLY and there != here:
      raise ValueError(
        f'{config.weights} was made with {key}={there!r}, config.model.{key} '
        f'is {here!r}: it would be another function of the same numbers'
      )


def _keeps_head(
  weights: files.Weights, num_classes: int, class_names: Sequence[str]
) -> tuple[bool, str]:
  """Whether the classes are the weights' own, and what to say of it."""
  there, names = weights.num_classes, weights.data.get('class_names')
  if there != num_classes:
    return False, f'{there} classes there, {num_classes} here'
  if names and class_names and list(names) != list(class_names):
    return False, f'{num_classes} classes as there, but of other names'
  return True, f'{num_classes} classes as there'
