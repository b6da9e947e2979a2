"""What XLA's refusals and compiled programs say, read from their text."""

import math
import re

_WIDTHS = {'f64': 8, 's64': 8, 'u64': 8, 'bf16': 2, 'f16': 2, 's16': 2,
           'u16': 2, 'pred': 1, 's8': 1, 'u8': 1}  # fmt: skip
_COLLECTIVES = (
  'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all',
  'collective-permute',
)  # fmt: skip


def needed_memory(message: str) -> float | None:
  """Bytes in the compiler's refusal; None if it is about something else."""
  if 'RESOURCE_EXHAUSTED' not in message:
    return None
  patterns = (r'Used ([\d.]+)([KMGT]?) of', r'\(([\d.]+)([KMGT]?)\) exceeds')
  found = [m for p in patterns if (m := re.search(p, message))]
  if not found:
    return math.inf
  power = ' KMGT'.index(found[0][2] or ' ')
  return float(found[0][1]) * 1024**power


def collective_bytes(text: str) -> float:
  """Of the results of a compiled program's collectives."""
  names = '|'.join(_COLLECTIVES)
  total = 0
  for match in re.finditer(rf' = (.*?) (?:{names})(?:-start)?\(', text):
    for kind, dims in re.findall(r'(\w+)\[([\d,]*)\]', match[1]):
      count = math.prod(int(side) for side in dims.split(',') if side)
      total += count * _WIDTHS.get(kind, 4)
  return float(total)
