"""Transformations of gradient functions: SAM and gradient accumulation.

A gradient function is `(params, state, key, batch) -> (grads, (metrics,
state))`. It averages over a batch, all of whose leaves are `[N, ...]`. SAM is
sharpness-aware minimization (Foret et al. 2020, arXiv 2010.01412, equation 2
and algorithm 1).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nfnets.models import platform
from nfnets.optim import parameters

Tree = Any
Key = jax.Array | None
Gradient = tuple[Tree, tuple[Tree, Tree]]
GradFn = Callable[[Tree, Tree, Key, Tree], Gradient]


def sharpness_aware(
  grad_fn: GradFn,
  rho: float,
  *,
  ascent_fraction: float = 1.0,
  axis_name: str | None = None,
  m: int | None = None,
  perturbed: Iterable[str] = ('.',),
  multiple_of: int = 1,
) -> GradFn:
  """Returns the gradient at W + rho g / ||g||, where g is the gradient at W.

  Metrics and state are those of the second pass, so that batch statistics are
  updated once per step. Both passes use the same key. A zero gradient causes no
  perturbation.

  Args:
    grad_fn: a gradient function.
    rho: the perturbation's global norm; 0 returns `grad_fn` itself.
    ascent_fraction: fraction of the batch, spread evenly over it, from which g
      is computed. Brock et al. (2021, appendix A.4) use 0.2.
    axis_name, m: which examples share a perturbation, see `sharing`.
    perturbed: patterns for `re.search` in the path `module/name`; only matching
      parameters are perturbed and count for the norm.
    multiple_of: round the number of ascent examples up to a multiple of this,
      for a `grad_fn` that splits its batch.

  Raises:
    ValueError: if rho is negative or the fraction outside (0, 1]; when called,
      if m doesn't fit the batch or a pattern matches no parameter.
  """
  if not (rho >= 0 and 0 < ascent_fraction <= 1):
    values = f'rho={rho}, ascent_fraction={ascent_fraction}'
    raise ValueError(f'{values}: rho must be at least 0, the other in (0, 1]')

  def sharp(params: Tree, state: Tree, key: Key, batch: Tree) -> Gradient:
    groups, average = sharing(_batch_size(batch), m, axis_name)

    def of_group(params: Tree, state: Tree, key: Key, batch: Tree) -> Gradient:
      part = _subset(batch, ascent_fraction, multiple_of)
      ascent, _ = grad_fn(params, state, key, part)
      mask = parameters.matches(params, perturbed)
      moved = _perturb(params, average(ascent), rho, mask)
      return grad_fn(moved, state, key, batch)

    return accumulate(of_group, groups)(params, state, key, batch)

  return sharp if rho else grad_fn


def sharing(
  size: int, m: int | None, axis_name: str | None
) -> tuple[int, Callable[[Tree], Tree]]:
  """How perturbations are shared: groups per device, and a mean over devices.

  Args:
    size: N, the number of examples on this device.
    m: number of examples that share a perturbation (Foret et al. 2020, section
      4.1), on any number of devices: a divisor or a multiple of N that divides
      the whole batch. Groups on one device run in sequence, as in `accumulate`.
      With None, `axis_name` decides.
    axis_name: the mapped axis. Without m, all devices share a perturbation if
      it is given; otherwise each has its own, as in Brock et al.

  Raises:
    ValueError: if m fits neither the examples of a device nor the devices.
  """
  if m is None:
    if axis_name is None:
      return 1, lambda grads: grads
    return 1, lambda grads: jax.lax.pmean(grads, axis_name)
  if m > 0 and size % m == 0:
    return size // m, lambda grads: grads
  devices = jax.lax.axis_size(axis_name) if axis_name else 1
  if m > 0 and m % size == 0 and devices % (m // size) == 0:
    teams = np.arange(devices).reshape(-1, m // size).tolist()
    return 1, lambda grads: jax.lax.pmean(
      grads, axis_name, axis_index_groups=teams
    )
  raise ValueError(
    f'sam m={m} fits neither the {size} examples of a device nor {devices} '
    f'such devices (axis_name={axis_name!r}): use a divisor of {size}, or a '
    f'multiple of it that divides {size * devices}'
  )


def accumulate(grad_fn: GradFn, parts: int) -> GradFn:
  """Averages a gradient function over equal parts of the batch, in sequence.

  Each part passes its state on to the next, and folds its index into the key.
  """
  if parts == 1:
    return grad_fn

  def accumulated(params: Tree, state: Tree, key: Key, batch: Tree) -> Gradient:
    def add(carry: tuple[Tree, Tree], turn: tuple) -> tuple[Any, None]:
      sums, state = carry
      index, part = turn
      part_key = None if key is None else jax.random.fold_in(key, index)
      grads, (metrics, state) = grad_fn(params, state, part_key, part)
      return (jax.tree.map(jnp.add, sums, (grads, metrics)), state), None

    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    first = jax.tree.map(lambda x: x[0], split)
    grads, (metrics, _) = jax.eval_shape(grad_fn, params, state, key, first)
    zeros = jax.tree.map(jnp.zeros_like, (grads, metrics))
    # On a CPU, XLA runs loop bodies on one thread and convolutions in them on a
    # slow path: 45 times slower for the gradient of four 3x3 of 64 channels.
    unroll = platform.traced_platform() == 'cpu'
    (sums, state), _ = jax.lax.scan(
      add, (zeros, state), (jnp.arange(parts), split), unroll=unroll
    )
    grads, metrics = jax.tree.map(lambda x: x / parts, sums)
    return grads, (metrics, state)

  return accumulated


def _perturb(params: Tree, grads: Tree, rho: float, mask: Tree) -> Tree:
  # In float32, because rho g / ||g|| would vanish in bfloat16; complex leaves
  # stay complex.
  widened = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
  grads = jax.tree.map(widened, grads)
  pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(mask))
  norm = optax.tree.norm([grad for grad, moves in pairs if moves])
  # Foret et al. 2020, equation 2 (p = 2).
  scale = jnp.where(norm == 0, 0.0, rho / jnp.where(norm == 0, 1.0, norm))
  return jax.tree.map(
    lambda p, g, moves: widened(p) + scale * g if moves else p,
    params,
    grads,
    mask,
  )


def _subset(batch: Tree, fraction: float, multiple_of: int) -> Tree:
  size = _batch_size(batch)
  count = max(1, round(size * fraction))
  count = math.ceil(count / multiple_of) * multiple_of
  if count >= size:
    return batch
  # Spread evenly, because the two halves of a batch are mixed differently.
  index = np.arange(count) * size // count
  return jax.tree.map(lambda x: x[index], batch)


def _batch_size(batch: Tree) -> int:
  return jax.tree.leaves(batch)[0].shape[0]
