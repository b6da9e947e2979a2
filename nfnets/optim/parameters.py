"""Every parameter's label and stage, and how settings select parameters.

Trees are Haiku's parameters, `{module: {name: leaf}}`, or their shapes. Where
`config.model.scan` stacks blocks, a leaf stands for several public paths; see
`network.members`.
"""

import contextlib
import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax

from nfnets.models import network

LABELS = ('gain_or_bias', 'head', 'weight')

Tree = Any
Value = TypeVar('Value')


def labels(params: Tree) -> Tree:
  """Each parameter's label, in the structure of `params`.

  - `gain_or_bias`: leaves `b`, `scale`, `offset`, and all whose own name
    contains `gain` or `bias`. Clipped, not decayed.
  - `head`: `w` of `<root>/~/linear`. Decayed, by default not clipped.
  - `weight`: other leaves `w`, and all others of rank two or more. Decayed and
    clipped.

  Raises:
    ValueError: if no rule covers a parameter.
  """

  def label(path: tuple, leaf: jax.Array) -> str:
    path = path_name(path)
    name = path.rpartition('/')[2]
    if name in ('b', 'scale', 'offset') or 'gain' in name or 'bias' in name:
      return 'gain_or_bias'
    if re.fullmatch(r'[^/]+/~/linear/w', path):
      return 'head'
    rank = len(getattr(leaf, 'shape', ())) - network.is_stacked(path)
    if name == 'w' or rank >= 2:
      return 'weight'
    raise ValueError(
      f'no label for parameter {path} of rank {rank}: rename it (gain, bias, '
      'w) or extend nfnets.optim.parameters.labels'
    )

  return jax.tree.map_with_path(label, params)


def stages(params: Tree) -> Tree:
  """Each parameter's stage: stem, stage_1, stage_2, ..., final or other.

  A block begins a stage if it projects its shortcut or changes the width. All
  that follows the last block is `final`, including the head. `other` is for
  modules whose names aren't those of our networks. A CIFAR network without
  normalization or with batch normalization pads its shortcuts: two of its
  stages count as one if their widths are equal.
  """
  of_block = _stage_of_each_block(params)

  def stage(path: tuple, _: jax.Array) -> str:
    top = _top_module(network.members(path_name(path))[0])
    if top in of_block:
      return f'stage_{of_block[top]}'
    if re.match(r'stem|initial|bias1$', top):
      return 'stem'
    return 'final' if re.match(r'final|linear$|bias2$', top) else 'other'

  return jax.tree.map_with_path(stage, params)


def _stage_of_each_block(params: Tree) -> dict[str, int]:
  widths, projects = {}, set()  # widths of each block's last convolution
  for path, leaf in jax.tree.flatten_with_path(params)[0]:
    for name in network.members(path_name(path)):
      block = _top_module(name)
      if 'block' in block:
        widths.setdefault(block, None)
        if 'conv_shortcut' in name:
          projects.add(block)
        elif re.search(r'/conv\d\w*/w$', name):  # paths are sorted
          widths[block] = leaf.shape[-1]
  stage_of, before = {}, None
  for block in sorted(widths, key=_block_order):
    width = widths[block] or before
    begins = not stage_of or block in projects or width != before
    stage_of[block] = max(stage_of.values(), default=0) + begins
    before = width
  return stage_of


def _block_order(block: str) -> tuple[str, int]:
  # Haiku appends _1 to the second module of a name; the _v2 of block_v2 isn't
  # such a number.
  base, index = re.fullmatch(r'(.*?block(?:_v\d+)?)(?:_(\d+))?', block).groups()
  return base, int(index or 0)


def _top_module(name: str) -> str:
  parts = [part for part in name.split('/') if part != '~']
  return parts[1] if len(parts) > 1 else ''


