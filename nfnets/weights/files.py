"""Weights on disk: our `.safetensors` and `.npz`, and published pickles.

Our files hold every leaf under its public path: `module/name` for parameters,
`state:module/name` for state. Their metadata has the arguments of
`nfnets.models.create`.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from nfnets import checks, models, variants
from nfnets.data import images
from nfnets.weights import match, restricted

STATE = 'state:'
MAX_IMAGE_SIZE = 4096  # as for a recipe
_METADATA = 'nfnets'  # the one key of safetensors' metadata, a JSON object
_KEYS = ('model', 'num_classes', 'overrides', 'data')  # of that object
_MOST_VALUES = 100  # fewer than these in a list of an override
_LARGEST = 1e30  # well within float32's range
_EPSILON = 1e-5  # of batch normalization; rounding errors are smaller
_MAX_COMPRESSION = 8  # of a .npz; weights hardly compress


class Weights(NamedTuple):
  """A network's parameters and the arguments of `nfnets.models.create`.

  Attributes:
    params, state: `{module: {name: array}}`.
    model: the network's name; None if unknown.
    num_classes: 0 without a head.
    overrides: of the network's arguments: JSON values, tuples for lists.
    data: the keys of `config.data` that differ from the model's defaults, among
      `eval_image_size`, `eval_preprocessing`, `mean`, `std`, `class_names`;
      and `loss`, with which they were trained, if a run's config tells.
    note: what to tell the user about their origin; not written to files.
  """

  params: match.Tree
  state: match.Tree
  model: str | None = None
  num_classes: int | None = None
  overrides: Mapping[str, Any] = {}
  data: Mapping[str, Any] = {}
  note: str = ''


def read_ours(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str | None]:
  """Reads the named arrays of `.safetensors` or `.npz`, and our metadata."""
  if path.suffix == '.safetensors':
    with safetensors.safe_open(path, 'numpy') as file:
      metadata = (file.metadata() or {}).get(_METADATA)
    return safetensors.numpy.load_file(path), metadata
  arrays = _read_npz(path)
  metadata = arrays.pop(_METADATA, None)
  return arrays, None if metadata is None else str(metadata)


def write(path: str | pathlib.Path, weights: Weights) -> None:
  """Writes `.safetensors` or `.npz`, depending on the path's suffix.

  A `.npz` has no bfloat16: such leaves are written to it as float32.

  Raises:
    ValueError: the suffix is another.
    OSError: the file can't be written; an older file is left unchanged.
  """
  path = pathlib.Path(path)
  named = leaves(weights)
  metadata = {key: getattr(weights, key) for key in _KEYS}
  text = json.dumps(metadata, sort_keys=True, default=dict)
  if path.suffix == '.safetensors':
    write_safetensors(path, named, {_METADATA: text})
  elif path.suffix == '.npz':
    named = {
      name: leaf.astype(np.float32) if leaf.dtype == jnp.bfloat16 else leaf
      for name, leaf in named.items()
    }
    with _beside(path) as temporary, temporary.open('wb') as file:
      np.savez(file, **named, **{_METADATA: np.array(text)})
  else:
    raise ValueError(f'{path}: write .safetensors or .npz')


def write_safetensors(
  path: pathlib.Path,
  arrays: dict[str, np.ndarray],
  metadata: dict[str, str] | None = None,
) -> None:
  """Writes named arrays; on OSError an older file is left unchanged."""
  with _beside(path) as temporary:
    safetensors.numpy.save_file(arrays, temporary, metadata)


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path, which replaces `path` after a successful write."""
  path = path.resolve()  # a symbolic link stays one
  temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  try:
    yield temporary
    temporary.replace(path)
  except (OSError, safetensors.SafetensorError) as error:
    why = getattr(error, 'strerror', None) or ' '.join(str(error).split())
    raise OSError(f'{path} could not be written: {why}') from error
  finally:
    temporary.unlink(missing_ok=True)


def leaves(weights: Weights) -> dict[str, np.ndarray]:
  """Parameters and state `{path: array}`, by their paths in a file."""
  state = match.flatten(weights.state).items()
  named = match.flatten(weights.params) | {STATE + p: x for p, x in state}
  return {
    path: np.ascontiguousarray(leaf).reshape(np.shape(leaf))
    for path, leaf in named.items()
  }


def require_whole(weights: Weights, source: str = 'the weights') -> None:
  """Checks that the weights are complete and belong to the network they name.

  Raises:
    match.Mismatch: leaves are missing, unexpected, or of another shape.
    ValueError: the network is unknown, or as `require_finite`.
  """
  if weights.model is None:
    raise ValueError(
      f'{source}: the network is not recognised; name it with model=NAME, or '
      '--model=NAME of scripts.convert. Its modules are '
      f'{", ".join(sorted(weights.params)[:3])} …'
    )
  params, state = shapes(
    weights.model,
    weights.num_classes or 0,
    channels=channels(weights.params),
    **weights.overrides,
  )
  match.require(weights.params, params, source)
  match.require(weights.state, state, source)
  require_finite(weights, source)


