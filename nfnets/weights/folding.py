"""Standardizes a network's weights once, for inference."""

import math
from typing import Any

import numpy as np

from nfnets import models
from nfnets.weights import files, match


def fold(
  params: match.Tree, ws_eps: str = 'published'
) -> dict[str, dict[str, np.ndarray]]:
  """A new tree that the network runs within `layers.folded`.

  Every convolution's `w`, `gain` and `bias` become a plain `w` and `b`, so that
  `models.create(model, ..., folded=True)` computes what the network as it was
  does. Such weights are for inference: training them would be training another
  network.

  Args:
    params: of any network of `layers.WSConv2D`, float32; left as they are.
    ws_eps: the network's.

  Raises:
    ValueError: where nothing has a gain.
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
  """`fold` for a file's content, which then says that it is folded."""
  arguments = models.arguments(weights.model, **weights.overrides)
  params = fold(weights.params, arguments.get('ws_eps', 'published'))
  overrides = {**weights.overrides, 'folded': True}
  return weights._replace(params=params, overrides=overrides)


def fold_if_possible(weights: files.Weights) -> files.Weights:
  """`fold_weights` where it takes them, else the weights as they are."""
  return fold_weights(weights) if can_fold(weights) else weights


def can_fold(weights: files.Weights) -> bool:
  """Whether `fold_weights` takes these weights."""
  return any('gain' in leaves for leaves in weights.params.values())


def standardize(w: Any, gain: Any, eps: str) -> np.ndarray:
  """`layers.standardize` in double precision on the host, nothing compiled."""
  w = np.asarray(w, np.float64)
  fan_in = math.prod(w.shape[:3])
  mean = w.mean((0, 1, 2), keepdims=True)
  var = w.var((0, 1, 2), keepdims=True) * fan_in
  var = var + 1e-5 * fan_in if eps == 'timm' else np.maximum(var, 1e-4)
  return ((w - mean) / np.sqrt(var) * np.asarray(gain)).astype(np.float32)
