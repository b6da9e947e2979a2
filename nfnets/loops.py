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


def accumulate(
  gradient: Callable[..., Any], micro_batches: int
) -> Callable[..., Any]:
  """Averages `gradient` over equal parts of the batch, one at a time.

  The network's state goes from part to part; each part draws its own noise.
  """

  def averaged(
    params: Tree, net_state: Tree, key: jax.Array, inputs: Tree
  ) -> tuple[Tree, tuple[dict, Tree]]:
    parts = jax.tree.map(
      lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), inputs
    )

    def add(carry: Tree, part: tuple) -> tuple[Tree, None]:
      sums, net_state = carry
      index, inputs = part
      grads, (metrics, net_state) = gradient(
        params, net_state, jax.random.fold_in(key, index), inputs
      )
      return (jax.tree.map(jnp.add, sums, (grads, metrics)), net_state), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradient, params, net_state, key, first)
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][0])
    )
    (sums, net_state), _ = scan(
      add, (zeros, net_state), (jnp.arange(micro_batches), parts)
    )
    grads, metrics = jax.tree.map(lambda x: x / micro_batches, sums)
    return grads, (metrics, net_state)

  return averaged


def _unrolled(
  body: Callable[[Tree, Tree], tuple[Tree, Tree]], carry: Tree, xs: Tree
) -> tuple[Tree, Tree]:
  turn = jax.jit(body)  # traced once for all turns
  found = []
  for index in range(len(jax.tree.leaves(xs)[0])):
    carry, y = turn(carry, jax.tree.map(lambda x, i=index: x[i], xs))
    found.append(y)
  return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
