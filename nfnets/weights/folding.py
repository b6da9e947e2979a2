"""Folds weight standardization and gains into plain weights, for inference."""

import math
from typing import Any

import numpy as np

from nfnets import models
from nfnets.weights import files, match


def fold(
  params: match.Tree, ws_eps: str = 'published'
) -> dict[str, dict[str, np.ndarray]]:
  """Replaces each convolution's `w`, `gain` and `bias` by a plain `w` and `b`.

  With them `models.create(model, ..., folded=True)`, or any network within
  `layers.folded`, computes the same function. They are for inference only:
  training them would train another network.

  Args:
    params: of any network of `layers.WSConv2D`, float32; not modified.
    ws_eps: the network's.

  Raises:
    ValueError: no convolution has a gain.
  """
  leaves = match.flatten(params)
  convs = {p.removesuffix('/gain') for p in leaves if p.endswith('/gain')}
  if not convs:
    raise ValueError(
      'no convolution has a gain: the network is not normalizer-free, or its '
      'weights are folded already'
    )
  out = {}
  for path, leaf in leaves.items():
    module, _, name = path.rpartition('/')
    if module not in convs:
      out[path] = np.array(leaf)
    elif name == 'w':
      out[path] = standardize(leaf, leaves[f'{module}/gain'], ws_eps)
    elif name == 'bias':
      out[f'{module}/b'] = np.array(leaf)
  return match.unflatten(out)


def fold_weights(weights: files.Weights) -> files.Weights:
  """Applies `fold` to `Weights`, whose overrides then have folded=True."""
  arguments = models.arguments(weights.model, **weights.overrides)
  params = fold(weights.params, arguments.get('ws_eps', 'published'))
  overrides = {**weights.overrides, 'folded': True}
  return weights._replace(params=params, overrides=overrides)


def fold_if_possible(weights: files.Weights) -> files.Weights:
  """`fold_weights`, or the same weights if they have no gains to fold."""
  has_gains = any('gain' in leaves for leaves in weights.params.values())
  return fold_weights(weights) if has_gains else weights


def standardize(w: Any, gain: Any, eps: str) -> np.ndarray:
  """`layers.standardize` in NumPy and double precision."""
  w = np.asarray(w, np.float64)
  fan_in = math.prod(w.shape[:3])
  mean = w.mean((0, 1, 2), keepdims=True)
  var = w.var((0, 1, 2), keepdims=True) * fan_in
  var = var + 1e-5 * fan_in if eps == 'timm' else np.maximum(var, 1e-4)
  return ((w - mean) / np.sqrt(var) * np.asarray(gain)).astype(np.float32)
