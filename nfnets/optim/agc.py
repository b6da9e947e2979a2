"""Adaptive gradient clipping (AGC), as a link for any optax chain.

A unit is all the weights that feed one output. AGC holds the norm of each
unit's gradient below a fraction of the unit's own norm (Brock, De, Smith and
Simonyan 2021, equation 3).

Put it first in a chain, on the gradient of the whole batch: after the mean over
devices and micro-batches, before weight decay and momentum.
"""

import contextlib
import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from nfnets.models import network

# A pattern, searched in `module/name`, to the axes that make up a unit.
Axes = Mapping[str, Sequence[int]]

Value = TypeVar('Value')


def adaptive_grad_clip(
  clipping: float,
  eps: float = 1e-3,
  *,
  axes: Axes | None = None,
  unclipped: Iterable[str] = (),
) -> optax.GradientTransformation:
  """Clips each unit's gradient to `clipping * max(||W||, eps)`.

  Gradients that are zero or within their bound stay untouched; one that isn't
  finite stays so, and spoils no other unit.

  Args:
    clipping: the paper's lambda, the largest allowed ||G|| / ||W||, above 0.
    eps: floor of ||W||, which lets zero-initialized parameters move.
    axes: units by name, see `unit_axes`.
    unclipped: patterns of the parameters to leave alone.

  Returns:
    A stateless transformation; its `update` needs `params`.

  Raises:
    ValueError: if `clipping` or `eps` isn't positive; at `init`, if a pattern
      is empty or matches no parameter, or a parameter's units are unknown.
  """
  for name, value in (('clipping', clipping), ('eps', eps)):
    # A traced value (from optax.inject_hyperparams) can't be looked at.
    if isinstance(value, int | float) and not value > 0:
      raise ValueError(f'{name} must be above 0, got {value}')

  def init(params: optax.Params) -> optax.EmptyState:
    named(params, axes or {})
    for path, param in jax.tree.flatten_with_path(params)[0]:
      unit_axes(param.shape, path_name(path), axes)
    return optax.EmptyState()

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params = None
  ) -> tuple[optax.Updates, optax.OptState]:
    if params is None:
      raise ValueError('adaptive_grad_clip needs update(..., params=params)')
    return _clip_tree(clipping, eps, axes, updates, params), state

  link = optax.GradientTransformation(init, update)
  clipped = lambda params: jax.tree.map(operator.not_, named(params, unclipped))
  return optax.masked(link, clipped) if as_entries(unclipped) else link


