"""Bakes what inference need not compute again into plain weights.

A normalizer-free network multiplies by constants everywhere: standardized
weights by their gains, activations by gamma, a block's input by 1 / expected
std, its branch by alpha and the skip gain, squeeze-excite's gate by 2. All of
them are linear in some convolution's weights.
"""

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

import haiku as hk
import numpy as np

from nfnets import models, variants
from nfnets.models import activations, stages
from nfnets.weights import files, match

# Below it a branch changes no float32 sum; dividing by it would overflow.
_NOTHING = 1e-30


def fold(
  params: match.Tree, model: str | None = None, **overrides: Any
) -> dict[str, dict[str, np.ndarray]]:
  """A new tree that `models.create(model, ..., folded=True)` runs.

  Its logits and stage outputs are those of the network as it was; its 'pool' is
  smaller by the activation's gamma, which the head's weight took over. Such
  weights are for inference: training them would be training another network.

  Args:
    params: float32 leaves; left as they are.
    model: a name of `variants.ALL`; None to tell it from the tree.
    **overrides: those the network was made with.

  Raises:
    ValueError: where the network isn't a normalizer-free one.
  """
  if model is None:
    model = files.identify(files.Weights(params, {})).model
    if model is None:
      raise ValueError('of which network are these parameters? Pass its name')
  arguments = _arguments(model, overrides)
  if arguments.get('folded'):
    raise ValueError(f'{model}: these weights are folded already')
  if not _is_normalizer_free(arguments):
    raise ValueError(f'{model} is not normalizer-free: nothing to fold')
  gamma = activations.GAMMAS[arguments['activation']]
  depths = arguments.get('depths', variants.find(model)['depths'])
  stds = stages.expected_stds(tuple(depths), arguments['alpha'])
  leaves = _standardized(match.flatten(params), arguments['ws_eps'])
  _scale_inputs(leaves, gamma, [std for stage in stds for std in stage])
  calls = _calls(model, overrides)
  _scale_branches(leaves, arguments['alpha'], calls)
  return match.unflatten(leaves)


def fold_weights(weights: files.Weights) -> files.Weights:
  """`fold` for a file's content, which then says that it is folded."""
  params = fold(weights.params, weights.model, **weights.overrides)
  overrides = {**weights.overrides, 'folded': True}
  return weights._replace(params=params, overrides=overrides)


def can_fold(weights: files.Weights) -> bool:
  """Whether `fold_weights` takes these weights."""
  arguments = _arguments(weights.model, weights.overrides)
  return _is_normalizer_free(arguments) and not arguments['folded']


def _is_normalizer_free(arguments: Mapping[str, Any]) -> bool:
  return arguments.get('normalizer', 'nf') == 'nf' and 'ws_eps' in arguments


def _arguments(model: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
  """All arguments of the family's network, defaults filled in."""
  network = models.network_class(model)
  parameters = inspect.signature(network.__init__).parameters
  defaults = {
    name: parameter.default
    for name, parameter in parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
  }
  return defaults | dict(overrides)


def _standardized(leaves: Mapping[str, Any], eps: str) -> dict[str, np.ndarray]:
  """Each convolution's `w`, `gain`, `bias` as plain `w`, `b`."""
  out = {}
  for path, leaf in leaves.items():
    module, _, name = path.rpartition('/')
    if f'{module}/gain' not in leaves:
      out[path] = np.array(leaf)
    elif name == 'w':
      out[path] = standardize(leaf, leaves[f'{module}/gain'], eps)
    elif name == 'bias':
      out[f'{module}/b'] = np.array(leaf)
  return out


def standardize(w: Any, gain: Any, eps: str) -> np.ndarray:
  """`layers.standardize` in double precision on the host, nothing compiled."""
  w = np.asarray(w, np.float64)
  fan_in = math.prod(w.shape[:3])
  mean = w.mean((0, 1, 2), keepdims=True)
  var = w.var((0, 1, 2), keepdims=True) * fan_in
  var = var + 1e-5 * fan_in if eps == 'timm' else np.maximum(var, 1e-4)
  return ((w - mean) / np.sqrt(var) * np.asarray(gain)).astype(np.float32)


def _scale_inputs(
  leaves: dict[str, np.ndarray], gamma: float, stds: list[float]
) -> None:
  """conv(gamma / s * f(x), w) = conv(f(x), gamma / s * w), in place."""
  for path in leaves:
    module, _, name = path.rpartition('/')
    layer = module.rpartition('/')[2]
    # The gate's linears and these three layers read no activation.
    if name != 'w' or 'squeeze_excite' in module:
      continue
    if layer in ('initial_conv', 'stem_conv0', 'final_conv'):
      continue
    scale = gamma
    if layer in ('conv0', 'conv_shortcut'):
      scale /= stds[int(re.search(r'block(?:_(\d+))?/', path)[1] or 0)]
    leaves[path] *= np.float32(scale)


def _calls(model: str, overrides: Mapping[str, Any]) -> list[str]:
  """The paths of a network's modules, in the order in which they are called."""
  paths = []

  def record(function, args, kwargs, context):  # noqa: ANN001, ANN202
    if context.method_name == '__call__':
      paths.append(context.module.module_name)
    return function(*args, **kwargs)

  with hk.intercept_methods(record):
    files.shapes(model, 1, **overrides)
  return paths


def _scale_branches(
  leaves: dict[str, np.ndarray], alpha: float, calls: list[str]
) -> None:
  """alpha g conv(x, w) = conv(x, alpha g w), in place; the gates' 2 too."""
  for path in [p for p in leaves if p.endswith('/skip_gain')]:
    block = path.removesuffix('/skip_gain')
    gate = f'{block}/~/squeeze_excite'
    inside = [c for c in calls if c.startswith(f'{block}/~/')]
    convs = [c for c in dict.fromkeys(inside) if f'{c}/w' in leaves]
    convs = [c for c in convs if not c.startswith((gate, f'{block}/~/conv_s'))]
    factors = dict.fromkeys(convs, 1.0)
    factors[convs[-1]] = alpha * float(leaves.pop(path))
    if gate in inside:
      before = inside[: inside.index(gate)]
      gated = next(c for c in reversed(before) if c in convs)
      factors[gated] *= 2
      # The gate is computed from what it multiplies.
      if abs(factors[gated]) > _NOTHING:
        leaves[f'{gate}/~/linear/w'] /= np.float32(factors[gated])
    for conv, factor in factors.items():
      for name in ('w', 'b'):
        leaves[f'{conv}/{name}'] *= np.float32(factor)
