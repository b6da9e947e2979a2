"""Adaptive gradient clipping (AGC), a transformation for any optax chain.

A unit is all weights that feed one output. AGC limits the norm of each unit's
gradient to a fraction of the unit's own norm (Brock, De, Smith and Simonyan
2021, equation 3).

It goes first in a chain, applied to the gradient of the whole batch: after
averaging over devices and micro-batches, before weight decay and momentum.
"""

import functools
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nfnets.optim import parameters

# From a pattern, searched for in `module/name`, to the axes of a unit.
Axes = Mapping[str, Sequence[int]]


def adaptive_grad_clip(
  clipping: float,
  eps: float = 1e-3,
  *,
  axes: Axes | None = None,
  unclipped: Iterable[str] = (),
) -> optax.GradientTransformation:
  """Clips each unit's gradient to `clipping * max(||W||, eps)`.

  Gradients that are zero or within their limit stay bit for bit the same. A
  gradient that isn't finite stays so, without affecting other units.

  Args:
    clipping: the paper's lambda, the largest allowed ||G|| / ||W||; above 0.
    eps: lower bound on ||W||, so that zero-initialized parameters can move.
    axes: units by name, see `unit_axes`.
    unclipped: patterns of parameters that aren't clipped.

  Returns:
    A stateless transformation; its `update` needs `params`.

  Raises:
    ValueError: if `clipping` or `eps` isn't positive; in `init`, if a pattern
      is empty or matches no parameter, or a parameter's units are unknown.
  """
  for name, value in (('clipping', clipping), ('eps', eps)):
    # A traced value (from optax.inject_hyperparams) can't be checked.
    if isinstance(value, int | float) and not value > 0:
      raise ValueError(f'{name} must be above 0, got {value}')

  def init(params: optax.Params) -> optax.EmptyState:
    parameters.matches(params, axes or {})
    jax.eval_shape(lambda params: unit_norms(params, axes), params)
    return optax.EmptyState()

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params = None
  ) -> tuple[optax.Updates, optax.OptState]:
    if params is None:
      raise ValueError('adaptive_grad_clip needs update(..., params=params)')
    clip = functools.partial(_clip_block, clipping, eps, axes)
    return parameters.map_blocks(clip, updates, params), state

  def clipped(params: optax.Params) -> Any:
    return jax.tree.map(operator.not_, parameters.matches(params, unclipped))

  clipper = optax.GradientTransformation(init, update)
  some = parameters.as_entries(unclipped)
  return optax.masked(clipper, clipped) if some else clipper


def _clip_block(
  clipping: float,
  eps: float,
  axes: Axes | None,
  name: str,
  grad: jax.Array,
  param: jax.Array,
) -> jax.Array:
  unit = unit_axes(param.shape, name, axes)
  return clip_units(grad, param, clipping, eps, unit)


# Jitted separately, so that tensors of equal shape are traced only once.
@functools.partial(jax.jit, static_argnames='axes')
def clip_units(
  grad: jax.Array,
  param: jax.Array,
  clipping: float,
  eps: float,
  axes: tuple[int, ...],
) -> jax.Array:
  """Clips the gradient of one tensor; both arrays have the same shape."""
  limit = clipping * jnp.maximum(unitwise_norm(param, axes), eps)
  norm = unitwise_norm(grad, axes)
  # Brock et al. 2021, eq. 3. A norm of zero doesn't exceed the limit; the 1
  # keeps the branch that isn't used finite.
  scale = limit / jnp.where(norm == 0, 1.0, norm)
  clipped = (grad * scale).astype(grad.dtype)
  return jnp.where(norm <= limit, grad, clipped)


def unitwise_norm(x: jax.Array, axes: Sequence[int] | None = None) -> jax.Array:
  """Euclidean norm of each unit, in float32, broadcastable to x.

  Args:
    x: a parameter or its gradient: `[H, W, I, O]`, `[I, O]`, `[C]`, ...
    axes: the axes of a unit; by default those that x's rank implies.
  """
  axes = _axes_of_rank(x.shape) if axes is None else tuple(axes)
  x = jnp.abs(x).astype(jnp.float32)  # the modulus, if x is complex
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))


def unit_norms(tree: Any, axes: Axes | None = None) -> Any:
  """Norms of all units: for each leaf `[units]`, for a stack `[blocks, units]`.

  Args:
    tree: parameters or gradients.
    axes: units by name, see `unit_axes`.
  """

  def of_block(name: str, x: jax.Array) -> jax.Array:
    return unitwise_norm(x, unit_axes(x.shape, name, axes)).ravel()

  return parameters.map_blocks(of_block, tree)


def global_norm(tree: optax.Updates) -> jax.Array:
  """Euclidean norm of the whole tree, in float32, `[]`.

  Computed from the norms of the units, which AGC needs anyway: a compiled step
  then reads each gradient only once.
  """
  norms = parameters.map_blocks(lambda name, x: unitwise_norm(x), tree)
  flat = [norm.ravel() for norm in jax.tree.leaves(norms)]
  return jnp.linalg.norm(jnp.concatenate(flat))


def unit_axes(
  shape: Sequence[int], name: str, axes: Axes | None = None
) -> tuple[int, ...]:
  """The axes that make up one unit of the parameter `name`.

  As published, the rank decides: scalars, vectors and what squeezes to them are
  one unit; the units of `[I, O]` and `[_, I, O]` span the first axis, those of
  `[H, W, I, O]` and `[D, H, W, I, O]` all but the last.

  Args:
    shape: of the parameter, or of one block if it is a stack.
    name: its path, `module/name`.
    axes: for parameters whose rank implies no units or the wrong ones: patterns
      (`re.search` in the path) to axes. The first match applies; with an empty
      tuple, every entry is a unit.

  Raises:
    ValueError: for other ranks, or axes that the parameter doesn't have.
  """
  rank = len(shape)

  def of_one(name: str) -> tuple[int, ...]:
    for pattern, given in (axes or {}).items():
      if re.search(pattern, name):
        if any(not -rank <= axis < rank for axis in given):
          raise ValueError(
            f'{name} of shape {shape} has no axes {tuple(given)}, given for '
            f'the pattern {pattern!r}'
          )
        return tuple(given)
    if rank > 5:
      raise ValueError(
        f'adaptive_grad_clip: unknown units of {name} of shape {shape}: pass '
        'axes={pattern: axes} or leave it unclipped'
      )
    return _axes_of_rank(shape)

  return parameters.of_members(name, of_one)


def _axes_of_rank(shape: Sequence[int]) -> tuple[int, ...]:
  rank = len(shape)
  if sum(size != 1 for size in shape) <= 1:
    return tuple(range(rank))
  return (0,) if rank <= 3 else tuple(range(rank - 1))
