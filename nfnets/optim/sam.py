"""Sharpness-aware minimization: gradient function in, gradient function out."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets import loops, stacks

Tree = Any
# (params, state, key, batch) -> (grads, (metrics, new state)).
GradFn = Callable[..., tuple[Tree, tuple[Tree, Tree]]]


def sharpness_aware(
  grad_fn: GradFn,
  rho: float,
  *,
  ascent_fraction: float = 1.0,
  axis_name: str | None = None,
  m: int | None = None,
  perturbed: Iterable[str] | Callable[[Tree], Tree] | None = None,
  multiple_of: int = 1,
) -> GradFn:
  """The gradient at W + rho g / ||g||, where g is the gradient at W.

  Metrics and state come from the second pass; the first one's are dropped, so
  that batch statistics move once a step. Both passes see the same key. A zero
  gradient gives a zero perturbation.

  Args:
    grad_fn: `(params, state, key, batch) -> (grads, (metrics, state))`, means
      over a batch whose leaves are all `[N, ...]`.
    rho: the perturbation's global norm; 0 returns `grad_fn` itself.
    ascent_fraction: share of the batch, spread evenly over it, that g is taken
      from. Brock et al. (2021, appendix A.4) use 0.2.
    axis_name: the mapped axis. Without `m`, giving it makes g the mean over
      all devices; not giving it leaves each device its own perturbation, as
      Brock et al. trained.
    m: examples that share one perturbation (Foret et al. 2020, section 4.1),
      whatever the number of devices: a divisor or a multiple of the device's
      N that divides the whole batch. Groups within a device run one after
      the other; the key is folded with the group's index, the state goes from
      group to group, and metrics are averaged.
    perturbed: which parameters move and count for the norm: patterns for
      `re.search` in the path `module/name`, or a function from the parameters
      (their shapes, where equal blocks are stacked) to a tree of booleans;
      None for all.
    multiple_of: round the number of ascent examples up to a multiple of this,
      for a `grad_fn` that splits its batch.

  Returns:
    A function of the same signature; its gradients are float32 if those of
    `grad_fn` at float32 parameters are.

  Raises:
    ValueError: for a negative rho, a fraction outside (0, 1], an m that fits
      neither the device's batch nor the devices (when called), or a pattern
      that matches no parameter (when called).

  Source: Foret et al. 2020 (arXiv 2010.01412), equation 2 and algorithm 1.
  """
  if not rho >= 0:
    raise ValueError(f'rho must be 0 or more, got {rho}')
  if not 0 < ascent_fraction <= 1:
    raise ValueError(
      f'ascent_fraction must be in (0, 1], got {ascent_fraction}'
    )
  if rho == 0:
    return grad_fn

  def one_group(
    params: Tree,
    state: Tree,
    key: jax.Array | None,
    batch: Tree,
    average: Callable[[Tree], Tree],
  ) -> tuple[Tree, tuple[Tree, Tree]]:
    part = _subset(batch, ascent_fraction, multiple_of)
    ascent, _ = grad_fn(params, state, key, part)
    mask = mask_of(params, perturbed)
    moved = _perturb(params, average(ascent), rho, mask)
    return grad_fn(moved, state, key, batch)

  def sharpness_aware_grad_fn(
    params: Tree, state: Tree, key: jax.Array | None, batch: Tree
  ) -> tuple[Tree, tuple[Tree, Tree]]:
    count, average = _groups(_batch_size(batch), m, axis_name)
    if count == 1:
      return one_group(params, state, key, batch, average)

    def add(carry: Tree, part: tuple) -> tuple[Tree, Tree]:
      index, inputs = part
      group_key = None if key is None else jax.random.fold_in(key, index)
      grads, (metrics, carry) = one_group(
        params, carry, group_key, inputs, average
      )
      return carry, (grads, metrics)

    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    new_state, stacked = loops.scan(add, state, (jnp.arange(count), parts))
    grads, metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), stacked)
    return grads, (metrics, new_state)

  return sharpness_aware_grad_fn


def _perturb(params: Tree, grads: Tree, rho: float, mask: Tree) -> Tree:
  # float32 throughout: rho g / ||g|| is too small to survive in bfloat16.
  grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
  squares = jax.tree.map(
    lambda g, moves: jnp.sum(jnp.square(g)) if moves else 0.0, grads, mask
  )
  norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
  # Foret et al. 2020, equation 2 (p = 2).
  scale = jnp.where(norm == 0, 0.0, rho / jnp.where(norm == 0, 1.0, norm))
  return jax.tree.map(
    lambda p, g, moves: p.astype(jnp.float32) + scale * g if moves else p,
    params,
    grads,
    mask,
  )


def mask_of(
  params: Tree, perturbed: Iterable[str] | Callable[[Tree], Tree] | None
) -> Tree:
  """Who moves: a tree of booleans. `perturbed` as for `sharpness_aware`.

  Raises:
    ValueError: for a pattern that matches no parameter, or some of the blocks
      of a stack alone.
  """
  if perturbed is None:
    return jax.tree.map(lambda _: True, params)
  if callable(perturbed):
    return stacks.by_member(perturbed, params)
  patterns = (perturbed,) if isinstance(perturbed, str) else tuple(perturbed)

  def matching(params: Tree) -> Tree:
    names = jax.tree.map_with_path(
      lambda path, _: jax.tree_util.keystr(path, simple=True, separator='/'),
      params,
    )
    for pattern in patterns:
      if not any(re.search(pattern, name) for name in jax.tree.leaves(names)):
        raise ValueError(f'perturbed={pattern!r} matches no parameter')
    return jax.tree.map(
      lambda name: any(re.search(pattern, name) for pattern in patterns), names
    )

  return stacks.by_member(matching, params)


def _subset(batch: Tree, fraction: float, multiple_of: int) -> Tree:
  size = _batch_size(batch)
  count = max(1, round(size * fraction))
  count = math.ceil(count / multiple_of) * multiple_of
  if count >= size:
    return batch
  # Spread evenly, since the halves of a mixed batch are mixed differently.
  index = np.arange(count) * size // count
  return jax.tree.map(lambda x: x[index], batch)


def _groups(
  size: int, m: int | None, axis_name: str | None
) -> tuple[int, Callable[[Tree], Tree]]:
  """Groups within this device, and the mean over devices that share one."""
  if m is None:
    if axis_name is None:
      return 1, lambda grads: grads
    return 1, lambda grads: jax.lax.pmean(grads, axis_name)
  if m > 0 and size % m == 0:
    return size // m, lambda grads: grads
  devices = jax.lax.axis_size(axis_name) if axis_name else 1
  if m > 0 and m % size == 0 and devices % (m // size) == 0:
    together = m // size
    teams = np.arange(devices).reshape(-1, together).tolist()
    return 1, lambda grads: jax.lax.pmean(
      grads, axis_name, axis_index_groups=teams
    )
  raise ValueError(
    f'sam m={m} fits neither the {size} examples of a device nor {devices} '
    f'such devices (axis_name={axis_name!r}): take a divisor of {size}, or a '
    f'multiple that divides {size * devices}'
  )


def _batch_size(batch: Tree) -> int:
  return jax.tree.leaves(batch)[0].shape[0]
