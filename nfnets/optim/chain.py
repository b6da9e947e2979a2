"""Every parameter's label, and the published chain that follows from it.

Clipping, then weight decay, then momentum, then the learning rate.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

from nfnets.optim import agc

LABELS = ('gain_or_bias', 'head', 'weight')
CLIPPERS = ('agc', 'norm', 'layer', 'none')

Tree = TypeVar('Tree')


def sgd(
  learning_rate: float | optax.Schedule,
  *,
  momentum: float = 0.9,
  nesterov: bool = True,
  weight_decay: float = 0.0,
  clipping: float | None = None,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
  clip: str = 'agc',
  axes: Mapping[str, Sequence[int]] | None = None,
) -> optax.GradientTransformation:
  """The published optimizer: clip, decay, Nesterov momentum, -learning rate.

  Args:
    learning_rate: a number or a schedule.
    momentum: 0 for none. b <- momentum * b + g.
    nesterov: whether the step is g + momentum * b, or b alone.
    weight_decay: times W, added to the clipped gradients of all but gains and
      biases; coupled with the learning rate.
    clipping: threshold of the clipper, lambda for AGC; None switches it off.
    eps: AGC's floor of the parameters' norms.
    unclipped: who isn't clipped: labels (`LABELS`)
      or patterns searched in the path `module/name`.
    clip: which clipper, one of `CLIPPERS`.
    axes: AGC's units for parameters whose rank doesn't tell them.

  Returns:
    A transformation that labels the parameters by itself; its `update` needs
    `params`.

  Source: Brock, De, Smith and Simonyan 2021, appendix A.1.
  """
  links = [
    clipper(
      'none' if clipping is None else clip, clipping, eps, unclipped, axes
    )
  ]
  # Without decay too, since labelling is what refuses unknown parameters.
  links.append(optax.add_decayed_weights(weight_decay, mask=is_decayed))
  if momentum:
    links.append(optax.trace(momentum, nesterov, jnp.float32))
  links.append(optax.scale_by_learning_rate(learning_rate))
  return optax.chain(*links)


def clipper(
  name: str,
  threshold: float | None,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
  axes: Mapping[str, Sequence[int]] | None = None,
) -> optax.GradientTransformation:
  """The first link of a chain, by the name a config gives it.

  Args:
    name: 'agc'; 'norm', the norm of all clipped gradients together; 'layer',
      the norm of each parameter's gradient; 'none'.
    threshold: lambda for 'agc', the largest norm for 'norm' and 'layer'.
    eps: AGC's floor of the parameters' norms.
    unclipped: as for `sgd`.
    axes: as for `sgd`.

  Raises:
    ValueError: for an unknown name, a threshold that isn't above 0, and, at
      `init`, for an entry of `unclipped` that names nothing.
  """
  if name not in CLIPPERS:
    raise ValueError(f'unknown clipper {name!r}; choose from {CLIPPERS}')
  if name == 'none':
    return optax.identity()
  if threshold is None or not threshold > 0:
    raise ValueError(f'clipping must be above 0 for {name!r}, got {threshold}')
  links = {
    'agc': lambda: agc.adaptive_grad_clip(threshold, eps, axes=axes),
    'norm': lambda: optax.clip_by_global_norm(threshold),
    'layer': lambda: clip_by_layer_norm(threshold),
  }
  unclipped = (unclipped,) if isinstance(unclipped, str) else tuple(unclipped)
  return optax.masked(
    links[name](), lambda params: is_clipped(params, unclipped)
  )


def clip_by_layer_norm(max_norm: float) -> optax.GradientTransformation:
  """Holds the norm of each tensor's gradient at or below `max_norm`."""

  def clip_leaf(grad: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(grad.astype(jnp.float32).ravel())
    clipped = grad * (max_norm / jnp.where(norm == 0, 1.0, norm))
    return jnp.where(norm <= max_norm, grad, clipped.astype(grad.dtype))

  return optax.stateless(lambda updates, _: jax.tree.map(clip_leaf, updates))


def labels(params: Tree) -> Tree:
  """Each parameter's label, in the structure of `params`.

  - `gain_or_bias`: leaves `b`, `scale`, `offset`, and any with `gain` or
    `bias` in its own name. Not decayed; clipped.
  - `head`: `w` of `<root>/~/linear`. Decayed; not clipped by default.
  - `weight`: other leaves `w`, and anything else of rank two or more. Decayed
    and clipped.

  Raises:
    ValueError: for a parameter that no rule covers.
  """
  return jax.tree.map_with_path(
    lambda path, leaf: _label(agc.path_name(path), jnp.ndim(leaf)), params
  )


def is_decayed(params: Tree) -> Tree:
  """Which parameters weight decay applies to."""
  return jax.tree.map(lambda label: label != 'gain_or_bias', labels(params))


def is_clipped(params: Tree, unclipped: Iterable[str] = ('head',)) -> Tree:
  """Which parameters are clipped; `unclipped` as for `sgd`.

  Raises:
    ValueError: for an entry of `unclipped` that names nothing.
  """
  by_label = labels(params)
  excluded = [_selected(params, by_label, entry) for entry in unclipped]
  return jax.tree.map(lambda _, *hits: not any(hits), by_label, *excluded)


def _selected(params: Tree, by_label: Tree, entry: str) -> Tree:
  if entry in LABELS:
    return jax.tree.map(lambda label: label == entry, by_label)
  hits = jax.tree.map_with_path(
    lambda path, _: bool(re.search(entry, agc.path_name(path))), by_label
  )
  if not any(jax.tree.leaves(hits)):
    raise ValueError(
      f'unclipped={entry!r} names no label {LABELS} and its pattern matches '
      'no parameter'
    )
  return hits


def _label(path: str, rank: int) -> str:
  name = path.rpartition('/')[2]
  if name in ('b', 'scale', 'offset') or 'gain' in name or 'bias' in name:
    return 'gain_or_bias'
  if re.fullmatch(r'[^/]+/~/linear/w', path):
    return 'head'
  if name == 'w' or rank >= 2:
    return 'weight'
  raise ValueError(
    f'no label for parameter {path} of rank {rank}: rename it (gain, bias, '
    'w) or extend nfnets.optim.chain.labels'
  )
