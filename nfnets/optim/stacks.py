"""Equal blocks' parameters as one array each while a step runs, and back.

A network that loops over its equal blocks (`models.stages`, scan) takes them
so, and all that follows the gradient is compiled once for the whole stack.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nfnets.optim import groups

Tree = Any


class Stacks(NamedTuple):
  """Which parameters stand in one stack.

  Attributes:
    blocks: the modules of each stage's equal blocks, by the first of them,
      whose paths the stack has.
    names: `module/name` of every stack: what clippers take as `stacked`.
    paths: every module of the network, as it is outside.
  """

  blocks: Mapping[str, tuple[str, ...]]
  names: frozenset[str]
  paths: frozenset[str]

  def stack(self, tree: Tree) -> Tree:
    """Stacks every tree of parameters that `tree` holds, at any depth.

    Args:
      tree: such as an optimizer's state, with dicts `{module: {name: array}}`
        of all modules in it; the rest stays as it is.

    Returns:
      The same, with n equal blocks' arrays as one `[n, ...]` at the path of the
      first, and without the others' paths.
    """
    return _replace(tree, self.paths, self._stack)

  def unstack(self, tree: Tree) -> Tree:
    """What `stack` was given, from what it returned."""
    inside = {path for path in self.paths if not self._is_later(path)}
    return _replace(tree, inside, self._unstack)

  def _is_later(self, path: str) -> bool:
    """Whether the module lies in a stack, but not in its first block."""
    top = groups.top_module(path)
    return any(top in blocks[1:] for blocks in self.blocks.values())

  def _stack(self, params: dict) -> dict:
    stacked = {}
    for path, leaves in params.items():
      if self._is_later(path):
        continue
      blocks = self.blocks.get(groups.top_module(path))
      if blocks:
        rows = [params[_in_block(path, block)] for block in blocks]
        leaves = jax.tree.map(lambda *row: jnp.stack(row), *rows)
      stacked[path] = leaves
    return stacked

  def _unstack(self, stacked: dict) -> dict:
    params = {}
    for path, leaves in stacked.items():
      blocks = self.blocks.get(groups.top_module(path))
      if not blocks:
        params[path] = leaves
        continue
      for index, block in enumerate(blocks):
        params[_in_block(path, block)] = jax.tree.map(
          lambda x, index=index: x[index], leaves
        )
    return params


def find(
  params: Tree, depths: Sequence[int] = (), entries: Iterable[str] = ()
) -> Stacks:
  """The stacks of a network whose equal blocks run as a loop.

  Args:
    params: `{module: {name: array}}`, or their shapes.
    depths: blocks of each stage; without any, nothing is stacked.
    entries: whom something treats in its own way, as `groups.select` reads
      them; a stage of which they don't take all equal blocks or none is left
      as it is.
  """
  hits = [groups.select(params, entry) for entry in groups.entries(entries)]
  blocks = iter(groups.block_names(params))
  stacks = {}
  for depth in depths:
    equal = tuple(block for _, block in zip(range(depth), blocks))[1:]
    if len(equal) > 1 and all(_is_same(hit, equal) for hit in hits):
      stacks[equal[0]] = equal
  names = {
    f'{path}/{name}'
    for path, leaves in params.items()
    for name in leaves
    if groups.top_module(path) in stacks
  }
  return Stacks(stacks, frozenset(names), frozenset(params))


def _is_same(tree: Tree, blocks: Sequence[str]) -> bool:
  """Whether the tree holds the same for every block."""
  inner = [
    {
      _in_block(path, ''): leaves
      for path, leaves in tree.items()
      if groups.top_module(path) == block
    }
    for block in blocks
  ]
  return all(other == inner[0] for other in inner)


def _in_block(path: str, block: str) -> str:
  """The path of the same module in another block."""
  top = groups.top_module(path)
  return '/'.join(block if part == top else part for part in path.split('/'))


def _replace(
  tree: Tree, paths: Iterable[str], change: Callable[[dict], dict]
) -> Tree:
  def is_params(node: Any) -> bool:
    return isinstance(node, dict) and node.keys() == set(paths)

  return jax.tree.map(
    lambda node: change(node) if is_params(node) else node,
    tree,
    is_leaf=is_params,
  )
