"""Every parameter's label and place, and selecting parameters by either.

Parameters of equal blocks may come stacked (nfnets/stacks.py); each stack gets
what all its blocks get.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax

from nfnets import stacks

LABELS = ('gain_or_bias', 'head', 'weight')

Tree = TypeVar('Tree')


def _by_member(function: Callable[..., Tree]) -> Callable[..., Tree]:
  @functools.wraps(function)
  def decide(params: Tree, *args: Any, **kwargs: Any) -> Tree:
    return stacks.by_member(
      lambda shapes: function(shapes, *args, **kwargs), params
    )

  return decide


@_by_member
def labels(params: Tree) -> Tree:
  """Each parameter's label, in the structure of `params`.

  - `gain_or_bias`: leaves `b`, `scale`, `offset`, and any with `gain` or
    `bias` in its own name. Not decayed; clipped.
  - `head`: `w` of `<root>/~/linear`. Decayed; not clipped by default.
  - `weight`: other leaves `w`, and anything else of rank two or more. Decayed
    and clipped.

  Raises:
    ValueError: for a parameter that no rule covers.
  """
  return jax.tree.map_with_path(
    lambda path, leaf: _label(path_name(path), len(_shape(leaf))), params
  )


@_by_member
def stages(params: Tree) -> Tree:
  """Each parameter's place in the network: stem, stage_1, ..., final, other.

  A block opens a stage if it projects its shortcut or changes the width.
  Everything after the last block, the head included, is `final`; what lies
  in none of our networks' places is `other`.
  """
  of_block = _stage_of_each_block(params)

  def place(path: tuple[object, ...], leaf: jax.Array) -> str:
    top = _top_module(path_name(path))
    if top in of_block:
      return f'stage_{of_block[top]}'
    if re.match(r'stem|initial|bias1$', top):
      return 'stem'
    if re.match(r'final|linear$|bias2$', top):
      return 'final'
    return 'other'

  return jax.tree.map_with_path(place, params)


@_by_member
def select(params: Tree, wanted: Iterable[str]) -> Tree:
  """True for every parameter that one of the entries names.

  Args:
    params: parameters, or their shapes.
    wanted: labels, places as `stages` names them, or patterns for
      `re.search` in the path `module/name`, tried in this order.

  Raises:
    ValueError: for an entry that names nothing. (A label may be absent: a
      network need not have a head.)
  """
  by_label, by_stage = labels(params), stages(params)
  names = jax.tree.map_with_path(lambda path, _: path_name(path), params)
  places = set(jax.tree.leaves(by_stage))

  def hits(entry: str) -> Tree:
    if entry in LABELS:
      return jax.tree.map(lambda label: label == entry, by_label)
    if entry in places:
      return jax.tree.map(lambda stage: stage == entry, by_stage)
    found = jax.tree.map(lambda name: bool(re.search(entry, name)), names)
    if not any(jax.tree.leaves(found)):
      raise ValueError(
        f'{entry!r} is no label ({", ".join(LABELS)}), no part of the network '
        f'({", ".join(sorted(places))}), and matches no parameter'
      )
    return found

  return jax.tree.map(
    lambda _, *found: any(found),
    names,
    *[hits(entry) for entry in entries(wanted)],
  )


@_by_member
def factors(
  params: Tree, scales: Iterable[tuple[str, float]], frozen: Iterable[str] = ()
) -> Tree:
  """Each parameter's factor of the learning rate: 1 unless named, 0 if frozen.

  Args:
    params: parameters, or their shapes.
    scales: pairs of an entry as `select` reads it and a factor above 0; the
      last that names a parameter counts.
    frozen: entries.

  Raises:
    ValueError: for an entry that names nothing, or a factor that isn't above 0.
  """
  found = jax.tree.map(lambda _: 1.0, params)
  for pair in scales:
    if len(pair) != 2 or not 0 < float(pair[1]) < float('inf'):
      raise ValueError(
        f'{pair!r} is no pair of a name and a factor above 0, such as '
        "('stage_1', 0.1); what shall not move is frozen"
      )
    found = jax.tree.map(
      lambda old, hit, factor=float(pair[1]): factor if hit else old,
      found,
      select(params, pair[0]),
    )
  return jax.tree.map(
    lambda factor, hit: 0.0 if hit else factor, found, select(params, frozen)
  )


def equal_blocks(params: Tree, depths: Sequence[int]) -> list[list[str]]:
  """The paths of the blocks that `config.model.scan` runs as one loop.

  Args:
    params: a network's of ours, not stacked, or their shapes.
    depths: blocks per stage.

  Returns:
    One list for each stage that has such blocks.

  Raises:
    ValueError: the network doesn't have so many blocks.
  """
  root = next(iter(params)).partition('/')[0]
  names = {_top_module(path) for path in params}
  names = sorted((n for n in names if 'block' in n), key=_block_order)
  if len(names) != sum(depths):
    raise ValueError(f'{root} has {len(names)} blocks, not {tuple(depths)}')
  rest = iter(f'{root}/~/{name}' for name in names)
  equal = [stacks.equal(list(itertools.islice(rest, d))) for d in depths]
  return [blocks for blocks in equal if blocks]


def freeze(params: Tree, frozen: Iterable[str]) -> Tree:
  """The parameters, of which no gradient reaches those that `frozen` names.

  What a network keeps in its state isn't frozen: the statistics of batch
  normalization go on following the data.
  """
  if not frozen:
    return params
  return jax.tree.map(
    lambda leaf, hit: jax.lax.stop_gradient(leaf) if hit else leaf,
    params,
    select(params, frozen),
  )


def entries(wanted: Iterable[str]) -> tuple[str, ...]:
  """One entry or several, as a tuple."""
  return (wanted,) if isinstance(wanted, str) else tuple(wanted)


def path_name(path: tuple[object, ...]) -> str:
  """A leaf's path as `module/name`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _label(path: str, rank: int) -> str:
  name = path.rpartition('/')[2]
  if name in ('b', 'scale', 'offset') or 'gain' in name or 'bias' in name:
    return 'gain_or_bias'
  if re.fullmatch(r'[^/]+/~/linear/w', path):
    return 'head'
  if name == 'w' or rank >= 2:
    return 'weight'
  raise ValueError(
    f'no label for parameter {path} of rank {rank}: rename it (gain, bias, '
    'w) or extend nfnets.optim.groups.labels'
  )


