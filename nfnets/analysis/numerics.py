"""How bfloat16 differs from float32, and where a NaN or infinity arises."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


class Output(NamedTuple):
  """One module call's output, on the host."""

  module: str
  value: np.ndarray
  inputs_finite: bool


class Drift(NamedTuple):
  """One module in float32 (f) and in bfloat16 (b).

  Attributes:
    module: path of its parameters.
    forward: ||b - f|| / ||f|| of its output.
    gradient: the same of its parameters' gradients; NaN without parameters.
    finite: whether output and gradients are finite in float32, in bfloat16.
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
  """Runs a batch in float32 and in bfloat16 from the same parameters.

  Args:
    network: without rematerialization.
    params, state: of the network, float32.
    key: for dropout and stochastic depth, the same in both runs.
    images: `[N, H, W, 3]` float32, the network's input.
    soft_labels: `[N, K]`.

  Returns:
    One row per module in the order of the forward pass, and the outputs of
    both runs, {type: outputs}.
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
) -> list[Output]:
  """Returns the output of every module call, in the order they finish.

  Args:
    network: without rematerialization, which hides what is inside of blocks.
    params, state: of the network.
    key: for dropout and stochastic depth.
    images: `[N, H, W, 3]` of the compute type.
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
      network.apply(params, state, key, images, True)
    return found

  found = jax.device_get(run(params, state, key, images))
  return [
    Output(name, np.asarray(value, np.float32), bool(finite))
    for name, (value, finite) in zip(names, found, strict=True)
  ]


def first_nonfinite(found: Sequence[Output]) -> str | None:
  """Says which module first returned a NaN or an infinity; None if none did.

  Where a module's input already contains one, it arose in what the caller
  computes before that module, such as an activation or a sum.
  """
  for output in found:
    if not output.inputs_finite:
      caller = output.module.rpartition('/')[0].removesuffix('/~')
      return f'{caller}, before {output.module}'
    if not np.isfinite(output.value).all():
      return output.module
  return None


def blocks(rows: Sequence[Drift]) -> list[Drift]:
  """Selects the rows of the network, its blocks and its own layers."""
  depth = lambda row: len(row.module.replace('/~', '').split('/'))
  return [row for row in rows if depth(row) <= 2]


def _difference(
  exact: Sequence[np.ndarray], values: Sequence[np.ndarray]
) -> float:
  """Returns ||values - exact|| / ||exact|| over all arrays; NaN for exact 0."""
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
  """Returns the gradients of a module's parameters, inner modules included."""
  return [
    leaf
    for path, leaves in grads.items()
    if path == module or path.startswith(f'{module}/')
    for leaf in leaves.values()
  ]
