"""Stacked parameters to the public paths, and back.

With `scan`, equal blocks of a stage are one stack while a network trains
(`models.network` has the rule of the paths); what leaves a run has the public
paths, a path per block.
"""

from typing import Any

import numpy as np

from nfnets.models import network
from nfnets.weights import match


def unstack(tree: match.Tree) -> dict[str, dict[str, Any]]:
  """The tree with every block's leaves under the block's own path.

  Args:
    tree: leaves of stacks `[blocks, ...]`; others stay as they are.
  """
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
  """The inverse of `unstack`, for a network whose tree is `like`.

  Args:
    tree: of public paths.
    like: of the same network; its leaves aren't read.

  Raises:
    ValueError: a block that a stack holds is missing.
  """
  result: dict[str, dict[str, Any]] = {}
  taken = set()
  for path, leaves in like.items():
    members = network.members(path)
    if not network.is_stacked(path) or path in tree:
      continue
    missing = [member for member in members if member not in tree]
    if missing:
      raise ValueError(f'no parameters of {missing[0]}, which {path} holds')
    taken.update(members)
    result[path] = {
      name: np.stack([np.asarray(tree[member][name]) for member in members])
      for name in leaves
    }
  return {p: dict(x) for p, x in tree.items() if p not in taken} | result
