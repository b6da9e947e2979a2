"""Equal blocks as one: their parameters stacked, under a path of their own.

What `NFNet/~/nf_block_2/~/conv0` to `NFNet/~/nf_block_4/~/conv0` hold, the
stack `NFNet/stack_2_4/nf_block/~/conv0` holds as `[3, ...]`. A run's state is
stacked from its start on (`recipe.looped`), where `config.model.scan` asks for
loops; its checkpoints hold the blocks' own paths.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any
Value = TypeVar('Value')

_STACK = re.compile(
  r'(?P<root>(?:.*/)?)stack_(?P<first>\d+)_(?P<last>\d+)/'
  r'(?P<block>[^/]+)(?P<rest>/.*)?'
)


def equal(stage: Sequence[Value]) -> list[Value]:
  """The blocks of a stage that one loop runs: those behind the first.

  The first changes the width or the stride; one alone is no loop.
  """
  return list(stage[1:]) if len(stage) > 2 else []


def name(blocks: Sequence[str]) -> str:
  """The path of a stack of these blocks.

  Args:
    blocks: modules' paths, which Haiku numbered one after the other.
  """
  base, _, first = blocks[0].rpartition('_')
  if list(blocks) != [f'{base}_{int(first) + i}' for i in range(len(blocks))]:
    raise ValueError(f'no blocks numbered one by one: {", ".join(blocks)}')
  root, _, block = base.rpartition('~/')
  return f'{root}stack_{first}_{int(first) + len(blocks) - 1}/{block}'


def is_stack(path: object) -> bool:
  """Whether the path of a module, block or parameter is a stack's."""
  return _match(path) is not None


def members(path: str) -> list[str]:
  """The paths that a stack's path stands for; another's, alone."""
  found = _match(path)
  if found is None:
    return [path]
  numbers = range(int(found['first']), int(found['last']) + 1)
  block = f'{found["root"]}~/{found["block"]}'
  return [f'{block}_{i}{found["rest"] or ""}' for i in numbers]


def within(path: str, module: str) -> bool:
  """Whether a module's path is that of `module`, or lies in it."""
  return path == module or path.startswith(f'{module}/')


def any_in(tree: Tree) -> bool:
  """Whether a Haiku tree within `tree` holds a stack."""
  paths, _ = jax.tree.flatten_with_path(tree)
  return any(
    is_stack(getattr(k, 'key', None)) for path, _ in paths for k in path
  )


def of_all(path: str, value: Callable[[str], Value]) -> Value:
  """What `value` says of every path that this one stands for.

  Raises:
    ValueError: it doesn't say the same of all.
  """
  return _common([value(member) for member in members(path)], path)


def of(params: Tree, blocks: Sequence[str]) -> dict[str, Any]:
  """The stack of these blocks among parameters: by the paths within a block.

  Args:
    params: stacked or not.
    blocks: the paths of their modules.

  Raises:
    ValueError: they are neither stacked, as these blocks, nor there alone.
  """
  path = name(blocks)
  found = {
    p.removeprefix(path): bundle
    for p, bundle in stack(params, [blocks]).items()
    if within(p, path)
  }
  if not found:
    others = [name(stack) for stack in stacked_in(params)]
    raise ValueError(
      f'no parameters of {blocks[0]} to {blocks[-1]}, alone or as {path}; '
      f'stacked are {", ".join(others) or "none"}: take stacks.unstack of them'
    )
  return found


def stacked_in(params: Tree) -> list[list[str]]:
  """The blocks of each stack in a Haiku tree."""
  paths = {
    path.removesuffix(found['rest'] or '')
    for path in params
    if (found := _match(path))
  }
  return [members(path) for path in sorted(paths)]


