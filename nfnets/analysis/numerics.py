"""What bfloat16 does to a network, and where a NaN or infinity begins."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


class Output(NamedTuple):
  """The output of one call of one module, on the host."""

  module: str
  value: np.ndarray
  inputs_finite: bool


class Drift(NamedTuple):
  """One module in float32 and in bfloat16.

  Attributes:
    module: its parameters' path.
    forward: ||b - f|| / ||f|| of its output, f in float32 and b in bfloat16.
    gradient: the same of its parameters' gradients; NaN if it has none.
    finite: whether float32's and bfloat16's outputs and gradients are.
  """

  module: str
  forward: float
  gradient: float
  finite: tuple[bool, bool]


def drift(
  network: hk.TransformedWithState,
  params: Tree,
  state: Tree,
  key: jax.Array,
  images: jax.Array,
  soft_labels: jax.Array,
) -> tuple[list[Drift], dict[str, list[Output]]]:
  """One batch in float32 and in bfloat16, from the same parameters.

  Args:
    network: without rematerialization.
    params: float32.
    state: its state.
    key: of dropout and stochastic depth, the same in both.
    images: `[N, H, W, 3]` float32, as the network takes them.
    soft_labels: `[N, K]`.

  Returns:
    One row per module in the order of the forward pass, and all outputs by
    the type's name.
  """
  found, grads = {}, {}

  @jax.jit
  @jax.grad
  def gradient(params: Tree, images: jax.Array) -> jax.Array:
    logits = network.apply(params, state, key, images, True)[0]['logits']
    return -jnp.mean(jnp.sum(soft_labels * jax.nn.log_softmax(logits), -1))

  for name in ('float32', 'bfloat16'):
    cast = images.astype(name)
    found[name] = outputs(network, params, state, key, cast)
    grads[name] = jax.device_get(gradient(params, cast))
  rows = []
  for both in zip(*found.values(), strict=True):
    values = [[output.value] for output in both]
    slopes = [_below(tree, both[0].module) for tree in grads.values()]
    finite = [
      all(np.isfinite(x).all() for x in value + slope)
      for value, slope in zip(values, slopes)
    ]
    row = both[0].module, _difference(*values), _difference(*slopes)
    rows.append(Drift(*row, tuple(finite)))
  return rows, found


def outputs(
  network: hk.TransformedWithState,
  params: Tree,
  state: Tree,
  key: jax.Array,
  images: jax.Array,
  is_training: bool = True,
) -> list[Output]:
  """Every module's output, inner ones first, in the order they are ready.

  Args:
    network: without rematerialization, whose blocks can't be looked into.
    params: its parameters.
    state: its state.
    key: of dropout and stochastic depth.
    images: `[N, H, W, 3]` of the compute type.
    is_training: whether the network trains.
  """
  names: list[str] = []

  @jax.jit
  def run(params: Tree, state: Tree, key: jax.Array, images: jax.Array) -> list:
    found = []

    def note(
      call: Any, args: tuple, kwargs: dict, context: hk.MethodContext
    ) -> Any:
      result = call(*args, **kwargs)
      if context.method_name == '__call__':
        value = result['logits'] if isinstance(result, dict) else result
        found.append((value, _all_finite((args, kwargs))))
        names.append(context.module.module_name)
      return result

    with hk.intercept_methods(note):
      network.apply(params, state, key, images, is_training)
    return found

  found = jax.device_get(run(params, state, key, images))
  return [
    Output(name, np.asarray(value, np.float32), bool(finite))
    for name, (value, finite) in zip(names, found, strict=True)
  ]


def first_nonfinite(found: Sequence[Output]) -> str | None:
  """Which module first gave a NaN or an infinity, in words; None if none did.

  A module whose input already had one isn't blamed: that arose in what its
  caller computes before it, an activation or a sum.
  """
  for output in found:
    if not output.inputs_finite:
      caller = output.module.rpartition('/')[0].removesuffix('/~')
      return f'{caller}, before {output.module}'
    if not np.isfinite(output.value).all():
      return output.module
  return None


def blocks(rows: Sequence[Drift]) -> list[Drift]:
  """The rows of the network's own layers and blocks, and of the whole."""
  depth = lambda row: len(row.module.replace('/~', '').split('/'))
  return [row for row in rows if depth(row) <= 2]


def _difference(
  exact: Sequence[np.ndarray], values: Sequence[np.ndarray]
) -> float:
  """||values - exact|| / ||exact|| over all arrays; NaN if exact is 0."""
  norm = lambda arrays: np.sqrt(
    sum(np.sum(np.square(x, dtype=np.float64)) for x in arrays)
  )
  with np.errstate(invalid='ignore'):
    change = norm([b - a for a, b in zip(exact, values, strict=True)])
  return float(change / norm(exact)) if norm(exact) > 0 else np.nan


def _all_finite(tree: Tree) -> jax.Array:
  finite = [
    jnp.all(jnp.isfinite(x))
    for x in jax.tree.leaves(tree)
    if hasattr(x, 'dtype') and jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.all(jnp.array([True, *finite]))


def _below(grads: Mapping[str, Mapping], module: str) -> list[np.ndarray]:
  """The gradients of a module's parameters and of those inside of it."""
  return [
    leaf
    for path, leaves in grads.items()
    if path == module or path.startswith(f'{module}/')
    for leaf in leaves.values()
  ]
