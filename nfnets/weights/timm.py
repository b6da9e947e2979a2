"""timm's normalizer-free networks to our parameter trees, and back.

Names, layouts (`[O, I, kh, kw]` there, `[kh, kw, I, O]` here) and the places of
constants differ; the functions are equal once a network is made with the
overrides of `PEERS`.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nfnets import variants
from nfnets.models import activations
from nfnets.weights import match


class Peer(NamedTuple):
  """How a network of timm is made here.

  `model` and `overrides` are what `nfnets.models.create` takes.
  `scales_weights`: timm puts gamma into each convolution, not behind each
  activation, and has no skip gain. `data` is how timm prepares images for it,
  where that differs from the model's own way.
  """

  model: str
  overrides: dict[str, Any]
  activation: str
  scales_weights: bool = True
  data: dict[str, Any] = {}


# Facts of timm/models/nfnet.py; PAPER_FACTS has the line numbers in section 4,
# of the test sizes and crops its `default_cfgs`.
_SCALED = {'ws_eps': 'timm', 'padding': 'symmetric'}
_GELU = {'activation': 'gelu_erf'}
_CENTER = {'eval_preprocessing': 'crop_resize'}
_REGNET_SIZES = (256, 288, 272, 320, 384, 456)
PEERS = {
  f'dm_nfnet_f{n}': Peer(
    f'nfnet_f{n}', _GELU | {'ws_eps': 'timm'}, 'gelu_erf', False
  )
  for n in range(7)
}
PEERS |= {
  f'nfnet_f{n}': Peer(f'nfnet_f{n}', _SCALED | _GELU, 'gelu_erf', True, _CENTER)
  for n in range(8)
}
PEERS |= {
  f'nf_resnet{n}': Peer(
    f'nf_resnet_{n}', _SCALED | {'pool_shortcut': True}, 'relu', True, data
  )
  for n, data in (
    (50, {'eval_image_size': 288, 'eval_preprocessing': 'crop_resize_94'}),
    (101, {}),
  )
}
PEERS |= {
  f'nf_regnet_b{n}': Peer(
    f'nf_regnet_b{n}',
    _SCALED | {'channel_divisor': 8},
    'silu',
    True,
    {'eval_image_size': size},
  )
  for n, size in enumerate(_REGNET_SIZES)
}

_CONVS = {
  'conv0': 'conv1',
  'conv1': 'conv2',
  'conv1b': 'conv2b',
  'conv2': 'conv3',
  'conv_shortcut': 'downsample.conv',
}
_CONV_LEAVES = {'w': 'weight', 'gain': 'gain', 'bias': 'bias'}
_LINEAR_LEAVES = {'w': 'weight', 'b': 'bias'}
# Root, block and timm's gate, by family.
_PARTS = {
  'nfnet': ('NFNet', 'nf_block', 'attn_last'),
  'nf_regnet': ('NF_RegNet', 'nf_block', 'attn'),
  'nf_resnet': ('NF_ResNet', 'nf_res_block', 'attn'),
}


def to_timm(params: match.Tree, name: str) -> dict[str, np.ndarray]:
  """Our parameters as timm's `state_dict`.

  Args:
    params: of the network `PEERS[name].model`.
    name: of timm's network, such as 'dm_nfnet_f0'.

  Returns:
    float32 arrays by timm's names.

  Raises:
    ValueError: naming every parameter that timm's network lacks.
  """
  peer = peer_of(name)
  leaves = {p: np.asarray(x) for p, x in match.flatten(params).items()}
  if peer.scales_weights:
    leaves = _absorb_skip_gains(leaves, peer.model in variants.NFNET)
    leaves = _move_gamma(leaves, peer, into_weights=True)
  names = _names(peer)
  unknown = sorted(leaves.keys() - names.keys())
  if unknown:
    raise ValueError(f'{name} has no place for: {", ".join(unknown)}')
  return {names[p]: _to_torch(p, leaf) for p, leaf in leaves.items()}


def from_timm(
  state_dict: Mapping[str, np.ndarray], name: str
) -> dict[str, dict[str, np.ndarray]]:
  """timm's `state_dict` as parameters of `PEERS[name].model`.

  Args:
    state_dict: arrays by timm's names.
    name: of timm's network.

  Raises:
    ValueError: naming every entry that our network lacks.
  """
  peer = peer_of(name)
  paths = {theirs: ours for ours, theirs in _names(peer).items()}
  unknown = sorted(state_dict.keys() - paths.keys())
  if unknown:
    raise ValueError(f'{peer.model} has no place for: {", ".join(unknown)}')
  leaves = {
    paths[key]: _from_torch(paths[key], np.asarray(value))
    for key, value in state_dict.items()
  }
  if peer.scales_weights:
    for path in [p for p in leaves if p.endswith('/~/conv0/gain')]:
      block = path.removesuffix('/~/conv0/gain')
      leaves[f'{block}/skip_gain'] = np.ones((), np.float32)
    leaves = _move_gamma(leaves, peer, into_weights=False)
  return match.unflatten(leaves)


def name_of(model: str, overrides: Mapping[str, Any] | None = None) -> str:
  """timm's network that a network of ours is nearest to.

  Args:
    model: a name of `variants.ALL`.
    overrides: of ours; the nearest of timm's networks of this model is the one
      that differs in the fewest.

  Raises:
    ValueError: where timm has none.
  """
  names = [name for name, peer in PEERS.items() if peer.model == model]
  if not names:
    raise ValueError(f'timm has no {model}')
  ours = overrides or {}

  def distance(name: str) -> int:
    theirs = PEERS[name].overrides
    return sum(ours.get(k) != theirs.get(k) for k in {*ours, *theirs})

  return min(names, key=distance)


def differences(name: str, overrides: Mapping[str, Any]) -> list[str]:
  """Where timm's network computes another function of the same weights.

  Args:
    name: of timm's network.
    overrides: of ours.

  Returns:
    A line per argument of ours that would have to change.
  """
  return [
    f"timm's {name} is this network with {key}={value!r}"
    for key, value in peer_of(name).overrides.items()
    if overrides.get(key) != value
  ]


def guess(state_dict: Mapping[str, np.ndarray]) -> str:
  """The name of timm's network by its numbers of blocks.

  Raises:
    ValueError: where no network of `PEERS` looks like that.
  """
  blocks = {m[0] for m in map(_BLOCK.match, state_dict) if m}
  depths = tuple(
    len({b for b in blocks if b.startswith(f'stages.{stage}.')})
    for stage in range(4)
  )
  is_scaled = not any(key.endswith('skipinit_gain') for key in state_dict)
  for name, peer in PEERS.items():
    own = variants.find(peer.model)['depths']
    if peer.scales_weights == is_scaled and own == depths:
      return name
  raise ValueError(
    f'no network of timm known here has stages of {depths} blocks; name it '
    f'with --timm, one of: {", ".join(PEERS)}'
  )


_BLOCK = re.compile(r'stages\.\d+\.\d+\.')


def peer_of(name: str) -> Peer:
  """How timm's network of this name is made here.

  Raises:
    ValueError: it isn't known here.
  """
  if name not in PEERS:
    raise ValueError(
      f'no network of timm {name!r} known here: {", ".join(PEERS)}'
    )
  return PEERS[name]


def _names(peer: Peer) -> dict[str, str]:
  """timm's name of every parameter path that a network may have."""
  root, block, attention = _PARTS[re.sub(r'_?\w\d+$', '', peer.model)]
  convs = {f'stem_conv{n}': f'stem.conv{n + 1}' for n in range(4)}
  convs |= {'initial_conv': 'stem.conv', 'final_conv': 'final_conv'}
  linears = {'linear': 'head.fc'}
  names = {}
  index = 0
  for stage, depth in enumerate(variants.find(peer.model)['depths']):
    for number in range(depth):
      ours = f'{block}_{index}' if index else block
      theirs = f'stages.{stage}.{number}'
      names[f'{root}/~/{ours}/skip_gain'] = f'{theirs}.skipinit_gain'
      for conv, timm_conv in _CONVS.items():
        convs[f'{ours}/~/{conv}'] = f'{theirs}.{timm_conv}'
      gate = f'{ours}/~/squeeze_excite/~'
      linears[f'{gate}/linear'] = f'{theirs}.{attention}.fc1'
      linears[f'{gate}/linear_1'] = f'{theirs}.{attention}.fc2'
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
  elif leaf.ndim == 2:
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
  elif leaf.ndim == 2:
    leaf = leaf.T
  elif leaf.ndim == 4:
    leaf = leaf.transpose(2, 3, 1, 0)
  return np.ascontiguousarray(leaf).reshape(leaf.shape)


