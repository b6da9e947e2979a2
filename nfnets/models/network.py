"""What every family shares."""

import re

_STACK = re.compile(
  r'(?P<root>(?:.*/)?)stack_(?P<first>\d+)_(?P<last>\d+)/'
  r'(?P<block>[^/]+)(?P<rest>/.*)?'
)


def is_stacked(path: str) -> bool:
  """Whether the leaves of a module hold several blocks', `[blocks, ...]`.

  Args:
    path: of a module or of one of its leaves.
  """
  return _STACK.fullmatch(path) is not None


def members(path: str) -> list[str]:
  """The public paths that a path stands for: a stack's blocks', or itself.

  `NFNet/stack_2_4/nf_block/~/conv0` holds `NFNet/~/nf_block_2/~/conv0` to
  `NFNet/~/nf_block_4/~/conv0`.
  """
  found = _STACK.fullmatch(path)
  if found is None:
    return [path]
  rest = found['rest'] or ''
  indices = range(int(found['first']), int(found['last']) + 1)
  return [f'{found["root"]}~/{found["block"]}_{i}{rest}' for i in indices]
