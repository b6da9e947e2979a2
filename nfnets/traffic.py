"""What a TPU's compiled program reads and writes, and where."""

import collections
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nfnets import compiler_words
from nfnets.compiler_words import Array, Instruction


class Traffic(NamedTuple):
  """Bytes that a program reads and writes, arrays padded to their tiles.

  Attributes:
    operations: of all that computes, wherever its arrays lie.
    hbm: of the chip's memory: what operations read and write there, and copies
      between it and on-chip memory.
  """

  operations: float
  hbm: float


def of(text: str) -> Traffic | None:
  """Counts a program without loops and branches; None where it has some.

  Of an array that a fusion only cuts pieces from, the pieces count. The
  compiler's own count has a copy to or from on-chip memory about four times,
  and a piece's copy as large as the whole.
  """
  computations = compiler_words.computations(text)
  entry = computations['ENTRY']
  if any(line.operation in ('while', 'conditional', 'call') for line in entry):
    return None
  shapes = {line.name: line.shape for line in entry}
  operations = hbm = 0.0
  for line in entry:
    if line.operation in ('copy-start', 'slice-start'):
      hbm += _in_hbm(_ends(line))
    elif not _is_free(line):
      moved = compiler_words.arrays(line.shape)
      moved += _read(line, shapes, computations)
      operations += sum(map(_bytes, moved))
      hbm += _in_hbm(moved)
  return Traffic(operations, hbm)


def _ends(line: Instruction) -> list[Array]:
  """What a copy writes and reads."""
  # The result is (to, from, flag) of a copy, ((whole), piece, flag) of a slice.
  first, second = compiler_words.arrays(line.shape)[:2]
  if line.operation == 'slice-start':
    first = first._replace(sides=second.sides)
  return [first, second]


def _is_free(line: Instruction) -> bool:
  # The custom call joins pieces that lie side by side already.
  return (
    line.operation in compiler_words.PLUMBING
    or line.operation.endswith('-done')
    or '"ConcatBitcast"' in line.attributes
  )


def _read(
  line: Instruction,
  shapes: Mapping[str, str],
  computations: Mapping[str, Sequence[Instruction]],
) -> list[Array]:
  """What an operation reads."""
  called = re.search(r'calls=%([\w.\-]+)', line.attributes)
  inside = computations.get(called[1], []) if called else []
  pieces = _pieces(inside)
  found = []
  for index, name in enumerate(line.operands):
    found += pieces.get(index) or compiler_words.arrays(shapes[name])
  return found


def _pieces(inside: Sequence[Instruction]) -> dict[int, list[Array]]:
  """Of a fusion's parameters that are only cut from: what is cut, by number."""
  uses = collections.defaultdict(list)
  for line in inside:
    for name in line.operands:
      uses[name].append(line)
  return {
    int(line.operands[0]): [
      array
      for use in uses[line.name]
      for array in compiler_words.arrays(use.shape)
    ]
    for line in inside
    if line.operation == 'parameter'
    and all(use.operation == 'slice' for use in uses[line.name])
  }


def _in_hbm(found: Sequence[Array]) -> float:
  """Of those that a layout such as '{1,0:T(8,128)S(1)}' puts nowhere else."""
  return sum(_bytes(array) for array in found if 'S(' not in array.layout)


def _bytes(array: Array) -> float:
  """With the densest axes padded to the layout's tile, where it has one."""
  tiled = re.match(r'\{([\d,]+):T\(([\d,]+)\)', array.layout)
  if tiled is None:
    return array.bytes
  order, tile = (
    [int(number) for number in numbers.split(',')] for numbers in tiled.groups()
  )
  sides = list(array.sides)
  for axis, edge in zip(order, reversed(tile)):
    sides[axis] = -(-sides[axis] // edge) * edge
  return array._replace(sides=sides).bytes
