"""Every parameter's label, and the published chain that follows from it.

Clipping, then weight decay, then momentum, then the learning rate.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from nfnets.optim import agc, groups
from nfnets.optim.groups import labels

CLIPPERS = ('agc', 'norm', 'layer', 'none')
DECAYED = ('weights', 'all')

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
  axes: agc.Axes | None = None,
  decayed: str = 'weights',
) -> optax.GradientTransformation:
  """The published optimizer: clip, decay, Nesterov momentum, -learning rate.

  Args:
    learning_rate: a number or a schedule.
    momentum: 0 for none. b <- momentum * b + g.
    nesterov: whether the step is g + momentum * b, or b alone.
    weight_decay: times W, added to the clipped gradients of what `decayed`
      says; coupled with the learning rate.
    clipping: threshold of the clipper, lambda for AGC; None switches it off.
    eps: AGC's floor of the parameters' norms.
    unclipped: who isn't clipped: labels, places such as 'stem' and 'stage_1',
      or patterns, as `groups.select` reads them.
    clip: which clipper, one of `CLIPPERS`.
    axes: AGC's units for parameters whose rank doesn't tell them.
    decayed: 'weights' for all but gains and biases; 'all', as He et al. (2015)
      decay.

  Returns:
    A transformation that labels the parameters by itself; its `update` needs
    `params`.

  Source: Brock, De, Smith and Simonyan 2021, appendix A.1.
  """
  if decayed not in DECAYED:
    raise ValueError(f'unknown decayed {decayed!r}; choose from {DECAYED}')
  links = [
    clipper(
      'none' if clipping is None else clip, clipping, eps, unclipped, axes
    )
  ]
  # Without decay too, since labelling is what refuses unknown parameters.
  links.append(
    optax.add_decayed_weights(
      weight_decay, mask=lambda params: is_decayed(params, decayed)
    )
  )
  if momentum:
    links.append(optax.trace(momentum, nesterov, jnp.float32))
  links.append(optax.scale_by_learning_rate(learning_rate))
  return optax.chain(*links)


def clipper(
  name: str,
  threshold: float | None,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
  axes: agc.Axes | None = None,
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

  @jax.jit
  def clip_leaf(grad: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(grad.astype(jnp.float32).ravel())
    clipped = grad * (max_norm / jnp.where(norm == 0, 1.0, norm))
    return jnp.where(norm <= max_norm, grad, clipped.astype(grad.dtype))

  return optax.stateless(lambda updates, _: jax.tree.map(clip_leaf, updates))


def is_decayed(params: Tree, decayed: str = 'weights') -> Tree:
  """Which parameters weight decay applies to; `decayed` as for `sgd`."""
  return jax.tree.map(
    lambda label: decayed == 'all' or label != 'gain_or_bias', labels(params)
  )


def is_clipped(params: Tree, unclipped: Iterable[str] = ('head',)) -> Tree:
  """Which parameters are clipped; `unclipped` as for `sgd`.

  Raises:
    ValueError: for an entry of `unclipped` that names nothing.
  """
  return jax.tree.map(lambda hit: not hit, groups.select(params, unclipped))


def audit(
  params: Tree,
  *,
  learning_rate: float,
  weight_decay: float = 0.0,
  clipping: float | None = None,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
  clip: str = 'agc',
  axes: agc.Axes | None = None,
  decayed: str = 'weights',
) -> list[dict[str, Any]]:
  """Who is treated how: one row per group of parameters treated alike.

  Args:
    params: parameters, or their shapes.
    learning_rate: its peak, for the table.
    weight_decay: this and the rest as for `sgd`.

  Returns:
    Rows with the keys `label`, `tensors`, `parameters`, `units` (of AGC; what
    has no known units counts as 0), `weight_decay`, `clip`, `clipping` (None
    if off), `learning_rate` and `paths`. Each parameter's path is in exactly
    one of them.
  """
  is_on = clip != 'none' and clipping is not None
  trees = (
    params,
    labels(params),
    is_decayed(params, decayed),
    is_clipped(params, unclipped),
  )
  rows: dict[tuple, dict[str, Any]] = {}
  leaves, _ = jax.tree.flatten_with_path(params)
  for (path, leaf), *facts in zip(leaves, *map(jax.tree.leaves, trees[1:])):
    label, has_decay, clipped = facts
    clipped = clipped and is_on
    row = rows.setdefault(
      (label, has_decay, clipped),
      {
        'label': label,
        'tensors': 0,
        'parameters': 0,
        'units': 0,
        'weight_decay': weight_decay if has_decay else 0.0,
        'clip': clip if clipped else 'none',
        'clipping': clipping if clipped else None,
        'eps': eps if clipped and clip == 'agc' else None,
        'learning_rate': learning_rate,
        'paths': [],
      },
    )
    name = groups.path_name(path)
    row['tensors'] += 1
    row['parameters'] += math.prod(leaf.shape)
    if clipped and clip == 'agc':
      row['units'] += agc.count_units(leaf.shape, name, axes)
    row['paths'].append(name)
  return [rows[key] for key in sorted(rows)]


def format_audit(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows of `audit` as a table, with a line of totals."""
  table = [
    (
      'group',
      'tensors',
      'parameters',
      'decay',
      'clipping',
      'units',
      'learning rate',
      'for example',
    )
  ]
  for row in rows:
    clipping = 'none'
    if row['clipping'] is not None:
      clipping = f'{row["clip"]} {row["clipping"]:g}'
    table.append(
      (
        row['label'],
        f'{row["tensors"]:,}',
        f'{row["parameters"]:,}',
        f'{row["weight_decay"]:g}',
        clipping,
        f'{row["units"]:,}' if row['units'] else '-',
        f'{row["learning_rate"]:g}',
        row['paths'][0],
      )
    )
  tensors, parameters, units = (
    f'{sum(row[key] for row in rows):,}'
    for key in ('tensors', 'parameters', 'units')
  )
  table.append(('all', tensors, parameters, '', '', units, '', ''))
  widths = [max(map(len, column)) for column in zip(*table)]
  lines = []
  for cells in table:
    first, *middle, last = (
      cell.ljust(width) if index in (0, 7) else cell.rjust(width)
      for index, (cell, width) in enumerate(zip(cells, widths))
    )
    lines.append('  '.join((first, *middle, last)).rstrip())
  return '\n'.join(lines)
