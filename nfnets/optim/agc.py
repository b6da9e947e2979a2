"""Adaptive gradient clipping, as a link for any optax chain.

Each unit of a weight tensor, that is all the weights that feed one output,
has its gradient's norm held below a fraction of its own norm.
"""

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from nfnets import stacks

# One pattern, searched in `module/name`, to the axes that make up a unit.
Axes = Mapping[str, Sequence[int]]


def adaptive_grad_clip(
  clipping: float,
  eps: float = 1e-3,
  *,
  axes: Axes | None = None,
  unclipped: Iterable[str] = (),
) -> optax.GradientTransformation:
  """Clips each unit's gradient to `clipping * max(||W||, eps)`.

  Put it first in a chain, on the gradient of the whole batch: after the mean
  over devices and micro-batches, before weight decay and momentum. Gradients
  that are zero or within their bound come out untouched; one that is not
  finite stays so, and spoils no other unit.

  Args:
    clipping: the paper's lambda, the largest allowed ||G|| / ||W||, above 0.
    eps: floor of ||W||, which lets zero-initialized parameters move.
    axes: for parameters whose rank doesn't tell their layer, or tells it
      wrongly: pattern (`re.search` in the path `module/name`) to the axes over
      which a unit's norm is taken. The first match counts; an empty tuple
      makes every entry its own unit.
    unclipped: patterns of the parameters to leave alone.

  Returns:
    A stateless transformation; its `update` needs `params`.

  Raises:
    ValueError: if `clipping` or `eps` isn't positive; at `init`, if a pattern
      matches no parameter, or a parameter's units are unknown.

  Source: Brock, De, Smith and Simonyan 2021, equation 3.
  """
  _check_positive('clipping', clipping)
  _check_positive('eps', eps)
  axes = dict(axes or {})
  unclipped = _as_patterns(unclipped)

  def init(params: optax.Params) -> optax.EmptyState:
    _check_matched((*axes, *unclipped), params)
    jax.tree.map_with_path(check_units, params)
    return optax.EmptyState()

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, optax.OptState]:
    if params is None:
      raise ValueError('adaptive_grad_clip needs update(..., params=params)')
    return jax.tree.map_with_path(clip_leaf, updates, params), state

  def clip_leaf(
    path: tuple[object, ...], grad: jax.Array, param: jax.Array
  ) -> jax.Array:
    name = path_name(path)
    if matches_any(unclipped, name):
      return grad
    unit = unit_axes(param.shape, name, axes)
    return clip_units(grad, param, clipping, eps, axes=unit)

  def check_units(path: tuple[object, ...], param: jax.Array) -> None:
    name = path_name(path)
    if not matches_any(unclipped, name):
      unit_axes(param.shape, name, axes)

  return optax.GradientTransformation(init, update)


# Compiled by itself, so that tensors of one shape are traced once.
@functools.partial(jax.jit, static_argnames='axes')
def clip_units(
  grad: jax.Array,
  param: jax.Array,
  clipping: float,
  eps: float,
  axes: tuple[int, ...],
) -> jax.Array:
  """One tensor's gradient, clipped; both arrays have the same shape."""
  limit = clipping * jnp.maximum(unitwise_norm(param, axes), eps)
  norm = unitwise_norm(grad, axes)
  # Brock et al. 2021, eq. 3. Where the norm is zero the limit isn't passed,
  # and the 1 only keeps the unused branch finite.
  scale = limit / jnp.where(norm == 0, 1.0, norm)
  clipped = (grad * scale).astype(grad.dtype)
  return jnp.where(norm <= limit, grad, clipped)


def unitwise_norm(x: jax.Array, axes: Sequence[int] | None = None) -> jax.Array:
  """Euclidean norm of each unit, in float32, of x's rank and broadcastable.

  Args:
    x: a parameter or its gradient: `[H, W, I, O]`, `[I, O]`, `[C]`, ...
    axes: the axes to take the norm over; by the rank (`unit_axes`) if absent.
  """
  if axes is None:
    axes = unit_axes(x.shape, 'an array')
  x = x.astype(jnp.float32)
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=tuple(axes), keepdims=True))


def global_norm(tree: optax.Updates) -> jax.Array:
  """The Euclidean norm of all leaves together, in float32, `[]`.

  It is that of all units' norms, so that beside AGC's, which are the same, a
  compiler reads each gradient once and not twice.
  """

  def of_units(path: tuple[object, ...], x: jax.Array) -> jax.Array:
    try:
      axes = unit_axes(x.shape, path_name(path))
    except ValueError:  # of a network that AGC doesn't know
      axes = tuple(range(x.ndim))
    return unitwise_norm(x, axes).ravel()

  norms = jax.tree.leaves(jax.tree.map_with_path(of_units, tree))
  return jnp.linalg.norm(jnp.concatenate(norms))


def unit_axes(
  shape: Sequence[int], name: str, axes: Axes | None = None
) -> tuple[int, ...]:
  """The axes that make up one unit of the parameter `name`.

  By name if a pattern of `axes` matches. Else by rank, as published: vectors,
  scalars and whatever squeezes to them are one unit; `[I, O]` and `[_, I, O]`
  have units over the first axis; `[H, W, I, O]` over the first three. Of a
  stack of equal blocks, `[blocks, ...]`, each block has units of its own.

  Raises:
    ValueError: for other ranks, and for axes that the parameter doesn't have.
  """
  if stacks.is_stack(name):
    inner = stacks.of_all(name, lambda each: unit_axes(shape[1:], each, axes))
    return tuple(axis + 1 if axis >= 0 else axis for axis in inner)
  rank = len(shape)
  for pattern, given in (axes or {}).items():
    if re.search(pattern, name):
      if any(not -rank <= axis < rank for axis in given):
        raise ValueError(
          f'{name} of shape {tuple(shape)} has no axes {tuple(given)}, '
          f'which the pattern {pattern!r} asks for'
        )
      return tuple(given)
  if sum(size != 1 for size in shape) <= 1:
    return tuple(range(rank))
  if rank in (2, 3):
    return (0,)
  if rank == 4:
    return (0, 1, 2)
  raise ValueError(
    f'adaptive_grad_clip: the units of {name}, of shape {tuple(shape)}, are '
    f'unknown; give them with axes={{pattern: axes}} or leave it unclipped'
  )


def count_units(
  shape: Sequence[int], name: str, axes: Axes | None = None
) -> int:
  """How many units the parameter `name` has."""
  over = {axis % len(shape) for axis in unit_axes(shape, name, axes)}
  return math.prod(n for axis, n in enumerate(shape) if axis not in over)


def path_name(path: tuple[object, ...]) -> str:
  """A leaf's path as `module/name`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def matches_any(patterns: Iterable[str], name: str) -> bool:
  """Whether one of the patterns is found in the path."""
  return stacks.of_all(
    name, lambda each: any(re.search(pattern, each) for pattern in patterns)
  )


def _check_positive(name: str, value: float) -> None:
  # A traced value (from optax.inject_hyperparams) can't be looked at.
  if isinstance(value, (int, float)) and not value > 0:
    raise ValueError(f'{name} must be above 0, got {value}')


def _as_patterns(patterns: Iterable[str]) -> tuple[str, ...]:
  return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _check_matched(patterns: Iterable[str], params: optax.Params) -> None:
  leaves, _ = jax.tree.flatten_with_path(params)
  names = [m for path, _ in leaves for m in stacks.members(path_name(path))]
  for pattern in patterns:
    if not any(re.search(pattern, name) for name in names):
      raise ValueError(f'the pattern {pattern!r} matches no parameter')
