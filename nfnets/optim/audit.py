"""Who is clipped, decayed, scaled and frozen: every parameter exactly once."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from nfnets.optim import agc, chain, groups


def rows(
  params: groups.Tree,
  *,
  learning_rate: float,
  weight_decay: float = 0.0,
  clipping: float | None = None,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
  clip: str = 'agc',
  axes: agc.Axes | None = None,
  decayed: str = 'weights',
  frozen: Iterable[str] = (),
  learning_rate_scales: Iterable[tuple[str, float]] = (),
) -> list[dict[str, Any]]:
  """Who is treated how: one row per group of parameters treated alike.

  Args:
    params: parameters, or their shapes.
    learning_rate: its peak, for the table.
    weight_decay: this and the rest as for `chain.sgd`.

  Returns:
    Rows with the keys `label` ('frozen' for what is), `tensors`, `parameters`,
    `units` (of AGC; what has no known units counts as 0), `weight_decay`,
    `clip`, `clipping` (None if off), `learning_rate` (scaled; 0 if frozen) and
    `paths`. Each parameter's path is in exactly one of them.
  """
  is_on = clip != 'none' and clipping is not None
  unclipped, frozen = groups.entries(unclipped), groups.entries(frozen)
  facts = (
    groups.labels(params),
    chain.is_decayed(params, decayed, frozen),
    chain.is_clipped(params, (*unclipped, *frozen)),
    groups.factors(params, learning_rate_scales, frozen),
  )
  found: dict[tuple, dict[str, Any]] = {}
  leaves, _ = jax.tree.flatten_with_path(params)
  for (path, leaf), label, has_decay, clipped, factor in zip(
    leaves, *map(jax.tree.leaves, facts)
  ):
    clipped = clipped and is_on
    label = label if factor else 'frozen'
    row = found.setdefault(
      (label, has_decay, clipped, factor),
      {
        'label': label,
        'tensors': 0,
        'parameters': 0,
        'units': 0,
        'weight_decay': weight_decay if has_decay else 0.0,
        'clip': clip if clipped else 'none',
        'clipping': clipping if clipped else None,
        'eps': eps if clipped and clip == 'agc' else None,
        'learning_rate': learning_rate * factor,
        'paths': [],
      },
    )
    name = groups.path_name(path)
    row['tensors'] += 1
    row['parameters'] += math.prod(leaf.shape)
    if clipped and clip == 'agc':
      row['units'] += agc.count_units(leaf.shape, name, axes)
    row['paths'].append(name)
  return [found[key] for key in sorted(found)]


def table(found: Sequence[Mapping[str, Any]]) -> str:
  """What `rows` returns, as a table, with a line of totals."""
  cells_of = [
    (
      'group',
      'tensors',
      'parameters',
      'decay',
      'clipping',
      'units',
      'learning rate',
      'for example',
    )
  ]
  for row in found:
    clipping = 'none'
    if row['clipping'] is not None:
      clipping = f'{row["clip"]} {row["clipping"]:g}'
    cells_of.append(
      (
        row['label'],
        f'{row["tensors"]:,}',
        f'{row["parameters"]:,}',
        f'{row["weight_decay"]:g}',
        clipping,
        f'{row["units"]:,}' if row['units'] else '-',
        f'{row["learning_rate"]:g}',
        row['paths'][0],
      )
    )
  tensors, parameters, units = (
    f'{sum(row[key] for row in found):,}'
    for key in ('tensors', 'parameters', 'units')
  )
  cells_of.append(('all', tensors, parameters, '', '', units, '', ''))
  widths = [max(map(len, column)) for column in zip(*cells_of)]
  lines = []
  for cells in cells_of:
    first, *middle, last = (
      cell.ljust(width) if index in (0, 7) else cell.rjust(width)
      for index, (cell, width) in enumerate(zip(cells, widths))
    )
    lines.append('  '.join((first, *middle, last)).rstrip())
  return '\n'.join(lines)
