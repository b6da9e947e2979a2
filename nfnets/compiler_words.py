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
  total = 0.0
  for match in re.finditer(rf' = (.*?) (?:{names})(?:-start)?\(', text):
    total += _bytes(match[1])
  return total


# What launches nothing.
_NO_KERNEL = {
  'parameter', 'get-tuple-element', 'tuple', 'bitcast', 'constant',
  'after-all',
}  # fmt: skip
_INSTRUCTION = re.compile(
  r'\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)(?:,|$)(.*)'
)


def kernels(text: str) -> list[tuple[str, float]]:
  """What a program compiled for a GPU launches, one after the other.

  A loop and a branch count once, with what they are handed.

  Returns:
    (kind, bytes read and written) of each; a kind is 'convolution', 'product',
    'transposition' (copies too), 'elementwise' (reductions too), or 'control'
    of loops and branches.
  """
  inside = False
  sizes: dict[str, float] = {}
  found = []
  for line in text.splitlines():
    if line.startswith('ENTRY'):
      inside = True
    elif line.startswith('}'):
      inside = False
    elif inside and (match := _INSTRUCTION.match(line)):
      name, shape, operation, operands, rest = match.groups()
      sizes[name] = _bytes(shape)
      if operation not in _NO_KERNEL:
        read = re.findall(r'%([\w.\-]+)', operands)
        amount = sizes[name] + sum(sizes[operand] for operand in read)
        found.append((_kind(name, operation, rest), amount))
  return found


def _kind(name: str, operation: str, rest: str) -> str:
  if '__cudnn$conv' in rest:
    return 'convolution'
  if '__cublas' in rest or 'gemm' in name or operation == 'dot':
    return 'product'
  if operation == 'copy' or 'transpose' in name:
    return 'transposition'
  if operation in ('while', 'conditional', 'call'):
    return 'control'
  return 'elementwise'


def _bytes(shape: str) -> float:
  total = 0
  for kind, dims in re.findall(r'(\w+)\[([\d,]*)\]', shape):
    count = math.prod(int(side) for side in dims.split(',') if side)
    total += count * _WIDTHS.get(kind, 4)
  return float(total)
