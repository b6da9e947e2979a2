"""Reads pickles of arrays without running anything that they name.

A pickle is a program for a stack machine: it names callables and calls them.
This machine knows only what weights need. A name is looked up in a table of
functions from plain data to plain data, and any other name is refused. What is
built takes no more bytes than the file's size justifies.
"""

import dataclasses
import math
import os
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

Calls = Mapping[str, Callable[..., Any] | None]


class Refused(ValueError):
  """The file needs something that weights don't need."""


@dataclasses.dataclass(frozen=True)
class Name:
  """A name in the pickle, and the function that replaces it."""

  text: str
  call: Callable[..., Any] | None


def load(
  file: BinaryIO,
  calls: Calls | None = None,
  stored: Callable[[Any], Any] | None = None,
  size: int | None = None,
) -> Any:
  """Reads one pickle of NumPy arrays in dictionaries, lists and tuples.

  Args:
    file: a binary file, positioned at the start of the pickle.
    calls: functions for further names, keyed by `module.name`; None for a name
      that may be mentioned but not called.
    stored: returns the array for a persistent id, which refers to data outside
      the pickle; it bounds what it reads.
    size: bytes of the file and of data outside it; default: the file's.

  Returns:
    The nested structure; its arrays are contiguous and in native byte order.

  Raises:
    Refused: the pickle has any other name or an object dtype, an array's bytes
      don't fill its shape, or the file isn't a complete pickle.
  """
  machine = _Machine({**_CALLS, **(calls or {})}, stored)
  try:
    stream = _Bounded(file)
    # An array takes its text, its bytes and a copy.
    machine.left = 4 * (size or stream.end)
    return _finished(machine.run(stream), {})
  except Refused:
    raise
  except RecursionError as error:
    raise Refused('the pickle nests too deeply for weights') from error
  except Exception as error:  # damaged opcodes may raise anything
    raise Refused(
      f'not a file of weights: no complete pickle of arrays ({error!s:.200})'
    ) from error


def is_shape(value: Any) -> bool:
  """Whether a value in a pickle is a tuple of sizes, or of strides."""
  return (
    isinstance(value, tuple)
    and len(value) <= _MAX_DIMENSIONS
    and all(type(size) is int and 0 <= size < 2**40 for size in value)
  )


_MAX_DIMENSIONS = 64  # NumPy's own limit


def _require(holds: bool, what: str) -> None:
  if not holds:
    raise Refused(f'refused: {what}')


def _text(value: Any) -> str:
  # Writing or hashing nested tuples could take for ever.
  _require(isinstance(value, str), 'a name or a dtype is not text')
  return value


def _named(text: str, calls: Calls) -> Name:
  # Some NumPy functions are named by their C module or by its wrapper.
  shown = text.replace('._multiarray_umath.', '.multiarray.')
  _require(
    shown in calls,
    f'the pickle names {text[:100]!r}, where weights need only arrays and '
    'dictionaries; nothing was run',
  )
  return Name(shown, calls[shown])


class _Bounded:
  """A file of which no read requests more bytes than are left."""

  def __init__(self, file: BinaryIO):
    self._file, start = file, file.tell()
    self.end = file.seek(0, os.SEEK_END)
    file.seek(start)
    self.readline, self.tell = file.readline, file.tell

  def read(self, size: int) -> bytes:
    return self._file.read(min(size, self.end - self._file.tell()))


_MARK = object()
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'MARK': _MARK}
# A set is read as a list, so that nothing is hashed.
_EMPTY = {
  'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple,
  'EMPTY_SET': list,
}  # fmt: skip
# The opcode's argument is the value.
_LITERALS = {
  'INT', 'LONG', 'LONG1', 'LONG4', 'BININT', 'BININT1', 'BININT2', 'FLOAT',
  'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE',
  'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8', 'BINBYTES',
  'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8',
}  # fmt: skip