def _stage_of_each_block(params: Tree) -> dict[str, int]:
  blocks: dict[str, dict[str, tuple[int, ...]]] = {}
  for path, leaf in jax.tree.flatten_with_path(params)[0]:
    name = path_name(path)
    top = _top_module(name)
    if 'block' in top:
      blocks.setdefault(top, {})[name.partition(top)[2]] = _shape(leaf)
  stage_of, stage, width = {}, 0, None
  for block in sorted(blocks, key=_block_order):
    shapes = blocks[block]
    projects = any('conv_shortcut' in name for name in shapes)
    convs = [name for name in shapes if re.search(r'/conv\d\w*/w$', name)]
    last_width = shapes[max(convs)][-1] if convs else width
    if not stage_of or projects or last_width != width:
      stage += 1
    stage_of[block], width = stage, last_width
  return stage_of


def _block_order(block: str) -> tuple[str, int]:
  # Haiku numbers the second of a name _1; a version (block_v2) isn't a number.
  base, index = re.fullmatch(r'(.*?block(?:_v\d+)?)(?:_(\d+))?', block).groups()
  return base, int(index or 0)


def _top_module(name: str) -> str:
  parts = [part for part in name.split('/') if part != '~']
  return parts[1] if len(parts) > 1 else ''


def _shape(leaf: object) -> tuple[int, ...]:
  return tuple(getattr(leaf, 'shape', ()))
