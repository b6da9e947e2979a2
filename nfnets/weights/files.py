"""Weights on disk: `.safetensors` and `.npz` of ours, and published pickles.

A file of ours holds every leaf under its public path, `module/name`, a state's
leaves under `state:module/name`, and how to make the network: no code.
"""

import contextlib
import functools
import io
import json
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from nfnets import models, variants
from nfnets.data import images
from nfnets.weights import match, restricted

Tree = Mapping[str, Mapping[str, Any]]
STATE = 'state:'
MAX_IMAGE_SIZE = 4096  # as a recipe's
_METADATA = 'nfnets'  # the one key of safetensors' metadata, a JSON object
_KEYS = ('model', 'num_classes', 'overrides', 'data')  # of that object
_LARGEST = 1e30  # well within float32's range
_EPSILON = 1e-5  # batch normalization's; rounding errs by less
_MOST_DEFLATED = 8  # a .npz's arrays over its size; weights hardly compress


class Weights(NamedTuple):
  """A network's numbers and the arguments of `nfnets.models.create`.

  `params` and `state` are `{module: {name: array}}`; `overrides` are JSON
  values; `model` is None where a file doesn't say, `num_classes` 0 where there
  is no head. `data` says how images were prepared, in a recipe's words, as far
  as it differs from ImageNet's way: `eval_image_size`, `eval_preprocessing`,
  `mean`, `std`, `class_names`. `note` is for the user, and isn't written.
  """

  params: Tree
  state: Tree
  model: str | None = None
  num_classes: int | None = None
  overrides: Mapping[str, Any] = {}
  data: Mapping[str, Any] = {}
  note: str = ''


def read(path: str | pathlib.Path, model: str | None = None) -> Weights:
  """Reads `.safetensors`, `.npz` or a published pickle, told by its content.

  Args:
    path: of the file.
    model: the network, where the file doesn't say; None tells it by the leaves.

  Raises:
    ValueError: on a file of another kind, or a pickle that asks for more than
      arrays and dictionaries.
  """
  path = pathlib.Path(path)
  if path.suffix == '.safetensors':
    with safetensors.safe_open(path, 'numpy') as file:
      metadata = (file.metadata() or {}).get(_METADATA)
    weights = _of_ours(read_safetensors(path), metadata)
  elif zipfile.is_zipfile(path):
    arrays = _read_npz(path)
    metadata = arrays.pop(_METADATA, None)
    weights = _of_ours(arrays, None if metadata is None else str(metadata))
  else:
    weights = read_published(path)
  return identify(weights, model) if weights.model is None else weights


def write(path: str | pathlib.Path, weights: Weights) -> None:
  """Writes `.safetensors` or `.npz`, by the path's ending.

  Raises:
    ValueError: on any other ending.
    OSError: the file can't be written; an old one stays whole.
  """
  path = pathlib.Path(path)
  named = leaves(weights)
  metadata = {key: getattr(weights, key) for key in _KEYS}
  text = json.dumps(metadata, sort_keys=True, default=dict)
  if path.suffix == '.safetensors':
    write_safetensors(path, named, {_METADATA: text})
  elif path.suffix == '.npz':
    with _beside(path) as temporary, temporary.open('wb') as file:
      np.savez(file, **named, **{_METADATA: np.array(text)})
  else:
    raise ValueError(f'{path}: write .safetensors or .npz')


def write_safetensors(
  path: pathlib.Path,
  arrays: dict[str, np.ndarray],
  metadata: dict[str, str] | None = None,
) -> None:
  """Writes arrays by their names; raises OSError, and an old file stays."""
  with _beside(path) as temporary:
    safetensors.numpy.save_file(arrays, temporary, metadata)


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path to write to, which then becomes the file's."""
  path = path.resolve()  # a link stays one
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
  """Parameters and state by the paths that a file gives them."""
  state = match.flatten(weights.state).items()
  named = match.flatten(weights.params) | {STATE + p: x for p, x in state}
  return {
    path: np.ascontiguousarray(leaf).reshape(np.shape(leaf))
    for path, leaf in named.items()
  }