class _Machine:
  """The stack machine; `left` is the number of bytes it may still build."""

  def __init__(self, calls: Calls, stored: Callable[[Any], Any] | None):
    self.calls, self.stored = calls, stored
    self.left = 0
    self.stack: list[Any] = []
    self.memo: dict[int, Any] = {}

  def run(self, stream: _Bounded) -> Any:
    """Executes opcodes up to STOP and returns the value they build."""
    for opcode, argument, _ in pickletools.genops(stream):
      name = opcode.name
      if name == 'STOP':
        return self.stack.pop()
      elif name in _LITERALS:
        self.stack.append(argument)
      elif name in _CONSTANTS:
        self.stack.append(_CONSTANTS[name])
      elif name in _EMPTY:
        self.stack.append(_EMPTY[name]())
      elif name in ('PUT', 'BINPUT', 'LONG_BINPUT'):
        self.memo[argument] = self.stack[-1]
      elif name == 'MEMOIZE':
        self.memo[len(self.memo)] = self.stack[-1]
      elif name in ('GET', 'BINGET', 'LONG_BINGET'):
        self.stack.append(self.memo[argument])
      elif name not in ('PROTO', 'FRAME'):
        self.structure(name, argument)
    raise ValueError('it ends without STOP')

  def structure(self, name: str, argument: Any) -> None:
    """Executes an opcode that combines values on the stack."""
    stack = self.stack
    if name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
      stack.append(tuple(self.last(int(name[-1]))))
    elif name == 'TUPLE':
      stack.append(tuple(self.marked()))
    elif name in ('LIST', 'FROZENSET'):
      stack.append(self.marked())
    elif name == 'DICT':
      stack.append(_with_items({}, self.marked()))
    elif name in ('APPEND', 'APPENDS', 'ADDITEMS'):
      values = self.last(1) if name == 'APPEND' else self.marked()
      _require(isinstance(stack[-1], list), 'it adds items to a non-list')
      stack[-1].extend(values)
    elif name in ('SETITEM', 'SETITEMS'):
      values = self.last(2) if name == 'SETITEM' else self.marked()
      _with_items(stack[-1], values)
    elif name == 'POP':
      stack.pop()
    else:
      self.call(name, argument)

  def call(self, name: str, argument: Any) -> None:
    """Executes an opcode that names or calls something."""
    if name == 'GLOBAL':
      self.push(_named(argument.replace(' ', '.'), self.calls))
    elif name == 'STACK_GLOBAL':
      self.push(_named('.'.join(self.last(2)), self.calls))
    elif name == 'REDUCE':
      self.push(_called(*self.last(2)))
    elif name == 'NEWOBJ':
      kind, arguments = self.last(2)
      is_plain = isinstance(kind, Name) and kind.text == _NAMESPACE
      _require(is_plain and not arguments, 'the pickle creates an object')
      self.push(_Namespace())
    elif name == 'BUILD':
      target, state = self.last(2)
      known = isinstance(target, _Array | _DType | _Ordered)
      _require(known, 'the pickle sets the state of what it named')
      self.push(target.built(state))
    elif name in ('PERSID', 'BINPERSID') and self.stored is not None:
      # Not by `push`: many tensors may share one storage, which is bounded.
      key = argument if name == 'PERSID' else self.stack.pop()
      self.stack.append(self.stored(key))
    else:
      _require(False, f'weights do not need the opcode {name}')

  def push(self, value: Any) -> None:
    """Pushes a new value, if the budget `left` allows it."""
    array = value.value if isinstance(value, _Array) else value
    if isinstance(array, np.ndarray):
      self.left -= array.nbytes
    elif isinstance(array, dict | bytes | tuple | list | str):
      self.left -= len(array)
    _require(self.left >= 0, 'the pickle builds more bytes than its file holds')
    self.stack.append(value)

  def last(self, count: int) -> list[Any]:
    """Pops the last `count` values, in order."""
    values = self.stack[-count:]
    if len(values) < count:
      raise IndexError('its stack is empty')
    del self.stack[-count:]
    return values

  def marked(self) -> list[Any]:
    """Pops the values above the last mark, in order, and the mark."""
    values = []
    while (value := self.stack.pop()) is not _MARK:
      values.append(value)
    return values[::-1]