def _clip_tree(
  clipping: float, eps: float, axes: Axes | None, grads: Any, params: Any
) -> Any:
  def of_leaf(path: tuple, grad: jax.Array, param: jax.Array) -> jax.Array:
    name = path_name(path)
    unit = unit_axes(param.shape, name, axes)
    clip = lambda grad, param: clip_units(grad, param, clipping, eps, unit)
    return per_block(name, clip, grad, param)

  return jax.tree.map_with_path(of_leaf, grads, params)


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
    axes: the axes to take the norm over; by the rank if absent.
  """
  axes = _axes_of_rank(x.shape) if axes is None else tuple(axes)
  x = jnp.abs(x).astype(jnp.float32)  # the modulus of complex ones
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))


def unit_norms(name: str, x: jax.Array, axes: Axes | None = None) -> jax.Array:
  """The norms of all units of the leaf `name`, `[units]`.

  Of a stack of blocks, `[blocks, units]`.
  """
  over = unit_axes(x.shape, name, axes)
  return per_block(name, lambda x: unitwise_norm(x, over).ravel(), x)


def global_norm(tree: optax.Updates) -> jax.Array:
  """The Euclidean norm of all leaves together, in float32, `[]`.

  It is that of all units' norms: AGC takes the same ones, so that a compiled
  step reads each gradient once and not twice.
  """
  norms = [
    per_block(path_name(path), unitwise_norm, x).ravel()
    for path, x in jax.tree.flatten_with_path(tree)[0]
  ]
  return jnp.linalg.norm(jnp.concatenate(norms))


def unit_axes(
  shape: Sequence[int], name: str, axes: Axes | None = None
) -> tuple[int, ...]:
  """The axes that make up one unit of the parameter `name`.

  By rank, as published: vectors, scalars and whatever squeezes to them are one
  unit; `[I, O]` and `[_, I, O]` have units over the first axis; `[H, W, I, O]`
  and `[D, H, W, I, O]` over all but the last. Of a stack, `[blocks, ...]`, they
  are the axes within a block.

  Args:
    shape: of the parameter.
    name: its path, `module/name`.
    axes: for parameters whose rank doesn't tell their layer, or tells it
      wrongly: pattern (`re.search` in the path) to axes. The first match
      counts; an empty tuple makes every entry its own unit.

  Raises:
    ValueError: for other ranks, and for axes that the parameter doesn't have.
  """
  shape = block_shape(shape, name)
  rank = len(shape)

  def of_one(name: str) -> tuple[int, ...]:
    for pattern, given in (axes or {}).items():
      if re.search(pattern, name):
        if any(not -rank <= axis < rank for axis in given):
          raise ValueError(
            f'{name} of shape {shape} has no axes {tuple(given)}, which the '
            f'pattern {pattern!r} asks for'
          )
        return tuple(given)
    if rank > 5:
      raise ValueError(
        f'adaptive_grad_clip: the units of {name}, of shape {shape}, are '
        'unknown; give them with axes={pattern: axes} or leave it unclipped'
      )
    return _axes_of_rank(shape)

  return of_members(name, of_one)


def _axes_of_rank(shape: Sequence[int]) -> tuple[int, ...]:
  rank = len(shape)
  if sum(size != 1 for size in shape) <= 1:
    return tuple(range(rank))
  return (0,) if rank <= 3 else tuple(range(rank - 1))


def named(params: Any, patterns: Iterable[str], also: str = '') -> Any:
  """Which parameters one of the patterns is found in: a tree of booleans.

  Args:
    params: parameters, or their shapes.
    patterns: for `re.search` in the public path `module/name`.
    also: said in the error.

  Raises:
    ValueError: for a pattern that is empty or matches no parameter, or matches
      some blocks of a stack alone.
  """
  patterns = as_entries(patterns)
  leaves, structure = jax.tree.flatten_with_path(params)
  names = [path_name(path) for path, _ in leaves]
  public = [member for name in names for member in network.members(name)]
  for pattern in patterns:
    try:
      matches = any(re.search(pattern, name) for name in public)
    except (re.error, TypeError) as error:
      raise ValueError(f'{pattern!r} is no pattern: {error}') from error
    if not matches:
      raise ValueError(f'{pattern!r} matches no parameter{also}')

  def hit(name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)

  return structure.unflatten([of_members(name, hit) for name in names])


@contextlib.contextmanager
def naming(key: str, value: Any) -> Iterator[None]:
  """A ValueError within the block begins with the setting that it is of."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{key}={value!r}: {error}') from error


def as_entries(wanted: Iterable[str]) -> tuple[str, ...]:
  """One entry or several, as a tuple; refuses an empty one, which fits all."""
  entries = (wanted,) if isinstance(wanted, str) else tuple(wanted)
  if '' in entries:
    raise ValueError(
      "an empty pattern '' would name every parameter: take '.' for all of "
      'them, an empty tuple () for none'
    )
  return entries


def path_name(path: tuple[object, ...]) -> str:
  """A leaf's path as `module/name`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def block_shape(shape: Sequence[int], name: str) -> tuple[int, ...]:
  """The shape of the leaf `name`, without a stack's first axis."""
  return tuple(shape[1:] if network.is_stacked(name) else shape)


def per_block(
  name: str, function: Callable[..., jax.Array], *leaves: jax.Array
) -> jax.Array:
  """`function` of the leaf `name`, or of each block if it is a stack."""
  return (jax.vmap(function) if network.is_stacked(name) else function)(*leaves)


def of_members(name: str, function: Callable[[str], Value]) -> Value:
  """What a function says of every public path that a leaf's path stands for.

  Raises:
    ValueError: it doesn't say the same of all.
  """
  first, *others = map(function, network.members(name))
  if any(other != first for other in others):
    raise ValueError(
      f'{name} holds several blocks, compiled as one (config.model.scan=True): '
      'name all of them or none'
    )
  return first