def _absorb_skip_gains(
  leaves: dict[str, np.ndarray], gates_last: bool
) -> dict[str, np.ndarray]:
  """g (gain w_hat * x + b) = (g gain) w_hat * x + g b, in the last conv.

  A gate behind that convolution (`gates_last`) is computed from what it
  multiplies, so its first layer has to undo g.
  """
  out = dict(leaves)
  for path in [p for p in leaves if p.endswith('/skip_gain')]:
    skip_gain = out.pop(path)
    inside = path.removesuffix('skip_gain') + '~'
    for name in ('gain', 'bias'):
      leaf = f'{inside}/conv2/{name}'
      out[leaf] = leaves[leaf] * skip_gain
    gate = f'{inside}/squeeze_excite/~/linear/w'
    if gates_last and gate in leaves and abs(skip_gain) > 1e-30:
      out[gate] = leaves[gate] / skip_gain
  return out


def _move_gamma(
  leaves: dict[str, np.ndarray], peer: Peer, into_weights: bool
) -> dict[str, np.ndarray]:
  """Accounts for gamma where only one of the two networks multiplies by it.

  timm's every convolution has it, ours every activation. Between an activation
  and a convolution that is the same; a convolution without activation before it
  has one too many there, the head one too few.
  """
  gamma = activations.GAMMAS[peer.activation]
  factor = gamma if into_weights else 1 / gamma
  out = dict(leaves)
  for path, leaf in leaves.items():
    if re.search(r'/(stem_conv0|initial_conv|final_conv)/gain$', path):
      out[path] = leaf / np.float32(factor)
    elif re.fullmatch(r'[^/]+/~/linear/w', path):
      out[path] = leaf * np.float32(factor)
  return out
