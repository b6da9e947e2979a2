"""FLOPs, memory traffic and memory of a traced program, without compiling it.

The estimate follows one rule for what a compiler does: an elementwise operation
that depends on few arrays in memory is fused into its consumers, and every
other operation writes its result to memory.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

FUSED = 4  # the most arrays that a fused operation reads

_COLLECTIVES = {'psum', 'psum_invariant', 'pmax', 'pmin', 'all_gather'}
# Operations that always write their result.
_STORED = {
  'conv_general_dilated', 'dot_general', 'reduce_sum', 'reduce_max',
  'reduce_and', 'argmax', 'argsort', 'sort', 'cumsum', 'gather', 'scatter',
  'scatter-add', 'concatenate', 'reduce_window', 'reduce_window_sum',
  'reduce_window_max', 'select_and_scatter_add', 'random_bits', 'threefry2x32',
  'scan', 'while', 'cond', *_COLLECTIVES,
}  # fmt: skip


class Work(NamedTuple):
  """The cost of running a program once on one device.

  Attributes:
    flops: of convolutions and matrix products; a multiply-add counts as two.
    bytes_accessed: read from and written to memory.
    collective_bytes: passed to collectives.
    temporaries: bytes of the largest working set, without arguments and
      results.
  """

  flops: float
  bytes_accessed: float
  collective_bytes: float
  temporaries: float


class _Operation(NamedTuple):
  name: str
  params: dict[str, Any]
  inputs: list[int]
  outputs: list[int]


def work(closed: Any) -> Work:
  """Estimates the cost of a program, a result of `jax.make_jaxpr`."""
  return _Program(closed.jaxpr).work()


class _Program:
  """A program with nested calls inlined and its arrays numbered."""

  def __init__(self, jaxpr: Any) -> None:
    self.avals: list[Any] = []
    names: dict[Any, int] = {}
    self.inputs = self._define([*jaxpr.constvars, *jaxpr.invars], names)
    operations = list(self._flat(jaxpr, names))
    self.outputs = self._read(jaxpr.outvars, names)
    self.operations = _needed(operations, self.outputs)

  def _define(self, variables: Iterable[Any], names: dict) -> list[int]:
    for variable in variables:
      names[variable] = len(self.avals)
      self.avals.append(variable.aval)
    return [names[variable] for variable in variables]

  def _read(self, atoms: Iterable[Any], names: dict) -> list[int]:
    return [names[a] for a in atoms if not hasattr(a, 'val')]

  def _flat(self, jaxpr: Any, names: dict) -> Iterator[_Operation]:
    for eqn in jaxpr.eqns:
      inner = self._called(eqn)
      if inner is None:
        inputs = self._read(eqn.invars, names)
        outputs = self._define(eqn.outvars, names)
        yield _Operation(eqn.primitive.name, eqn.params, inputs, outputs)
        continue
      # The same inner program may be called from many places.
      inside: dict[Any, int] = {}
      self._define(inner.constvars, inside)
      outer = eqn.invars[len(eqn.invars) - len(inner.invars) :]
      for variable, atom in zip(inner.invars, outer):
        if hasattr(atom, 'val'):
          self._define([variable], inside)
        else:
          inside[variable] = names[atom]
          # Inside a shard_map the array is one device's shard.
          self.avals[names[atom]] = variable.aval
      yield from self._flat(inner, inside)
      for variable, atom in zip(eqn.outvars, inner.outvars):
        if hasattr(atom, 'val'):
          self._define([variable], names)
        else:
          names[variable] = inside[atom]

  def _called(self, eqn: Any) -> Any:
    """Returns the program that an equation calls, unless it is a loop."""
    if eqn.primitive.name in ('scan', 'while', 'cond'):
      return None
    for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
      if key in eqn.params:
        inner = eqn.params[key]
        return getattr(inner, 'jaxpr', inner)
    return None

  def work(self) -> Work:
    origins = self._origins()
    kept = self._kept(origins)
    last = {
      origin: index
      for index, operation in enumerate(self.operations)
      for array in operation.inputs + operation.outputs
      for origin in origins[array]
    }
    flops = moved = collective = live = peak = 0.0
    for index, operation in enumerate(self.operations):
      inside = self._inside(operation)
      stored = [a for a in operation.outputs if origins[a] == (a,)]
      read = {o for array in operation.inputs for o in origins[array]}
      flops += inside.flops + self._flops(operation)
      collective += inside.collective_bytes
      moved += inside.bytes_accessed
      if stored:
        moved += sum(map(self._bytes, [*read, *stored]))
      if operation.name in _COLLECTIVES:
        collective += sum(map(self._bytes, operation.inputs))
      live += sum(self._bytes(a) for a in stored if a in kept)
      peak = max(peak, live + inside.temporaries)
      ended = {o for o in {*read, *stored} if last[o] == index and o in kept}
      live -= sum(map(self._bytes, ended))
    return Work(flops, moved, collective, peak)

  def _origins(self) -> list[tuple[int, ...]]:
    """For each array, the arrays in memory it is computed from; or itself."""
    origins: list[tuple[int, ...]] = [()] * len(self.avals)
    for array in self.inputs:
      origins[array] = (array,)
    for operation in self.operations:
      size = max(map(self._elements, operation.outputs), default=0)
      found = {
        origin
        for array in operation.inputs
        for origin in origins[array]
        if 2 * self._elements(origin) > size
      }
      for array in operation.outputs:
        fused = operation.name not in _STORED and len(found) <= FUSED
        origins[array] = tuple(found) if fused else (array,)
    return origins

  def _kept(self, origins: Sequence[tuple[int, ...]]) -> set[int]:
    """Returns the arrays in memory that are neither arguments nor results."""
    given = {o for a in self.inputs + self.outputs for o in origins[a]}
    return {o for found in origins for o in found} - given

  def _inside(self, operation: _Operation) -> Work:
    """Cost of a loop's body times its length, or of the costliest branch."""
    nothing = Work(0.0, 0.0, 0.0, 0.0)
    if operation.name == 'scan':
      body = work(operation.params['jaxpr'])
      times = operation.params['length']
      return Work(*(times * x for x in body[:3]), body.temporaries)
    if operation.name == 'while':
      return work(operation.params['body_jaxpr'])
    if operation.name == 'cond':
      branches = map(work, operation.params['branches'])
      return Work(*map(max, zip(*branches)))
    return nothing

  def _flops(self, operation: _Operation) -> float:
    if operation.name == 'dot_general':
      (contracted, _), _ = operation.params['dimension_numbers']
      shape = self.avals[operation.inputs[0]].shape
      depth = math.prod(shape[axis] for axis in contracted)
      return 2.0 * depth * self._elements(operation.outputs[0])
    if operation.name == 'conv_general_dilated':
      kernel = self.avals[operation.inputs[1]].shape
      features = kernel[operation.params['dimension_numbers'].rhs_spec[0]]
      depth = math.prod(kernel) / features
      # The zeros in a dilated image aren't multiplied.
      depth /= math.prod(operation.params['lhs_dilation'] or (1,))
      return 2.0 * depth * self._elements(operation.outputs[0])
    return 0.0

  def _elements(self, array: int) -> int:
    return math.prod(getattr(self.avals[array], 'shape', ()))

  def _bytes(self, array: int) -> int:
    dtype = getattr(self.avals[array], 'dtype', None)
    return self._elements(array) * getattr(dtype, 'itemsize', 0)


def _needed(
  operations: Sequence[_Operation], outputs: Iterable[int]
) -> list[_Operation]:
  """Drops operations that no output depends on, as compilers do."""
  wanted, found = set(outputs), []
  for operation in reversed(operations):
    if wanted.intersection(operation.outputs):
      wanted.update(operation.inputs)
      found.append(operation)
  return found[::-1]