def select(params: Tree, entries: Iterable[str]) -> Tree:
  """A tree of booleans: True for each parameter that an entry selects.

  Args:
    params: parameters, or their shapes.
    entries: labels, stages, or patterns for `re.search` in the public path
      `module/name`, tried in this order.

  Raises:
    ValueError: if an entry is empty, matches no parameter, or selects only some
      blocks of a stack. (A label may match none: a network can lack a head.)
  """
  by_label, by_stage = labels(params), stages(params)
  names = (*LABELS, *sorted(set(jax.tree.leaves(by_stage))))
  found = jax.tree.map(lambda _: False, params)
  for entry in as_entries(entries):
    if entry in names:
      hits = jax.tree.map(
        lambda *own, entry=entry: entry in own, by_label, by_stage
      )
    else:
      hits = matches(params, entry, f' and is not one of {", ".join(names)}')
    found = jax.tree.map(operator.or_, found, hits)
  return found


def freeze(params: Tree, frozen: Iterable[str]) -> Tree:
  """The parameters, with no gradient to those that `frozen` selects.

  A network's state isn't frozen: the statistics of batch normalization continue
  to follow the data.
  """
  return jax.tree.map(
    lambda leaf, hit: jax.lax.stop_gradient(leaf) if hit else leaf,
    params,
    select(params, frozen),
  )


def matches(params: Tree, patterns: Iterable[str], also: str = '') -> Tree:
  """A tree of booleans: True for each parameter that a pattern matches.

  Args:
    params: parameters, or their shapes.
    patterns: for `re.search` in the public path `module/name`.
    also: continues the error message about a pattern that matches nothing.

  Raises:
    ValueError: if a pattern is empty, invalid, matches no parameter, or matches
      only some blocks of a stack.
  """
  patterns = as_entries(patterns)
  leaves, structure = jax.tree.flatten_with_path(params)
  names = [path_name(path) for path, _ in leaves]
  public = [member for name in names for member in network.members(name)]
  for pattern in patterns:
    try:
      is_found = any(re.search(pattern, name) for name in public)
    except (re.error, TypeError) as error:
      raise ValueError(f'{pattern!r} is not a pattern: {error}') from error
    if not is_found:
      raise ValueError(f'{pattern!r} matches no parameter{also}')

  def hit(name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)

  return structure.unflatten([of_members(name, hit) for name in names])


def as_entries(entries: Iterable[str]) -> tuple[str, ...]:
  """One entry or several as a tuple; an empty entry is a ValueError."""
  entries = (entries,) if isinstance(entries, str) else tuple(entries)
  if '' in entries:
    raise ValueError(
      "an empty pattern '' would match every parameter: use '.' for all "
      'parameters, or an empty tuple () for none'
    )
  return entries


@contextlib.contextmanager
def naming(key: str, value: object) -> Iterator[None]:
  """Prefixes a ValueError from the block with the setting it is about."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{key}={value!r}: {error}') from error


def path_name(path: tuple[object, ...]) -> str:
  """A leaf's path as `module/name`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def map_blocks(function: Callable[..., jax.Array], *trees: Tree) -> Tree:
  """Maps `function(name, *leaves)` over trees, and over the blocks of a stack.

  `name` is the leaf's path, `module/name`.
  """

  def of_leaf(path: tuple, *leaves: jax.Array) -> jax.Array:
    name = path_name(path)
    of_block = functools.partial(function, name)
    if network.is_stacked(name):
      of_block = jax.vmap(of_block)
    return of_block(*leaves)

  return jax.tree.map_with_path(of_leaf, *trees)


def of_members(name: str, function: Callable[[str], Value]) -> Value:
  """The one value that `function` has for all public paths of a leaf.

  Raises:
    ValueError: if it differs between the blocks of a stack.
  """
  first, *others = map(function, network.members(name))
  if any(other != first for other in others):
    raise ValueError(
      f'{name} stacks several blocks (config.model.scan=True): select all of '
      'them or none'
    )
  return first
