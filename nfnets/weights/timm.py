"""Converts parameters between timm's normalizer-free networks and ours.

Names and layouts (`[O, I, kh, kw]` there, `[kh, kw, I, O]` here) differ, and
for all but the dm_nfnets so do the places of gamma and of skip gains. The
networks of `variants.TIMM` then compute the same functions.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nfnets import models, variants
from nfnets.models import activations
from nfnets.weights import files, match

_CONVS = {
  'conv0': 'conv1',
  'conv1': 'conv2',
  'conv1b': 'conv2b',
  'conv2': 'conv3',
  'conv_shortcut': 'downsample.conv',
}
_CONV_LEAVES = {'w': 'weight', 'gain': 'gain', 'bias': 'bias'}
_LINEAR_LEAVES = {'w': 'weight', 'b': 'bias'}
# Our names of the network and its blocks, and timm's of a block's attention.
_FAMILIES = {
  **dict.fromkeys(
    variants.NFNET | variants.TIMM_NFNET, ('NFNet', 'nf_block', 'attn_last')
  ),
  **dict.fromkeys(
    variants.NF_RESNET | variants.TIMM_NF_RESNET,
    ('NF_ResNet', 'nf_res_block', 'attn_last'),
  ),
  **dict.fromkeys(
    variants.NF_REGNET | variants.TIMM_NF_REGNET,
    ('NF_RegNet', 'nf_block', 'attn'),
  ),
}


def to_timm(
  params: match.Tree, name: str, depths: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
  """Converts our parameters to timm's `state_dict`.

  Args:
    params: of timm's network `name`, or of a published one that differs by
      `changes`.
    name: timm's, such as 'dm_nfnet_f0'.
    depths: blocks per stage, if other than in `variants`.

  Returns:
    float32 arrays by timm's names.

  Raises:
    ValueError: timm's network lacks parameters, which are named.
  """
  name = known(name)
  leaves = {p: np.asarray(x) for p, x in match.flatten(params).items()}
  if not _is_published(name):
    leaves = _absorb_skip_gains(leaves, _FAMILIES[name][2] == 'attn_last')
    leaves = _move_gamma(leaves, name, into_weights=True)
  names = _names(name, depths)
  unknown = sorted(leaves.keys() - names.keys())
  if unknown:
    raise ValueError(f'{name} has no place for: {", ".join(unknown)}')
  return {names[p]: _to_torch(p, leaf) for p, leaf in leaves.items()}


def from_timm(
  state_dict: Mapping[str, np.ndarray],
  name: str,
  depths: Sequence[int] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
  """Converts timm's `state_dict` to parameters of the network `name` here.

  Args:
    state_dict: arrays by timm's names.
    name, depths: as for `to_timm`.

  Raises:
    ValueError: the network lacks entries, which are named.
  """
  name = known(name)
  paths = {theirs: ours for ours, theirs in _names(name, depths).items()}
  unknown = sorted(state_dict.keys() - paths.keys())
  if unknown:
    raise ValueError(f'{name} has no place for: {", ".join(unknown)}')
  leaves = {
    paths[key]: _from_torch(paths[key], np.asarray(value))
    for key, value in state_dict.items()
  }
  if not _is_published(name):
    leaves = _move_gamma(leaves, name, into_weights=False)
  return match.unflatten(leaves)


def known(name: str) -> str:
  """The key of `variants.TIMM` for timm's name, with or without 'timm/'.

  Raises:
    ValueError: it is unknown.
  """
  for key in (f'timm/{name}', name, variants.canonical(name)):
    if key in variants.TIMM:
      return key
  raise ValueError(
    f'no timm network {name!r} known here: {", ".join(variants.TIMM)}'
  )


def name_of(model: str, overrides: Mapping[str, Any] | None = None) -> str:
  """The timm network of the same sizes that differs in fewest arguments.

  Args:
    model: a name of `variants.ALL`.
    overrides: of its arguments.

  Raises:
    ValueError: timm has no network of these sizes.
  """
  if variants.canonical(model) in variants.TIMM:
    return known(model)
  row, overrides = variants.find(model), overrides or {}
  names = [
    name
    for name, other in variants.TIMM.items()
    if _FAMILIES[name] == _FAMILIES.get(model)
    and (other['depths'], other['widths']) == (row['depths'], row['widths'])
  ]
  if not names:
    raise ValueError(f'timm has no {model}')
  return min(names, key=lambda name: len(changes(name, model, overrides)))


def changes(
  name: str, model: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
  """The arguments to change so that a network computes the same as timm's.

  Args:
    name: of timm's network.
    model: of the other network, which has the same parameters.
    overrides: of its arguments.

  Returns:
    Those arguments with timm's values.
  """
  ours = models.arguments(model, **overrides)
  theirs = models.arguments(known(name))
  return {
    key: theirs[key]
    for key in models.own_arguments(known(name))
    if key != 'skipinit_gain' and ours[key] != theirs[key]
  }


def guess(state_dict: Mapping[str, np.ndarray]) -> str:
  """The name of the timm network whose blocks have these entries and sizes.

  Raises:
    ValueError: there is none.
  """
  blocks = {m[0] for m in map(_BLOCK.match, state_dict) if m}
  depths = tuple(
    len({b for b in blocks if b.startswith(f'stages.{stage}.')})
    for stage in range(4)
  )
  body = {key: np.size(x) for key, x in state_dict.items() if _BLOCK.match(key)}
  for name, row in variants.TIMM.items():
    if row['depths'] == depths and body == _block_sizes(name):
      return name
  raise ValueError(
    f'no timm network known here has these weights, in stages of {depths} '
    'blocks; name it with model=NAME, or --model=NAME of scripts.convert'
  )


def _block_sizes(name: str) -> dict[str, int]:
  """The number of elements of each of timm's entries that is in a block."""
  params, _ = files.shapes(name, 0)
  names = _names(name)
  return {
    names[path]: math.prod(leaf.shape)
    for path, leaf in match.flatten(params).items()
    if _BLOCK.match(names[path])
  }


