"""Weights on disk: `.safetensors` and `.npz` of ours, and published pickles.

A file of ours holds every leaf under its public path, `module/name`, a state's
leaves under `state:module/name`, and how to make the network: no code.
"""

import functools
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from nfnets import models, variants
from nfnets.weights import match, restricted

Tree = Mapping[str, Mapping[str, Any]]
STATE = 'state:'
_METADATA = 'nfnets'  # the one key of safetensors' metadata, a JSON object


class Weights(NamedTuple):
  """A network's numbers and the arguments of `nfnets.models.create`.

  `params` and `state` are `{module: {name: array}}`; `overrides` are JSON
  values; `model` is None where a file doesn't say. `data` says how images were
  prepared, in a recipe's words, as far as it differs from ImageNet's way:
  `eval_image_size`, `eval_preprocessing`, `mean`, `std`, `class_names`.
  """

  params: Tree
  state: Tree
  model: str | None = None
  num_classes: int | None = None
  overrides: Mapping[str, Any] = {}
  data: Mapping[str, Any] = {}


def read(path: str | pathlib.Path) -> Weights:
  """Reads `.safetensors`, `.npz` or a published pickle, told by its content.

  Raises:
    ValueError: on a file of another kind, or a pickle that asks for more than
      arrays and dictionaries.
    FileNotFoundError: where there is none.
  """
  path = pathlib.Path(path)
  if path.suffix == '.safetensors':
    weights = _read_safetensors(path)
  elif zipfile.is_zipfile(path):
    weights = _read_npz(path)
  else:
    weights = read_published(path)
  if weights.model is not None:
    return weights
  return identify(weights)


def load(path: str | pathlib.Path) -> Weights:
  """Reads a file and checks that it holds a whole network's weights.

  Raises:
    ValueError: as `read`; where the network isn't known; `match.Mismatch`
      where leaves are missing, too many, or of another shape.
  """
  weights = read(path)
  require_whole(weights, str(path))
  return weights


def require_whole(weights: Weights, source: str = 'the weights') -> None:
  """Raises unless the weights are exactly those of the network they name."""
  if weights.model is None:
    raise ValueError(
      f'{source}: of which network? Its modules are '
      f'{", ".join(sorted(weights.params)[:3])} …'
    )
  wanted = shapes(weights.model, weights.num_classes, **weights.overrides)
  match.require(weights.params, wanted[0], source)
  match.require(weights.state, wanted[1], source)


def write(path: str | pathlib.Path, weights: Weights) -> None:
  """Writes `.safetensors` or `.npz`, by the path's ending.

  Raises:
    ValueError: on any other ending.
  """
  path = pathlib.Path(path)
  leaves = {p: _array(x) for p, x in match.flatten(weights.params).items()}
  for name, leaf in match.flatten(weights.state).items():
    leaves[STATE + name] = _array(leaf)
  metadata = json.dumps(
    {
      'model': weights.model,
      'num_classes': weights.num_classes,
      'overrides': dict(weights.overrides),
      'data': dict(weights.data),
    },
    sort_keys=True,
  )
  if path.suffix == '.safetensors':
    safetensors.numpy.save_file(leaves, path, {_METADATA: metadata})
  elif path.suffix == '.npz':
    np.savez(path, **leaves, **{_METADATA: np.array(metadata)})
  else:
    raise ValueError(f'{path}: write .safetensors or .npz')


def read_published(path: str | pathlib.Path) -> Weights:
  """Reads F0_haiku.npz … F6_haiku.npz, which are pickles written by dill.

  Returns:
    The parameters `{module: {name: array}}`; a pickle of {'params', 'state'}
    or of (params, state) gives both.
  """
  try:
    with open(path, 'rb') as file:
      content = restricted.load(file)
  except restricted.Refused as error:
    raise restricted.Refused(f'{path}: {error}') from error
  state: Any = {}
  if isinstance(content, tuple) and len(content) == 2:
    content, state = content
  elif isinstance(content, dict) and set(content) <= {'params', 'state'}:
    content, state = content.get('params', {}), content.get('state', {})
  for tree in (content, state):
    if not _is_tree(tree):
      raise ValueError(
        f'{path}: no weights of a Haiku network inside; those are arrays '
        'in dictionaries, {module: {name: array}}'
      )
  if not content:
    raise ValueError(f'{path}: no parameters inside')
  return Weights(content, state)


