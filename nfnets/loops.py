"""Loops over equal work: compiled once, or unrolled where loops are slow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def scan(
  body: Callable[[Tree, Tree], tuple[Tree, Tree]], carry: Tree, xs: Tree
) -> tuple[Tree, Tree]:
  """`jax.lax.scan`, unrolled in programs that are lowered for a CPU.

  XLA's CPU backend runs what is inside a loop on one thread and convolutions by
  a slow path: a step of 4 micro-batches took 14 times a plain one.

  Args:
    body: `(carry, x) -> (carry, y)`.
    carry: what goes from turn to turn.
    xs: leaves `[turns, ...]`.

  Returns:
    The last carry, and all `y` stacked, leaves `[turns, ...]`.
  """
  return jax.lax.platform_dependent(
    carry,
    xs,
    cpu=lambda carry, xs: _unrolled(body, carry, xs),
    default=lambda carry, xs: jax.lax.scan(body, carry, xs),
  )


def _unrolled(
  body: Callable[[Tree, Tree], tuple[Tree, Tree]], carry: Tree, xs: Tree
) -> tuple[Tree, Tree]:
  turn = jax.jit(body)  # traced once for all turns
  found = []
  for index in range(len(jax.tree.leaves(xs)[0])):
    carry, y = turn(carry, jax.tree.map(lambda x, i=index: x[i], xs))
    found.append(y)
  return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
