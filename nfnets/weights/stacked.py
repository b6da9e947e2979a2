"""Converts between stacked parameters and the public paths.

With `scan`, the equal blocks of a stage are stacked during training (the paths
are defined in `models.network`); whatever leaves a run has the public paths,
one per block.
"""

from typing import Any

import numpy as np

from nfnets.models import network
from nfnets.weights import match


def unstack(tree: match.Tree) -> dict[str, dict[str, Any]]:
  """Splits stacked leaves `[blocks, ...]` into the blocks' own paths."""
  result: dict[str, dict[str, Any]] = {}
  for path, leaves in tree.items():
    members = network.members(path)
    for index, member in enumerate(members):
      result[member] = {
        name: leaf[index] if network.is_stacked(path) else leaf
        for name, leaf in leaves.items()
      }
  return result


def stack_like(tree: match.Tree, like: match.Tree) -> dict[str, dict[str, Any]]:
  """Stacks a tree of public paths as in `like`, a tree of the same network.

  Raises:
    ValueError: a block of a stack is missing.
  """
  result: dict[str, dict[str, Any]] = {}
  taken = set()
  for path, leaves in like.items():
    members = network.members(path)
    if not network.is_stacked(path) or path in tree:
      continue
    missing = [member for member in members if member not in tree]
    if missing:
      raise ValueError(f'no parameters of {missing[0]}, a block of {path}')
    taken.update(members)
    result[path] = {
      name: np.stack([np.asarray(tree[member][name]) for member in members])
      for name in leaves
    }
  return {p: dict(x) for p, x in tree.items() if p not in taken} | result