def read_arrays(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """A `.safetensors` file's arrays by their names, whoever wrote it.

  Raises:
    ValueError: on a file that isn't one.
  """
  try:
    return safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path}: no safetensors file: {error}') from error


def shapes(model: str, num_classes: int, **overrides: Any) -> tuple[Tree, Tree]:
  """The trees of `models.create(model, …)`, shapes at their leaves."""
  network = models.create(model, num_classes, **overrides)
  size = variants.find(model)['train_image_size']
  images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(
    functools.partial(network.init, is_training=True), key, images
  )


def identify(weights: Weights) -> Weights:
  """Names the network by its root, its number of blocks and its widths."""
  roots = {path.split('/')[0] for path in weights.params}
  if len(roots) != 1 or not roots <= _FAMILIES.keys():
    return weights
  (root,) = roots
  leaves = match.flatten(weights.params)
  blocks = {m for m in weights.params if m.endswith('/~/conv0')}
  head = leaves.get(f'{root}/~/linear/b')
  final = leaves.get(f'{root}/~/final_conv/w')
  for name, row in _FAMILIES[root].items():
    if sum(row['depths']) != len(blocks):
      continue
    if root == 'NFNet' and (
      final is None or 2 * row['widths'][-1] != final.shape[-1]
    ):
      continue
    num_classes = None if head is None else int(head.shape[0])
    return weights._replace(model=name, num_classes=num_classes)
  return weights


_FAMILIES = {
  'NFNet': variants.NFNET,
  'NF_ResNet': variants.NF_RESNET,
  'NF_RegNet': variants.NF_REGNET,
  'ResNet': variants.RESNET,
  'SkipInit_ResNet': variants.SKIPINIT_RESNET,
  'FixUp_ResNet': variants.FIXUP_RESNET,
}


def _read_safetensors(path: pathlib.Path) -> Weights:
  arrays = read_arrays(path)
  with safetensors.safe_open(path, 'numpy') as file:
    metadata = file.metadata() or {}
  return _weights(arrays, metadata.get(_METADATA), path)


def _read_npz(path: pathlib.Path) -> Weights:
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
  except ValueError as error:
    raise ValueError(f'{path}: no .npz of plain arrays: {error}') from error
  metadata = arrays.pop(_METADATA, None)
  return _weights(arrays, None if metadata is None else str(metadata), path)


def _weights(
  arrays: dict[str, np.ndarray], metadata: str | None, path: pathlib.Path
) -> Weights:
  if any('/' not in name for name in arrays):
    raise ValueError(
      f'{path}: its entries are no paths like NFNet/~/stem_conv0/w; if timm '
      'wrote it, convert it with --from=timm'
    )
  params = {p: x for p, x in arrays.items() if not p.startswith(STATE)}
  state = {
    p.removeprefix(STATE): x for p, x in arrays.items() if p not in params
  }
  return Weights(
    match.unflatten(params),
    match.unflatten(state),
    **(json.loads(metadata) if metadata else {}),
  )


def _is_tree(tree: Any) -> bool:
  return isinstance(tree, dict) and all(
    isinstance(module, str)
    and isinstance(leaves, dict)
    and all(
      isinstance(name, str) and isinstance(leaf, np.ndarray)
      for name, leaf in leaves.items()
    )
    for module, leaves in tree.items()
  )


def _array(leaf: Any) -> np.ndarray:
  return np.ascontiguousarray(leaf).reshape(np.shape(leaf))
