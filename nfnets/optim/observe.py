"""What adaptive gradient clipping does to a network, as a few numbers."""

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from nfnets import stacks
from nfnets.optim import agc, groups

QUANTILES = (0.1, 0.5, 0.9)
# Beyond these shares AGC is a fixed step length, or nothing at all.
ALMOST_ALL = 0.98
ALMOST_NONE = 0.001


def observe(
  params: groups.Tree,
  grads: groups.Tree,
  clipping: float,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
  axes: agc.Axes | None = None,
) -> dict[str, jax.Array]:
  """Shares of clipped units and quantiles of r = ||G|| / max(||W||, eps).

  Pure and traceable; give it the gradients that the chain is given, before
  clipping. A unit is clipped where r > `clipping`; shares are of the units
  that clipping applies to, quantiles of all units.

  Args:
    params: parameters, as before the step; equal blocks may be stacked.
    grads: their gradients.
    clipping: lambda.
    eps: floor of ||W||.
    unclipped: as for `chain.sgd`.
    axes: as for `agc.adaptive_grad_clip`.

  Returns:
    float32 scalars, `[]`:
    - `agc/clipped_fraction`: of the whole network.
    - `agc/label/<label>/...` and `agc/stage/<stage>/...`, with
      `clipped_fraction`, `ratio_q10`, `ratio_q50`, `ratio_q90`, `ratio_max`.
    - `agc/<layer>/clipped_fraction` for each clipped weight tensor, by its
      module's path.
    A share of nothing (all of a label unclipped, say) is left out.
  """

  norms = unit_norms(params, axes), unit_norms(grads, axes)
  shapes = stacks.shapes(params)
  return summarize(*norms, shapes, clipping, eps, unclipped)


def unit_norms(tree: groups.Tree, axes: agc.Axes | None = None) -> groups.Tree:
  """The norm of every unit: what all of `observe` is made of.

  AGC takes those of both, and the gradients' global norm is made of theirs:
  beside them a compiler reads nothing again.

  Args:
    tree: parameters or gradients.
    axes: as for `agc.adaptive_grad_clip`.

  Returns:
    A tree like it, of `[units]`; of a stack, `[blocks, units]`.
  """

  def of_leaf(path: tuple[object, ...], x: jax.Array) -> jax.Array:
    name = groups.path_name(path)
    found = agc.unitwise_norm(x, agc.unit_axes(x.shape, name, axes))
    blocks = x.shape[:1] if stacks.is_stack(name) else ()
    return found.reshape(*blocks, -1)

  return jax.tree.map_with_path(of_leaf, tree)


def summarize(
  param_norms: groups.Tree,
  grad_norms: groups.Tree,
  shapes: groups.Tree,
  clipping: float,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
) -> dict[str, jax.Array]:
  """`observe`'s scalars, of `unit_norms` and the parameters' shapes."""
  ratios = jax.tree.map(
    lambda param, grad: grad / jnp.maximum(param, eps), param_norms, grad_norms
  )
  # Stacks are taken apart when only a number for each unit is left.
  hits = jax.tree.map(lambda r: jnp.sum(r > clipping, axis=-1), ratios)
  leaves, _ = jax.tree.flatten_with_path(stacks.unstack(ratios))
  names = [groups.path_name(path) for path, _ in leaves]
  all_ratios = [leaf for _, leaf in leaves]
  shapes = stacks.unstack(shapes)
  free = jax.tree.leaves(groups.select(shapes, unclipped))
  labels = jax.tree.leaves(groups.labels(shapes))
  stages = jax.tree.leaves(groups.stages(shapes))
  hits = [
    None if is_free else hit
    for hit, is_free in zip(jax.tree.leaves(stacks.unstack(hits)), free)
  ]

  values = _fraction('agc', hits, all_ratios)
  for kind, members in (('label', labels), ('stage', stages)):
    for group in sorted(set(members)):
      chosen = [i for i, member in enumerate(members) if member == group]
      prefix = f'agc/{kind}/{group}'
      ratios = [all_ratios[i] for i in chosen]
      values |= _fraction(prefix, [hits[i] for i in chosen], ratios)
      values |= _spread(prefix, ratios)
  for name, label, hit, ratios in zip(names, labels, hits, all_ratios):
    if label != 'gain_or_bias':
      layer = name.rpartition('/')[0]
      values |= _fraction(f'agc/{layer}', [hit], [ratios])
  return values


def warning(values: Mapping[str, float], clipping: float) -> str | None:
  """One line if almost every unit, or almost none, is clipped; else None."""
  fraction = float(values['agc/clipped_fraction'])
  if fraction > ALMOST_ALL:
    return (
      f'AGC clips {fraction:.1%} of all units: with clipping={clipping:g} the '
      'gradient only gives the direction; try a larger clipping (smaller '
      'batches want larger values)'
    )
  if fraction < ALMOST_NONE:
    return (
      f'AGC clips {fraction:.2%} of all units: clipping={clipping:g} does '
      'next to nothing; try a smaller clipping (larger batches want smaller '
      'values)'
    )
  return None


def _fraction(
  prefix: str,
  hits: Sequence[jax.Array | None],
  ratios: Sequence[jax.Array],
) -> dict[str, jax.Array]:
  counted = [
    (hit, ratio.size) for hit, ratio in zip(hits, ratios) if hit is not None
  ]
  if not counted:
    return {}
  clipped = sum(hit for hit, _ in counted)
  units = sum(size for _, size in counted)
  return {f'{prefix}/clipped_fraction': clipped / jnp.float32(units)}


def _spread(prefix: str, ratios: Sequence[jax.Array]) -> dict[str, jax.Array]:
  joined = jnp.concatenate(ratios)
  values = jnp.quantile(joined, jnp.array(QUANTILES))
  named = {
    f'{prefix}/ratio_q{round(100 * q)}': value
    for q, value in zip(QUANTILES, values)
  }
  return named | {f'{prefix}/ratio_max': jnp.max(joined)}