def _called(function: Any, arguments: Any) -> Any:
  _require(
    isinstance(function, Name) and isinstance(arguments, tuple),
    'the pickle calls something that is not a function',
  )
  _require(function.call is not None, f'the pickle calls {function.text}')
  try:
    return function.call(*arguments)
  except TypeError as error:
    raise Refused(f'{function.text} is called with bad arguments') from error


def _with_items(target: Any, values: list[Any]) -> dict:
  _require(
    isinstance(target, dict) and len(values) % 2 == 0,
    'it sets items of a non-dictionary',
  )
  # As in `_text`.
  plain = all(isinstance(key, str | int | float) for key in values[::2])
  _require(plain, 'a dictionary has keys other than text and numbers')
  target.update(zip(values[::2], values[1::2]))
  return target


class _Ordered(dict):
  """An OrderedDict; the attributes that PyTorch sets on it are dropped."""

  def built(self, state: Any) -> dict:
    return self


class _Namespace(_Ordered):
  """An argparse.Namespace, read as a dictionary of its attributes."""

  def built(self, state: Any) -> dict:
    return _with_items(self, [x for item in state.items() for x in item])


class _DType:
  """A pickled `numpy.dtype`: constructed from a code, then given its order."""

  def __init__(self, code: Any, *_: Any):
    code = _text(code)
    _require(code in _CODES, f'an array has dtype {code!r:.50}')
    self.numpy = np.dtype(code)

  def built(self, state: Any) -> '_DType':
    # (version, order, subdtype, names, fields, itemsize, alignment, flags)
    is_plain = isinstance(state, tuple) and state[2:5] == (None,) * 3
    _require(
      is_plain and state[1] in ('<', '>', '=', '|'),
      'an array has a structured dtype',
    )
    self.numpy = self.numpy.newbyteorder(state[1])
    return self


_CODES = {f'{kind}{size}' for kind in 'iu' for size in (1, 2, 4, 8)}
_CODES |= {'b1', 'f2', 'f4', 'f8'}


class _Array:
  """A pickled `numpy.ndarray`, filled by the opcode BUILD."""

  def __init__(self) -> None:
    self.value: np.ndarray | None = None

  def built(self, state: Any) -> '_Array':
    # As ndarray.__setstate__: (version, shape, dtype, is_fortran, data).
    known = isinstance(state, tuple) and len(state) in (4, 5)
    _require(known, 'an array has an unknown form')
    shape, dtype, is_fortran, data = state[-4:]
    self.value = _frombuffer(data, dtype, shape, 'F' if is_fortran else 'C')
    return self


def _frombuffer(
  data: Any, dtype: Any, shape: Any, order: Any = 'C', *_: Any
) -> np.ndarray:
  known = isinstance(dtype, _DType) and isinstance(data, bytes | bytearray)
  _require(known, 'an array has an unknown dtype or kind of data')
  _require(is_shape(shape), 'an array has an unknown shape')
  _require(
    len(data) == math.prod(shape) * dtype.numpy.itemsize,
    f'an array of shape {shape!r:.100} has {len(data)} bytes',
  )
  flat = np.frombuffer(data, dtype.numpy)
  native = flat.astype(dtype.numpy.newbyteorder('='))
  ordered = native.reshape(shape, order='F' if order == 'F' else 'C')
  return np.ascontiguousarray(ordered).reshape(shape)


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> _Array:
  known = isinstance(subtype, Name) and subtype.text == 'numpy.ndarray'
  _require(known, 'an array is of a subclass of numpy.ndarray')
  return _Array()


def _described(function: Any, args: Any, state: Any, *_: Any) -> np.ndarray:
  # The three parts of `ndarray.__reduce__`; JAX's flags (weak types) and dill's
  # dictionary of attributes, which follow, aren't needed.
  known = isinstance(function, Name) and function.call is _reconstruct
  _require(known, 'a device array has an unknown form')
  return _called(function, args).built(state).value


def _encode(text: Any, encoding: Any) -> bytes:
  # Protocols 0 to 2 write bytes so.
  _require(encoding == 'latin1', 'bytes have another encoding than latin1')
  return text.encode('latin1')


