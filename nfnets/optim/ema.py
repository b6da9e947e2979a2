"""Exponential moving averages of parameters and of network state."""

from typing import TypeVar

import jax
import jax.numpy as jnp

MODES = ('warmup', 'constant', 'none')

Tree = TypeVar('Tree')


def update(
  average: Tree,
  new: Tree,
  step: jax.Array | int,
  decay: float,
  mode: str = 'warmup',
) -> Tree:
  """Moves the average towards the new values.

  Args:
    average: the averages so far; their types are kept.
    new: the values of this step, in the same structure.
    step: t, the number of steps taken before this one, from 0.
    decay: share of the old average that is kept, in [0, 1].
    mode: 'warmup' keeps min(decay, (1 + t) / (10 + t)), so that early averages
      forget their start; 'constant' keeps `decay`; 'none' returns `new`.

  Returns:
    The new averages. Leaves that aren't floating point, such as counters, are
    taken from `new`.

  Raises:
    ValueError: if the mode is unknown or `decay` isn't in [0, 1].
  """
  if mode not in MODES:
    raise ValueError(f'unknown EMA mode {mode!r}; choose from {MODES}')
  if mode == 'none':
    return new
  if not 0 <= decay <= 1:
    raise ValueError(f'EMA decay must lie in [0, 1], got {decay}')
  # 1 - decay, not decay: float32 holds 0.00001 well and 0.99999 badly.
  weight = jnp.float32(1 - decay)
  if mode == 'warmup':
    weight = jnp.maximum(weight, 9 / (10 + jnp.asarray(step, jnp.float32)))

  def move(old: jax.Array, value: jax.Array) -> jax.Array:
    if not jnp.issubdtype(old.dtype, jnp.floating):
      return value
    moved = old + weight * (value.astype(jnp.float32) - old)
    return moved.astype(old.dtype)

  return jax.tree.map(move, average, new)
