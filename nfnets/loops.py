"""Loops over equal work: compiled once, or unrolled where loops are slow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


def several(step: Callable[..., tuple], count: int) -> Callable[..., tuple]:
  """So many steps in one program: small networks wait for launches otherwise.

  Args:
    step: `(state, batch, key) -> (state, metrics)`, per-device code.
    count: how many.

  Returns:
    A function of the state, this device's batches one after the other (leaves
    `[count * N, ...]`) and the key; its metrics are `[count, ...]`.
  """
  if count == 1:
    return step

  def steps(state: Tree, batch: Tree, key: Any) -> tuple[Tree, Tree]:
    batches = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    return scan(lambda state, batch: step(state, batch, key), state, batches)

  return steps


def _unrolled(
  body: Callable[[Tree, Tree], tuple[Tree, Tree]], carry: Tree, xs: Tree
) -> tuple[Tree, Tree]:
  turn = jax.jit(body)  # traced once for all turns
  found = []
  for index in range(len(jax.tree.leaves(xs)[0])):
    carry, y = turn(carry, jax.tree.map(lambda x, i=index: x[i], xs))
    found.append(y)
  return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def joined(
  batches: list[dict[str, np.ndarray]], devices: int
) -> dict[str, np.ndarray]:
  """Batches of several steps as one that `parallel.shard` can split.

  Each device gets its part of the first batch, of the second, and so on.

  Args:
    batches: `{'ids': [n]}` of this process, one for each step.
    devices: of this process, that n is split over.
  """
  ids = np.stack([batch['ids'] for batch in batches])
  parts = ids.reshape(len(batches), devices, -1).swapaxes(0, 1)
  return {'ids': parts.reshape(-1)}