def _mapping(items: Any = None) -> dict:
  if items is None:
    return _Ordered()
  _require(isinstance(items, dict), 'a mapping has an unknown form')
  return items


def _list(items: Any = ()) -> list:
  _require(isinstance(items, list | tuple), 'a set has an unknown form')
  return list(items)


def _path(*parts: Any) -> str:
  known = all(isinstance(part, str) and len(part) < 4096 for part in parts)
  known = known and len(parts) < 256
  _require(known, 'a path has an unknown form')
  return '/'.join(parts).replace('//', '/')


class _Module(NamedTuple):
  """A module named by dill of 2021, which wrote a function implemented in C as
  `_get_attr(_import_module(module), function)` where pickle writes a global."""

  name: Any


def _get_attr(module: Any, name: Any) -> Name:
  known = isinstance(module, _Module)
  _require(known, f'the pickle needs an attribute, {_text(name)!r:.100}')
  return _named(f'{_text(module.name)}.{name}', _CALLS)


def _load_type(name: Any) -> Name:
  # dill writes a built-in type under its own name or an older one.
  older = {'BytesType': 'bytes', 'DictType': 'dict'}
  return _named(f'builtins.{older.get(_text(name), name)}', _CALLS)


_NAMESPACE = 'argparse.Namespace'
_CALLS = {
  _NAMESPACE: None,
  'numpy.ndarray': None,
  'numpy.dtype': _DType,
  '_codecs.encode': _encode,
  'collections.OrderedDict': _mapping,
  'collections.defaultdict': lambda factory=None: _Ordered(),
  # dm-haiku pickles a FlatMapping as its name and a dict; older versions named
  # it otherwise.
  'haiku._src.data_structures.FlatMapping': _mapping,
  'haiku._src.data_structures.FlatMap': _mapping,
  'haiku._src.data_structures.frozendict': _mapping,
  'dill._dill._load_type': _load_type,
  'dill._dill._import_module': lambda name, *_: _Module(name),
  'dill._dill._get_attr': _get_attr,
  'dill._dill._create_array': _described,  # every array that dill writes
  # jax.Array: 2022, then since.
  'jax._src.device_array.reconstruct_device_array': _described,
  'jax._src.array._reconstruct_array': _described,
}
for _module in ('builtins', '__builtin__'):  # Python 3, 2
  _CALLS |= {f'{_module}.dict': _mapping, f'{_module}.bytes': lambda: b''}
  _CALLS |= {f'{_module}.{kind}': _list for kind in ('set', 'frozenset')}
  # A defaultdict's factory.
  _CALLS |= {f'{_module}.{k}': None for k in ('list', 'int', 'float', 'str')}
for _module in ('pathlib', 'pathlib._local'):  # the latter in Python 3.13
  for _system in ('Posix', 'Windows'):
    _CALLS |= {f'{_module}.{_system}Path': _path}
    _CALLS |= {f'{_module}.Pure{_system}Path': _path}
for _module in ('numpy.core', 'numpy._core'):  # before NumPy 2, and since
  _CALLS |= {
    f'{_module}.multiarray._reconstruct': _reconstruct,
    f'{_module}.multiarray.scalar': lambda kind, x: _frombuffer(x, kind, ()),
    f'{_module}.numeric._frombuffer': _frombuffer,
  }


def _finished(value: Any, done: dict[int, Any]) -> Any:
  """Replaces every `_Array` by its array; other values must be plain."""
  # By identity: a value that occurs a thousand times is visited once.
  if id(value) in done:
    return done[id(value)]
  if isinstance(value, _Array):
    _require(value.value is not None, 'an array has no data')
    result = value.value
  elif isinstance(value, dict):
    result = {key: _finished(item, done) for key, item in value.items()}
  elif isinstance(value, list | tuple) and not isinstance(value, _Module):
    result = type(value)(_finished(item, done) for item in value)
  else:
    kind = type(value).__name__
    _require(isinstance(value, _PLAIN), f'a {kind} is among the weights')
    result = value
  return done.setdefault(id(value), result)


_PLAIN = (np.ndarray, str, bytes, int, float, bool, type(None))
