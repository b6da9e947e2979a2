"""Statistics of adaptive gradient clipping (AGC)."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

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
  clipping: float | None,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
) -> dict[str, jax.Array]:
  """Fractions of clipped units and quantiles of r = ||G|| / max(||W||, eps).

  Pure and traceable. A unit is clipped if r > `clipping`. The fractions count
  only units that clipping applies to, the quantiles all units. Of a run without
  AGC, they are what this lambda would clip.

  Args:
    params: parameters before the step.
    grads: their gradients before clipping.
    clipping: lambda; None if nothing is clipped, for quantiles alone.
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
  norms = agc.unit_norms(params), agc.unit_norms(grads)
  return summarize(params, *norms, clipping, eps, unclipped)


def summarize(
  params: Tree,
  param_norms: Tree,
  grad_norms: Tree,
  clipping: float | None,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
) -> dict[str, jax.Array]:
  """As `observe`, from `agc.unit_norms`; `params` may be shapes."""
  groups = collections.defaultdict(list)
  for (path, param), grad, label, stage, is_unclipped in zip(
    jax.tree.flatten_with_path(param_norms)[0],
    jax.tree.leaves(grad_norms),
    jax.tree.leaves(parameters.labels(params)),
    jax.tree.leaves(parameters.stages(params)),
    jax.tree.leaves(parameters.select(params, unclipped)),
  ):
    name = parameters.path_name(path)
    ratios = grad / jnp.maximum(param, eps)
    is_spared = is_unclipped or clipping is None
    clipped = None if is_spared else jnp.sum(ratios > clipping, axis=-1)
    for index, member in enumerate(network.members(name)):
      keys = ['agc', f'agc/label/{label}', f'agc/stage/{stage}']
      if label != 'gain_or_bias':
        keys.append(f'agc/{member.rpartition("/")[0]}')
      at = index if network.is_stacked(name) else ...
      for key in keys:
        count = None if is_spared else clipped[at]
        groups[key].append((ratios[at], count))
  values = {}
  for key, leaves in groups.items():
    values |= _fraction(key, leaves)
    if key.startswith(('agc/label/', 'agc/stage/')):
      values |= _quantiles(key, leaves)
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


def _fraction(key: str, leaves: list[tuple]) -> dict[str, jax.Array]:
  units = sum(ratios.size for ratios, clipped in leaves if clipped is not None)
  clipped = sum(clipped for _, clipped in leaves if clipped is not None)
  return (
    {f'{key}/clipped_fraction': clipped / jnp.float32(units)} if units else {}
  )


def _quantiles(key: str, leaves: list[tuple]) -> dict[str, jax.Array]:
  ratios = jnp.concatenate([ratios for ratios, _ in leaves])
  values = jnp.quantile(ratios, jnp.array(QUANTILES))
  named = {
    f'{key}/ratio_q{round(100 * q)}': value
    for q, value in zip(QUANTILES, values)
  }
  return named | {f'{key}/ratio_max': jnp.max(ratios)}