def require_finite(weights: Weights, source: str = 'the weights') -> None:
  """Raises ValueError for NaN, infinities and negative variances.

  Parameters must be real floating-point numbers; state also holds counters.
  """
  for path, leaf in leaves(weights).items():
    kinds = np.number if path.startswith(STATE) else jnp.floating
    is_real = not jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    if not (is_real and jnp.issubdtype(leaf.dtype, kinds)):
      raise ValueError(
        f'{source}: {path} holds {leaf.dtype} values, not floating-point '
        'numbers; use other weights'
      )
    if not np.isfinite(leaf).all():
      raise ValueError(
        f'{source}: {path} has values that are not finite; use other weights'
      )
    if path.endswith('var_ema/average') and leaf.min() <= -_EPSILON:
      raise ValueError(
        f'{source}: {path} is a negative variance; use other weights'
      )


def require_head(weights: Weights, source: str = 'the weights') -> None:
  """Raises ValueError if the weights have no classifier."""
  if not weights.num_classes:
    raise ValueError(
      f'{source}: a backbone without a head; fine-tune it first '
      '(--config=configs/finetune.py --config.weights=FILE)'
    )


def with_classes(weights: Weights, names: Sequence[str]) -> Weights:
  """Reorders the head's classes to the order of `names`.

  Raises:
    ValueError: the weights' classes have other names.
  """
  own, names = list(weights.data.get('class_names') or names), list(names)
  if weights.num_classes != len(names):
    raise ValueError(
      f'the weights have {weights.num_classes} classes, the data {len(names)}'
    )
  if sorted(own) != sorted(names):
    mine, other = next(pair for pair in zip(own, names) if pair[0] != pair[1])
    raise ValueError(
      f'the weights have other classes than the data: {mine!r}, not {other!r}'
    )
  order = np.empty(len(names), int)  # the first of two equal names stays first
  order[np.argsort(names, kind='stable')] = np.argsort(own, kind='stable')
  params = {
    path: leaf[..., order] if match.is_head(path) else leaf
    for path, leaf in match.flatten(weights.params).items()
  }
  return weights._replace(
    params=match.unflatten(params), data={**weights.data, 'class_names': names}
  )


@contextlib.contextmanager
def one_line_errors(source: str | pathlib.Path) -> Iterator[None]:
  """Turns any error into a ValueError of one line that names the source."""
  try:
    yield
  except match.Mismatch:
    raise
  except Exception as error:  # readers of damaged files may raise anything
    why = ' '.join(str(error).split()) or type(error).__name__
    named = '' if str(source) in why else f'{source}: '
    # An error that was raised from None leaves nothing to add.
    says_all = error.__suppress_context__ and error.__cause__ is None
    raise ValueError(f'{named}{why:.600}') from (None if says_all else error)


def read_published(path: str | pathlib.Path) -> Weights:
  """Reads F0_haiku.npz … F6_haiku.npz, which are pickles written by dill.

  A pickle holds parameters `{module: {name: array}}`, or parameters and state
  as {'params': …, 'state': …} or as a pair.
  """
  with open(path, 'rb') as file:
    content = restricted.load(file)
  state: Any = {}
  if isinstance(content, tuple) and len(content) == 2:
    content, state = content
  elif isinstance(content, dict) and set(content) <= {'params', 'state'}:
    content, state = content.get('params', {}), content.get('state', {})
  if not (_is_tree(content) and _is_tree(state)):
    raise ValueError(
      "holds no Haiku network's weights, {module: {name: array}}"
    )
  if not content:
    raise ValueError('holds no parameters')
  return Weights(content, state)


