"""What adaptive gradient clipping does to a network, as a few numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nfnets.models import network
from nfnets.optim import agc, parameters

QUANTILES = (0.1, 0.5, 0.9)
# Beyond these fractions AGC fixes the length of a step, or has no effect.
ALMOST_ALL = 0.98
ALMOST_NONE = 0.001

Tree = Any


def observe(
  params: Tree,
  grads: Tree,
  clipping: float,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
) -> dict[str, jax.Array]:
  """Fractions of clipped units and quantiles of r = ||G|| / max(||W||, eps).

  Pure and traceable. A unit is clipped if r > `clipping`. The fractions count
  only units that clipping applies to, the quantiles all units.

  Args:
    params: parameters before the step.
    grads: their gradients before clipping.
    clipping: lambda.
    eps: lower bound on ||W||.
    unclipped: labels, stages or patterns, as for `optimizer.Settings`.

  Returns:
    float32 scalars, `[]`:
    - `agc/clipped_fraction` of the whole network.
    - `agc/label/<label>/...` and `agc/stage/<stage>/...`, with
      `clipped_fraction`, `ratio_q10`, `ratio_q50`, `ratio_q90`, `ratio_max`.
    - `agc/<layer>/clipped_fraction` for each clipped weight tensor, by its
      module's public path.
    A fraction of no units (if a whole label is unclipped, say) is left out.
  """
  norms = unit_norms(params), unit_norms(grads)
  return summarize(params, *norms, clipping, eps, unclipped)


def unit_norms(tree: Tree) -> Tree:
  """The norm of every unit, from which `summarize` computes everything.

  AGC and the global norm of the gradients need these norms too, so that a
  compiled step doesn't read parameters or gradients again.

  Args:
    tree: parameters or gradients.

  Returns:
    The same tree of norms, `[units]`, or `[blocks, units]` for a stack.
  """
  return jax.tree.map_with_path(
    lambda path, x: agc.unit_norms(parameters.path_name(path), x), tree
  )


class _Leaf(NamedTuple):
  layer: str  # public path of the module
  label: str
  stage: str
  ratios: jax.Array  # [units]
  hits: jax.Array | None  # [], clipped units; None if clipping doesn't apply


def summarize(
  params: Tree,
  param_norms: Tree,
  grad_norms: Tree,
  clipping: float,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
) -> dict[str, jax.Array]:
  """As `observe`, from `unit_norms`; `params` may be shapes."""
  leaves = []
  for (path, param), grad, label, stage, spared in zip(
    jax.tree.flatten_with_path(param_norms)[0],
    jax.tree.leaves(grad_norms),
    jax.tree.leaves(parameters.labels(params)),
    jax.tree.leaves(parameters.stages(params)),
    jax.tree.leaves(parameters.select(params, unclipped)),
  ):
    name = parameters.path_name(path)
    ratios = grad / jnp.maximum(param, eps)
    hits = jnp.sum(ratios > clipping, axis=-1)
    for index, member in enumerate(network.members(name)):
      at = index if network.is_stacked(name) else ...
      hit = None if spared else hits[at]
      layer = member.rpartition('/')[0]
      leaves.append(_Leaf(layer, label, stage, ratios[at], hit))
  values = _fraction('agc', leaves)
  for kind in ('label', 'stage'):
    for group in sorted({getattr(leaf, kind) for leaf in leaves}):
      chosen = [leaf for leaf in leaves if getattr(leaf, kind) == group]
      prefix = f'agc/{kind}/{group}'
      values |= _fraction(prefix, chosen) | _spread(prefix, chosen)
  for leaf in leaves:
    if leaf.label != 'gain_or_bias':
      values |= _fraction(f'agc/{leaf.layer}', [leaf])
  return values


def warning(values: Mapping[str, float], clipping: float) -> str | None:
  """One line if almost all units, or almost none, are clipped; else None."""
  fraction = float(values['agc/clipped_fraction'])
  if fraction > ALMOST_ALL:
    return (
      f'AGC clips {fraction:.1%} of all units: with clipping={clipping:g} only '
      'the direction of the gradient matters; try a larger clipping (smaller '
      'batches need larger values)'
    )
  if fraction < ALMOST_NONE:
    return (
      f'AGC clips {fraction:.2%} of all units: clipping={clipping:g} has '
      'almost no effect; try a smaller clipping (larger batches need smaller '
      'values)'
    )
  return None


def _fraction(prefix: str, leaves: Sequence[_Leaf]) -> dict[str, jax.Array]:
  counted = [leaf for leaf in leaves if leaf.hits is not None]
  if not counted:
    return {}
  units = sum(leaf.ratios.size for leaf in counted)
  clipped = sum(leaf.hits for leaf in counted)
  return {f'{prefix}/clipped_fraction': clipped / jnp.float32(units)}


def _spread(prefix: str, leaves: Sequence[_Leaf]) -> dict[str, jax.Array]:
  ratios = jnp.concatenate([leaf.ratios for leaf in leaves])
  values = jnp.quantile(ratios, jnp.array(QUANTILES))
  named = {
    f'{prefix}/ratio_q{round(100 * q)}': value
    for q, value in zip(QUANTILES, values)
  }
  return named | {f'{prefix}/ratio_max': jnp.max(ratios)}
