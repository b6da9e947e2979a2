"""Compares a tree of weights with a network's own, and reports differences."""

import re
from collections.abc import Mapping
from typing import Any

Tree = Mapping[str, Mapping[str, Any]]
_SHOWN = 4  # differences of each kind in a message


class Mismatch(ValueError):
  """The weights belong to another network: the message has the differences."""


def flatten(tree: Tree) -> dict[str, Any]:
  """`{module: {name: leaf}}` as `{'module/name': leaf}`, the public paths."""
  return {
    f'{module}/{name}': leaf
    for module, leaves in tree.items()
    for name, leaf in leaves.items()
  }


def unflatten(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """The reverse of `flatten`."""
  tree: dict[str, dict[str, Any]] = {}
  for path, leaf in leaves.items():
    module, slash, name = path.rpartition('/')
    if not slash:
      raise ValueError(f'{path!r} is not the path of a parameter, module/name')
    tree.setdefault(module, {})[name] = leaf
  return tree


def without_head(tree: Tree) -> dict[str, dict[str, Any]]:
  """The tree without the head's weight and bias."""
  return unflatten({p: x for p, x in flatten(tree).items() if not is_head(p)})


def is_head(path: str) -> bool:
  """Whether the path `module/name` is that of the head's weight or bias."""
  return re.fullmatch(r'[^/]+/~/linear/[wb]', path) is not None


def require(found: Tree, wanted: Tree, source: str = 'the weights') -> None:
  """Checks that both trees have the same paths with the same shapes.

  Args:
    found: the tree to check; its leaves are arrays or shapes.
    wanted: the network's own, such as from `jax.eval_shape`.
    source: where the tree is from, for the message.

  Raises:
    Mismatch: lists the missing, unexpected and wrongly shaped leaves, those of
      several blocks in one entry.
  """
  have = {path: tuple(leaf.shape) for path, leaf in flatten(found).items()}
  need = {path: tuple(leaf.shape) for path, leaf in flatten(wanted).items()}
  missing = {p: f'{need[p]}' for p in need.keys() - have.keys()}
  unexpected = {p: f'{have[p]}' for p in have.keys() - need.keys()}
  wrong = {
    p: f'{have[p]}, needs {need[p]}'
    for p in need.keys() & have.keys()
    if have[p] != need[p]
  }
  if not (missing or unexpected or wrong):
    return
  parts = [
    f'{title} {"; ".join(shown[:_SHOWN])}'
    + (f' and {len(shown) - _SHOWN} more' if len(shown) > _SHOWN else '')
    for title, leaves in (
      ('missing:', missing),
      ('unexpected:', unexpected),
      ('shape:', wrong),
    )
    if (shown := _grouped(leaves))
  ]
  raise Mismatch(
    f'{source}: not the weights of this network ({len(missing)} missing, '
    f'{len(unexpected)} unexpected, {len(wrong)} of another shape). '
    + '. '.join(parts)
  )


def _grouped(leaves: Mapping[str, str]) -> list[str]:
  """Lines `path text`, one for all paths that differ in the block's number."""
  groups: dict[str, list[str]] = {}
  for path, text in leaves.items():
    pattern = re.sub(r'block(_\d+)?(?=/)', 'block_*', path)
    groups.setdefault(f'{pattern} {text}', []).append(f'{path} {text}')
  return sorted(
    found[0] if len(found) == 1 else f'{pattern} in {len(found)} blocks'
    for pattern, found in groups.items()
  )