def shapes(
  model: str,
  num_classes: int,
  *,
  channels: int = 3,
  as_trained: bool = False,
  **overrides: Any,
) -> tuple[match.Tree, match.Tree]:
  """Shapes of the parameters and state of `models.create(model, …)`.

  Args:
    model, num_classes, **overrides: as for `models.create`.
    channels: of the images.
    as_trained: keep the stacks of a network with `scan`; by default every
      block has its public path.
  """
  if not as_trained:
    overrides.pop('scan', None)
  network = models.create(model, num_classes, **overrides)
  size = variants.find(model)['train_image_size']
  images = jax.ShapeDtypeStruct((1, size, size, channels), np.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(
    functools.partial(network.init, is_training=True), key, images
  )


def channels(params: match.Tree) -> int:
  """The number of channels of the images that these weights are for."""
  return match.flatten(params)[stem_path(params)].shape[2]


def stem_path(params: match.Tree) -> str:
  """The path of the first convolution's weights.

  Raises:
    ValueError: there is none.
  """
  for path in match.flatten(params):
    if _STEM.fullmatch(path):
      return path
  raise ValueError('the weights have no first convolution')


def identify(weights: Weights, model: str | None = None) -> Weights:
  """Fills in the name and the number of classes.

  Unless `model` is given, the network is the one that has as many blocks and
  shares most leaves, if more than half of them.
  """
  found = {p: np.shape(x) for p, x in match.flatten(weights.params).items()}
  blocks = {m[0] for m in map(_BLOCK.match, found) if m}
  head = next((x for p, x in found.items() if match.is_head(p)), (0,))
  if model:
    return weights._replace(model=model, num_classes=head[-1])
  best, most = None, len(found) / 2
  for name, row in variants.ALL.items():
    if sum(row['depths']) != len(blocks) or name in variants.TIMM:
      continue  # timm's trees equal those of the published networks
    params, _ = shapes(name, head[-1] or 1)
    wanted = match.flatten(params)
    common = sum(
      path in wanted and wanted[path].shape == shape
      for path, shape in found.items()
    )
    if common > most:
      best, most = name, common
  return weights._replace(model=best, num_classes=best and head[-1])


_BLOCK = re.compile(r'.*?[^/]*block[^/]*(?=/)')
_STEM = re.compile(r'[^/]+/(.*/)?(stem_conv0|initial_conv)/w')


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(path) as archive:
    size = sum(info.file_size for info in archive.infolist())
  if size > _MAX_COMPRESSION * path.stat().st_size:
    raise ValueError(f'its arrays claim to have {size} bytes')
  with np.load(path, allow_pickle=False) as file:
    arrays = dict(file)
  if not all(isinstance(array, np.ndarray) for array in arrays.values()):
    raise ValueError('not a .npz of plain arrays')
  return arrays


def of_ours(arrays: dict[str, np.ndarray], metadata: str | None) -> Weights:
  """Weights from the named arrays and metadata of a file of ours."""
  if any('/' not in name for name in arrays):
    raise ValueError('its entries are not paths like NFNet/~/stem_conv0/w')
  params = {p: x for p, x in arrays.items() if not p.startswith(STATE)}
  state = {
    p.removeprefix(STATE): x for p, x in arrays.items() if p not in params
  }
  weights = Weights(match.unflatten(params), match.unflatten(state))
  if not metadata:
    return weights
  told = json.loads(metadata)
  if not (isinstance(told, dict) and told.keys() <= {*_KEYS}):
    raise ValueError(f'its metadata are not an object of {", ".join(_KEYS)}')
  weights = weights._replace(**told)
  check_metadata(weights)
  return weights._replace(overrides=as_overrides(weights.overrides))


def check_metadata(weights: Weights) -> None:
  """Raises ValueError unless the weights' metadata are plausible."""

  def require(holds: bool, key: str) -> None:
    if not holds:
      raise ValueError(f'its metadata have an invalid {key}')

  model, number = weights.model, weights.num_classes
  is_name = isinstance(model, str) and len(model) < 100
  require(model is None or is_name, 'model')
  is_number = type(number) is int and 0 <= number < 10**7
  require(number is None or is_number, 'num_classes')
  overrides, data = weights.overrides, weights.data
  require(isinstance(overrides, dict), 'overrides')
  for key, value in overrides.items():
    require(_is_plain(value), f'override {key[:50]}')
  depths = overrides.get('depths') or []
  counts = isinstance(depths, list | tuple) and all(
    type(n) is int for n in depths
  )
  require(counts and all(n > 0 for n in depths), 'depths')
  # Otherwise building the network could take for ever.
  require(sum(depths) <= max(len(weights.params), 1000), 'depths')
  require(isinstance(data, dict), 'data')
  size = data.get('eval_image_size', 1)
  require(type(size) is int and 0 < size <= MAX_IMAGE_SIZE, 'eval_image_size')
  how = data.get('eval_preprocessing', 'none')
  require(isinstance(how, str) and len(how) < 100, 'eval_preprocessing')
  images.preparation(how)
  loss = data.get('loss', 'softmax')
  require(loss in checks.CHOICES['loss'], 'loss')
  for key, lowest in (('mean', -1e6), ('std', 1e-3)):  # in grey levels
    value = data.get(key, [1.0] * 3)
    numbers = isinstance(value, list) and all(
      isinstance(x, int | float) and lowest <= x <= 1e6 for x in value
    )
    require(numbers and len(value) == 3, key)
  names = data.get('class_names') or []
  texts = isinstance(names, list) and all(isinstance(x, str) for x in names)
  require(texts and len(names) in (0, number), 'class_names')


def _is_plain(value: Any, max_depth: int = 2) -> bool:
  """Whether it is a JSON value that an argument may have, such as a stem."""
  if isinstance(value, list | tuple):
    return (
      max_depth > 0
      and len(value) < _MOST_VALUES
      and all(_is_plain(x, max_depth - 1) for x in value)
    )
  if isinstance(value, int | float):
    return abs(value) < _LARGEST  # and no NaN
  return isinstance(value, str | None)


def as_overrides(values: Mapping[str, Any]) -> dict[str, Any]:
  """Overrides from JSON, as `Weights` holds them."""
  return {key: models.as_tuples(value) for key, value in values.items()}


def _is_tree(tree: Any) -> bool:
  return isinstance(tree, dict) and all(
    isinstance(module, str)
    and isinstance(named, dict)
    and all(isinstance(n, str) for n in named)
    and all(isinstance(x, np.ndarray) for x in named.values())
    for module, named in tree.items()
  )