def require_whole(weights: Weights, source: str = 'the weights') -> None:
  """Raises unless the weights are exactly those of the network they name.

  Raises:
    match.Mismatch: leaves are missing, too many, or of another shape.
    ValueError: the network isn't known, or as `require_finite`.
  """
  if weights.model is None:
    raise ValueError(
      f'{source}: of which network? Its modules are '
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
  """Raises ValueError where a leaf can't be of a network that was trained."""
  for path, leaf in leaves(weights).items():
    if not np.isfinite(leaf).all():
      raise ValueError(
        f'{source}: {path} holds what is no finite number; take other weights'
      )
    if path.endswith('var_ema/average') and leaf.min() <= -_EPSILON:
      raise ValueError(
        f'{source}: {path} is a variance below 0; take other weights'
      )


def require_head(weights: Weights, source: str = 'the weights') -> None:
  """Raises unless the weights can classify."""
  if not weights.num_classes:
    raise ValueError(
      f'{source}: a backbone without a head; fine-tune it first '
      '(--config=configs/finetune.py --config.weights=FILE)'
    )


def with_classes(weights: Weights, names: Sequence[str]) -> Weights:
  """The weights with their classes in the order of `names`.

  Raises:
    ValueError: they know other classes.
  """
  own, names = list(weights.data.get('class_names') or names), list(names)
  if weights.num_classes != len(names):
    raise ValueError(
      f'the weights know {weights.num_classes} classes, the data {len(names)}'
    )
  if sorted(own) != sorted(names):
    mine, other = next(pair for pair in zip(own, names) if pair[0] != pair[1])
    raise ValueError(
      f'the weights know other classes than the data: {mine!r}, not {other!r}'
    )
  order = [own.index(name) for name in names]
  params = {
    path: leaf[..., order] if match.is_head(path) else leaf
    for path, leaf in match.flatten(weights.params).items()
  }
  return weights._replace(
    params=match.unflatten(params), data={**weights.data, 'class_names': names}
  )


def read_published(path: str | pathlib.Path) -> Weights:
  """Reads F0_haiku.npz … F6_haiku.npz, which are pickles written by dill.

  Returns:
    The parameters `{module: {name: array}}`; a pickle of {'params', 'state'}
    or of (params, state) gives both.
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
      'no weights of a Haiku network inside; those are arrays in dictionaries, '
      '{module: {name: array}}'
    )
  if not content:
    raise ValueError('no parameters inside')
  return Weights(content, state)


def read_safetensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """A `.safetensors` file's arrays by their names, whoever wrote it."""
  try:
    return safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as error:
    raise ValueError(f'no safetensors file: {error}') from error


def shapes(
  model: str,
  num_classes: int,
  *,
  channels: int = 3,
  as_trained: bool = False,
  **overrides: Any,
) -> tuple[Tree, Tree]:
  """The trees of `models.create(model, …)`, shapes at their leaves.

  For images of so many channels. Public paths, unless `as_trained`: then
  stacks, if `scan` is overridden.
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


def channels(params: Tree) -> int:
  """Of the images that a network of these weights takes."""
  return match.flatten(params)[stem_path(params)].shape[2]


def stem_path(params: Tree) -> str:
  """The path of the first convolution's weights.

  Raises:
    ValueError: there is none.
  """
  for path in match.flatten(params):
    if _STEM.fullmatch(path):
      return path
  raise ValueError('there is no first convolution')


def identify(weights: Weights, model: str | None = None) -> Weights:
  """Names the network that has as many blocks and most of these leaves.

  Args:
    weights: of which the parameters are read.
    model: the name, where it is known.
  """
  found = {p: np.shape(x) for p, x in match.flatten(weights.params).items()}
  blocks = {m[0] for m in map(_BLOCK.match, found) if m}
  head = next((x for p, x in found.items() if _HEAD_BIAS.fullmatch(p)), (0,))
  if model:
    return weights._replace(model=model, num_classes=head[0])
  best, most = None, len(found) / 2
  for name, row in variants.ALL.items():
    if sum(row['depths']) != len(blocks) or name in variants.TIMM:
      continue  # timm's networks have the trees of published ones
    params, _ = shapes(name, head[0] or 1)
    wanted = match.flatten(params)
    common = sum(
      path in wanted and wanted[path].shape == shape
      for path, shape in found.items()
    )
    if common > most:
      best, most = name, common
  return weights._replace(model=best, num_classes=best and head[0])


_BLOCK = re.compile(r'.*?[^/]*block[^/]*(?=/)')
_STEM = re.compile(r'[^/]+/(.*/)?(stem_conv0|initial_conv)/w')
_HEAD_BIAS = re.compile(r'[^/]+/~/linear/b')


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(path) as archive:
    size = sum(info.file_size for info in archive.infolist())
    if size > _MOST_DEFLATED * path.stat().st_size:
      raise ValueError(f'a .npz of this size that announces {size} bytes')
    return {
      info.filename.removesuffix('.npy'): _read_npy(archive.read(info))
      for info in archive.infolist()
    }


def _read_npy(data: bytes) -> np.ndarray:
  # NumPy's own reader would make the array before it knows that it has bytes.
  file = io.BytesIO(data)
  version = np.lib.format.read_magic(file)
  reader = np.lib.format.read_array_header_1_0
  if version != (1, 0):
    reader = np.lib.format.read_array_header_2_0
  shape, is_fortran, dtype = reader(file)
  size = math.prod(shape) * dtype.itemsize
  if dtype.hasobject or size != len(data) - file.tell():
    raise ValueError('no .npz of plain arrays')
  flat = np.frombuffer(data, dtype, offset=file.tell())
  return flat.reshape(shape, order='F' if is_fortran else 'C')


def _of_ours(arrays: dict[str, np.ndarray], metadata: str | None) -> Weights:
  if any('/' not in name for name in arrays):
    raise ValueError('its entries are no paths like NFNet/~/stem_conv0/w')
  params = {p: x for p, x in arrays.items() if not p.startswith(STATE)}
  state = {
    p.removeprefix(STATE): x for p, x in arrays.items() if p not in params
  }
  weights = Weights(match.unflatten(params), match.unflatten(state))
  if not metadata:
    return weights
  told = json.loads(metadata)
  _check(told, len(arrays))
  return weights._replace(**told)


def check_metadata(weights: Weights) -> None:
  """Raises ValueError unless what the weights say of themselves makes sense."""
  told = {key: getattr(weights, key) for key in _KEYS}
  _check(told, len(match.flatten(weights.params)))


def _check(told: Any, num_leaves: int) -> None:

  def require(holds: bool, key: str) -> None:
    if not holds:
      raise ValueError(f"its metadata's {key} is none of a network's weights")

  require(isinstance(told, dict) and told.keys() <= {*_KEYS}, 'form')
  model = told.get('model')
  is_name = isinstance(model, str) and len(model) < 100
  require(model is None or is_name, 'model')
  number = told.get('num_classes')
  is_number = type(number) is int and 0 <= number < 10**7
  require(number is None or is_number, 'num_classes')
  overrides, data = told.get('overrides', {}), told.get('data', {})
  require(isinstance(overrides, dict), 'overrides')
  for key, value in overrides.items():
    values = value if isinstance(value, list) else [value]
    plain = all(
      isinstance(x, str | None)
      or (isinstance(x, int | float) and abs(x) < _LARGEST)  # and no NaN
      for x in values
    )
    require(plain and len(values) < 100, f'override {key[:50]}')
  depths = overrides.get('depths') or []
  whole = isinstance(depths, list) and all(type(n) is int for n in depths)
  few = max(num_leaves, 1000)  # or it would be built for ever
  require(whole and all(n > 0 for n in depths), 'depths')
  require(sum(depths) <= few, 'depths')
  require(isinstance(data, dict), 'data')
  size = data.get('eval_image_size', 1)
  require(type(size) is int and 0 < size <= MAX_IMAGE_SIZE, 'eval_image_size')
  how = data.get('eval_preprocessing', 'none')
  require(isinstance(how, str) and len(how) < 100, 'eval_preprocessing')
  images.preparation(how)
  for key, least in (('mean', -1e6), ('std', 1e-3)):  # in grey levels
    value = data.get(key, [1.0] * 3)
    numbers = isinstance(value, list) and all(
      isinstance(x, int | float) and least <= x <= 1e6 for x in value
    )
    require(numbers and len(value) == 3, key)
  names = data.get('class_names') or []
  texts = isinstance(names, list) and all(isinstance(x, str) for x in names)
  require(texts and len(names) in (0, number), 'class_names')


def _is_tree(tree: Any) -> bool:
  return isinstance(tree, dict) and all(
    isinstance(module, str)
    and isinstance(named, dict)
    and all(isinstance(n, str) for n in named)
    and all(isinstance(x, np.ndarray) for x in named.values())
    for module, named in tree.items()
  )
