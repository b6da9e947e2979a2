"""What XLA's refusals and compiled programs say, read from their text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

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


# What computes nothing.
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
  return [
    (_kind(name, operation, rest), sum(map(_bytes, [shape, *operands])))
    for name, shape, operation, operands, rest in _instructions(text)
  ]


class Traffic(NamedTuple):
  """Bytes that a program compiled for a TPU reads and writes.

  Attributes:
    operations: of what computes, wherever its arrays lie.
    memory: of the chip's memory: what operations read and write there, and
      copies between it and on-chip memory.
  """

  operations: float
  memory: float


def traffic(text: str) -> Traffic:
  """Counts a program without loops; a fused slice counts as all it cuts from.

  The compiler's own count has copies to and from on-chip memory besides, a
  piece's copy as large as the whole array.
  """
  operations = memory = 0.0
  for _, shape, operation, operands, rest in _instructions(text):
    if operation in ('copy-start', 'slice-start'):
      # A tuple: for a copy (to, from, ...), for a slice ((whole), piece, ...).
      arrays = _ARRAY.findall(shape)
      if operation == 'slice-start':
        kind, sides, _ = arrays[1]
        arrays[0] = kind, sides, arrays[0][2]
      memory += _in_memory(arrays[:2])
    elif operation not in ('copy-done', 'slice-done') and not (
      # Pieces that were copied one by one already lie side by side.
      operation == 'custom-call' and '"ConcatBitcast"' in rest
    ):
      arrays = _ARRAY.findall(' '.join([shape, *operands]))
      operations += sum(map(_size, arrays))
      memory += _in_memory(arrays)
  return Traffic(operations, memory)


def _instructions(text: str) -> Iterator[tuple[str, str, str, list[str], str]]:
  """(name, shape, operation, operands' shapes, attributes) of what works."""
  inside = False
  shapes: dict[str, str] = {}
  for line in text.splitlines():
    if line.startswith('ENTRY'):
      inside = True
    elif line.startswith('}'):
      inside = False
    elif inside and (match := _INSTRUCTION.match(line)):
      name, shape, operation, operands, rest = match.groups()
      shapes[name] = shape
      if operation not in _NO_KERNEL:
        read = re.findall(r'%([\w.\-]+)', operands)
        yield name, shape, operation, [shapes[name] for name in read], rest


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


# Kind, sides, and where its layout puts it, such as '{1,0:T(8,128)S(1)}'.
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](\{[^}]*\})?')


def _bytes(shape: str) -> float:
  return sum(map(_size, _ARRAY.findall(shape)))


def _in_memory(arrays: list[tuple[str, str, str]]) -> float:
  return sum(_size(array) for array in arrays if 'S(' not in array[2])


def _size(array: tuple[str, str, str]) -> float:
  kind, sides, _ = array
  count = math.prod(int(side) for side in sides.split(',') if side)
  return float(count * _WIDTHS.get(kind, 4))