_BLOCK = re.compile(r'stages\.\d+\.\d+\.')


def _is_published(name: str) -> bool:
  """Whether gamma and skip gains are where the published networks have them.

  timm's other networks have gamma in each convolution instead of after each
  activation, and no skip gains.
  """
  return name.startswith('dm_')


def _names(name: str, depths: Sequence[int] | None = None) -> dict[str, str]:
  """timm's names `{path: name}` of all parameters that a network may have."""
  root, block, attention = _FAMILIES[name]
  convs = {f'stem_conv{n}': f'stem.conv{n + 1}' for n in range(4)}
  convs |= {'initial_conv': 'stem.conv', 'final_conv': 'final_conv'}
  linears = {'linear': 'head.fc'}
  names = {}
  index = 0
  for stage, depth in enumerate(depths or variants.find(name)['depths']):
    for number in range(depth):
      ours = f'{block}_{index}' if index else block
      theirs = f'stages.{stage}.{number}'
      names[f'{root}/~/{ours}/skip_gain'] = f'{theirs}.skipinit_gain'
      for conv, timm_conv in _CONVS.items():
        convs[f'{ours}/~/{conv}'] = f'{theirs}.{timm_conv}'
      gate = f'{ours}/~/squeeze_excite/~'
      linears[f'{gate}/linear'] = f'{theirs}.{attention}.fc1'
      linears[f'{gate}/linear_1'] = f'{theirs}.{attention}.fc2'
      kernel = f'{root}/~/{ours}/~/channel_attention/w'
      names[kernel] = f'{theirs}.{attention}.conv.weight'
      index += 1
  for modules, leaves in ((convs, _CONV_LEAVES), (linears, _LINEAR_LEAVES)):
    for (ours, theirs), (leaf, timm_leaf) in itertools.product(
      modules.items(), leaves.items()
    ):
      names[f'{root}/~/{ours}/{leaf}'] = f'{theirs}.{timm_leaf}'
  return names


def _to_torch(path: str, leaf: np.ndarray) -> np.ndarray:
  leaf = leaf.astype(np.float32, copy=False)
  if 'squeeze_excite' in path and leaf.ndim == 2:
    leaf = leaf.T[:, :, None, None]
  elif leaf.ndim in (2, 3):  # a matrix, or ECA's kernel
    leaf = leaf.T
  elif leaf.ndim == 4:
    leaf = leaf.transpose(3, 2, 0, 1)
  elif path.endswith('/gain'):
    leaf = leaf[:, None, None, None]
  return np.ascontiguousarray(leaf).reshape(leaf.shape)


def _from_torch(path: str, leaf: np.ndarray) -> np.ndarray:
  leaf = leaf.astype(np.float32, copy=False)
  if path.endswith('/gain'):
    leaf = leaf.reshape(-1)
  elif 'squeeze_excite' in path and leaf.ndim == 4:
    leaf = leaf[:, :, 0, 0].T
  elif leaf.ndim in (2, 3):
    leaf = leaf.T
  elif leaf.ndim == 4:
    leaf = leaf.transpose(2, 3, 1, 0)
  return np.ascontiguousarray(leaf).reshape(leaf.shape)


def _absorb_skip_gains(
  leaves: dict[str, np.ndarray], gates_last: bool
) -> dict[str, np.ndarray]:
  """Multiplies the skip gain g into its branch's last convolution.

  g (gain w_hat * x + b) = (g gain) w_hat * x + g b. A gate after that
  convolution (`gates_last`) reads its output: its first layer is divided by g.
  """
  out = dict(leaves)
  for path in [p for p in leaves if p.endswith('/skip_gain')]:
    skip_gain = out.pop(path)
    inside = path.removesuffix('skip_gain') + '~'
    for name in ('gain', 'bias'):
      leaf = f'{inside}/conv2/{name}'
      out[leaf] = leaves[leaf] * skip_gain
    for gate in ('squeeze_excite/~/linear', 'channel_attention'):
      first = f'{inside}/{gate}/w'
      if gates_last and first in leaves and abs(skip_gain) > 1e-30:
        out[first] = leaves[first] / skip_gain
  return out


def _move_gamma(
  leaves: dict[str, np.ndarray], name: str, into_weights: bool
) -> dict[str, np.ndarray]:
  """Moves gamma into the weights where only one network multiplies by it.

  timm multiplies in every convolution, we after every activation. That is the
  same where a convolution follows an activation; a convolution that follows
  none has one factor too many in timm, and the head one too few.
  """
  gamma = activations.GAMMAS[models.arguments(name)['activation']]
  factor = gamma if into_weights else 1 / gamma
  out = dict(leaves)
  for path, leaf in leaves.items():
    if re.search(r'/(stem_conv0|initial_conv|final_conv)/gain$', path):
      out[path] = leaf / np.float32(factor)
    elif re.fullmatch(r'[^/]+/~/linear/w', path):
      out[path] = leaf * np.float32(factor)
  return out
