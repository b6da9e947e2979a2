"""What compiled programs do, read from their text."""

import math
import re
from typing import NamedTuple

_WIDTHS = {'f64': 8, 's64': 8, 'u64': 8, 'bf16': 2, 'f16': 2, 's16': 2,
           'u16': 2, 'pred': 1, 's8': 1, 'u8': 1}  # fmt: skip


class Instruction(NamedTuple):
  """A line of a compiled program.

  Attributes:
    name: without '%'.
    shape: of the result, such as 'f32[2,8]{1,0}'; of a tuple '(...)'.
    operation: such as 'fusion'.
    operands: their names.
    attributes: the line's rest.
  """

  name: str
  shape: str
  operation: str
  operands: list[str]
  attributes: str


# What computes nothing.
PLUMBING = {
  'parameter', 'get-tuple-element', 'tuple', 'bitcast', 'constant',
  'after-all',
}  # fmt: skip
_HEAD = re.compile(r'(ENTRY )?%([\w.\-]+) \(.*\{')
_INSTRUCTION = re.compile(
  r'\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)(?:,|$)(.*)'
)


def computations(text: str) -> dict[str, list[Instruction]]:
  """A compiled program's computations by name, the main one as 'ENTRY'."""
  found: dict[str, list[Instruction]] = {}
  for line in text.splitlines():
    if match := _HEAD.match(line):
      lines = found['ENTRY' if match[1] else match[2]] = []
    elif match := _INSTRUCTION.match(line):
      name, shape, operation, operands, rest = match.groups()
      if operation != 'parameter':  # whose operand is its number
        operands = re.findall(r'%([\w.\-]+)', operands)
      else:
        operands = [operands]
      lines.append(Instruction(name, shape, operation, operands, rest))
  return found


def kernels(text: str) -> list[tuple[str, float]]:
  """What a program compiled for a GPU launches, one after the other.

  A loop and a branch count once, with what they are handed.

  Returns:
    (kind, bytes read and written) of each; a kind is 'convolution', 'product',
    'transposition' (copies too), 'elementwise' (reductions too), or 'control'
    of loops and branches.
  """
  entry = computations(text)['ENTRY']
  sizes = {line.name: _bytes(line.shape) for line in entry}
  return [
    (
      _kind(line.name, line.operation, line.attributes),
      sizes[line.name] + sum(sizes[name] for name in line.operands),
    )
    for line in entry
    if line.operation not in PLUMBING
  ]


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


class Array(NamedTuple):
  """Of a shape: 'f32', its sides, and its layout such as '{1,0:T(8,128)}'."""

  kind: str
  sides: list[int]
  layout: str

  @property
  def bytes(self) -> float:
    """Without padding."""
    return float(math.prod(self.sides) * _WIDTHS.get(self.kind, 4))


def arrays(shape: str) -> list[Array]:
  """Of a shape, which a tuple's may nest."""
  return [
    Array(kind, [int(side) for side in sides.split(',') if side], layout)
    for kind, sides, layout in re.findall(
      r'(\w+)\[([\d,]*)\](\{[^}]*\})?', shape
    )
  ]


def _bytes(shape: str) -> float:
  return sum(array.bytes for array in arrays(shape))