def stack(
  tree: Tree,
  blocks: Sequence[Sequence[str]],
  join: Callable[[list[Any], str], Any] | None = None,
) -> Tree:
  """Stacks the blocks' leaves in every Haiku tree within `tree`.

  Args:
    tree: parameters, or what holds trees of their paths, as an optimizer's
      state does; arrays, NumPy's or shapes, `[...]`.
    blocks: for each stack the paths of its modules.
    join: makes one leaf of the members' (which, and the stack's path).

  Returns:
    The same tree with leaves `[blocks, ...]` at the stacks' paths.
  """
  join = join or (lambda leaves, path: _joined(leaves))

  def of_haiku(modules: dict) -> dict:
    modules = dict(modules)
    for chosen in blocks:
      for path in [p for p in modules if within(p, chosen[0])]:
        rest = path.removeprefix(chosen[0])
        bundles = [modules.pop(block + rest) for block in chosen]
        whole = name(chosen) + rest
        modules[whole] = {
          key: _over_members(
            [bundle[key] for bundle in bundles], join, f'{whole}/{key}'
          )
          for key in bundles[0]
        }
    return modules

  return _over_haiku(of_haiku, tree)


def unstack(tree: Tree) -> Tree:
  """The inverse of `stack`: every leaf at its block's own path.

  Args:
    tree: what `stack` gave, or another: what isn't stacked stays.
  """

  def of_haiku(modules: dict) -> dict:
    result = {}
    for path, bundle in modules.items():
      own = members(path)
      if own == [path]:
        result[path] = bundle
        continue
      leaves, structure = jax.tree.flatten(dict(bundle))
      parts = zip(*[_split(leaf, len(own)) for leaf in leaves], strict=True)
      parts = list(parts) if leaves else [()] * len(own)
      for member, part in zip(own, parts, strict=True):
        result[member] = jax.tree.unflatten(structure, part)
    return result

  return _over_haiku(of_haiku, tree)


def by_member(function: Callable[[Tree], Tree], params: Tree) -> Tree:
  """What a function of the blocks' own paths says, in stacked structure.

  Args:
    function: of the shapes of unstacked parameters, to a tree of equal
      structure whose leaves are no arrays.
    params: stacked or not.

  Raises:
    ValueError: it says different things of the blocks of one stack.
  """
  if not isinstance(params, Mapping) or not (found := stacked_in(params)):
    return function(params)
  return stack(function(unstack(shapes(params))), found, _common)


def shapes(tree: Tree) -> Tree:
  """What is known of a tree of arrays without their values."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _match(path: object) -> re.Match | None:
  found = _STACK.fullmatch(path) if isinstance(path, str) else None
  return found if found and int(found['first']) < int(found['last']) else None


def _common(values: list[Value], path: str) -> Value:
  for other, value in zip(members(path), values, strict=True):
    if value != values[0]:
      raise ValueError(
        f'{members(path)[0]}: {values[0]}, but {other}: {value}; they are '
        'stacked and run as one loop, so name both or neither, or unstack them '
        '(config.model.scan=False)'
      )
  return values[0]


def _over_haiku(function: Callable[[dict], dict], tree: Tree) -> Tree:
  def is_haiku(node: object) -> bool:
    return (
      isinstance(node, Mapping)
      and len(node) > 0
      and all(is_bundle(bundle) for bundle in node.values())
    )

  def is_bundle(node: object) -> bool:
    return isinstance(node, Mapping) and not any(
      isinstance(leaf, Mapping) for leaf in node.values()
    )

  return jax.tree.map(
    lambda node: function(node) if is_haiku(node) else node,
    tree,
    is_leaf=is_haiku,
  )


def _over_members(
  leaves: list[Any], join: Callable[[list[Any], str], Any], path: str
) -> Any:
  # Beside arrays there are optax's placeholders, of no leaves.
  return jax.tree.map(lambda *parts: join(list(parts), path), *leaves)


def _joined(leaves: list[Any]) -> Any:
  first = leaves[0]
  if isinstance(first, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct((len(leaves), *first.shape), first.dtype)
  return (jnp if isinstance(first, jax.Array) else np).stack(leaves)


def _split(leaf: Any, count: int) -> list[Any]:
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)] * count
  return [leaf[i] for i in range(count)]


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
  stages = [equal(list(itertools.islice(rest, depth))) for depth in depths]
  return [blocks for blocks in stages if blocks]


def _block_order(block: str) -> tuple[str, int]:
  # Haiku numbers the second of a name _1; a version (block_v2) isn't a number.
  base, index = re.fullmatch(r'(.*?block(?:_v\d+)?)(?:_(\d+))?', block).groups()
  return base, int(index or 0)


def _top_module(name: str) -> str:
  parts = [part for part in name.split('/') if part != '~']
  return parts[1] if len(parts) > 1 else ''
