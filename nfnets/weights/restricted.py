"""Reads pickles of arrays, and runs nothing that they name.

A pickle is a program for a stack machine: it names callables and calls them.
This is that machine for weights alone. Calling a name looks up what it stands
for in a table of functions from plain data to plain data; any other name ends
the reading. What is built holds no more bytes than the file can account for.
"""

import math
import os
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

Calls = Mapping[str, Callable[..., Any] | None]


class Refused(ValueError):
  """The file asks for something that weights don't need."""


class Name:
  """A name that the pickle gave, and the function that stands for it."""

  __slots__ = ('call', 'text')

  def __init__(self, text: str, call: Callable[..., Any] | None):
    self.text, self.call = text, call


def load(
  file: BinaryIO,
  calls: Calls | None = None,
  stored: Callable[[Any], Any] | None = None,
  size: int | None = None,
) -> Any:
  """Reads one pickle of NumPy arrays in dictionaries, lists and tuples.

  Args:
    file: opened for reading bytes, at the pickle's first.
    calls: functions for further names, keyed `module.name`; None for a name
      that isn't called.
    stored: makes an array of what the pickle says of data kept outside of it.
    size: bytes of the file and what is kept outside; default: the file's.

  Returns:
    The nested structure, its arrays contiguous and in native byte order.

  Raises:
    Refused: on any other name, any object dtype, an array whose bytes don't
      fill its shape, or a file that isn't a whole pickle.
  """
  machine = _Machine({**_CALLS, **(calls or {})}, stored)
  try:
    stream = _Bounded(file)
    machine.left = 4 * (size or stream.end)  # an array's text, bytes and copy
    return _finished(machine.run(stream), {})
  except Refused:
    raise
  except RecursionError as error:
    raise Refused('the pickle nests too deeply for weights') from error
  except Exception as error:  # the opcodes' readers raise whatever they met
    raise Refused(
      f'no file of weights: not a whole pickle of arrays ({error!s:.200})'
    ) from error


def _require(holds: bool, what: str) -> None:
  if not holds:
    raise Refused(f'refused: {what}')


def _named(text: str, calls: Calls) -> Name:
  # NumPy's functions live in a C module and are shown by another.
  shown = text.replace('._multiarray_umath.', '.multiarray.')
  _require(
    shown in calls,
    f'the pickle asks for {text[:100]!r}, and weights need arrays and '
    'dictionaries only; nothing of it was run',
  )
  return Name(shown, calls[shown])


class _Bounded:
  """A file from which no more is read, or asked for, than it has."""

  def __init__(self, file: BinaryIO):
    self._file, start = file, file.tell()
    self.end = file.seek(0, os.SEEK_END)
    file.seek(start)
    self.readline, self.tell = file.readline, file.tell

  def read(self, size: int) -> bytes:
    return self._file.read(min(size, self.end - self._file.tell()))


_MARK = object()
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'MARK': _MARK}
# A set is a list: no key is hashed.
_EMPTY = {
  'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple,
  'EMPTY_SET': list,
}  # fmt: skip
# Numbers, texts and bytes, which the opcode holds.
_LITERALS = {
  'INT', 'LONG', 'LONG1', 'LONG4', 'BININT', 'BININT1', 'BININT2', 'FLOAT',
  'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE',
  'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8', 'BINBYTES',
  'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8',
}  # fmt: skip


class _Machine:
  """The stack machine; `left` is how many bytes it may still build."""

  def __init__(self, calls: Calls, stored: Callable[[Any], Any] | None):
    self.calls, self.stored = calls, stored
    self.left = 0
    self.stack: list[Any] = []
    self.memo: dict[int, Any] = {}

  def run(self, stream: _Bounded) -> Any:
    """Executes opcodes up to STOP; returns what they built."""
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
    raise ValueError('it has no end')

  def structure(self, name: str, argument: Any) -> None:
    """An opcode that joins values on the stack."""
    stack = self.stack
    if name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
      stack.append(tuple(self.last(int(name[-1]))))
    elif name == 'TUPLE':
      stack.append(tuple(self.marked()))
    elif name == 'LIST':
      stack.append(self.marked())
    elif name == 'DICT':
      stack.append(_with_items({}, self.marked()))
    elif name in ('APPEND', 'APPENDS'):
      values = self.marked() if name == 'APPENDS' else self.last(1)
      _require(isinstance(stack[-1], list), 'an entry of what is no list')
      stack[-1].extend(values)
    elif name in ('SETITEM', 'SETITEMS'):
      values = self.marked() if name == 'SETITEMS' else self.last(2)
      _with_items(stack[-1], values)
    elif name == 'FROZENSET':
      stack.append(self.marked())
    elif name == 'ADDITEMS':
      values = self.marked()
      _require(isinstance(stack[-1], list), 'an entry of what is no set')
      stack[-1].extend(values)
    elif name == 'POP':
      stack.pop()
    elif name == 'POP_MARK':
      self.marked()
    else:
      self.call(name, argument)

  def call(self, name: str, argument: Any) -> None:
    """An opcode that names or calls something."""
    if name == 'GLOBAL':
      self.push(_named(argument.replace(' ', '.'), self.calls))
    elif name == 'STACK_GLOBAL':
      self.push(_named('.'.join(self.last(2)), self.calls))
    elif name == 'REDUCE':
      self.push(_called(*self.last(2)))
    elif name == 'NEWOBJ':
      kind, arguments = self.last(2)
      is_plain = isinstance(kind, Name) and kind.text == _NAMESPACE
      _require(is_plain and not arguments, 'the pickle makes an object')
      self.push(_Namespace())
    elif name == 'BUILD':
      target, state = self.last(2)
      known = isinstance(target, _Array | _DType | _Ordered)
      _require(known, 'the pickle tries to change what it named')
      self.push(target.built(state))
    elif name in ('PERSID', 'BINPERSID') and self.stored is not None:
      self.push(self.stored(argument if name == 'PERSID' else self.stack.pop()))
    else:
      _require(False, f'weights need no opcode {name}')

  def push(self, value: Any) -> None:
    """Pushes what was made, if the file can account for so much."""
    array = value.value if isinstance(value, _Array) else value
    if isinstance(array, np.ndarray):
      self.left -= array.nbytes
    elif isinstance(array, dict | bytes | tuple | list | str):
      self.left -= len(array)
    _require(self.left >= 0, 'the pickle builds more than its file holds')
    self.stack.append(value)

  def last(self, count: int) -> list[Any]:
    """Takes so many values off the stack."""
    values = self.stack[-count:]
    if len(values) < count:
      raise IndexError('its stack is empty')
    del self.stack[-count:]
    return values

  def marked(self) -> list[Any]:
    """Takes what lies above the last mark off the stack, and the mark."""
    values = []
    while (value := self.stack.pop()) is not _MARK:
      values.append(value)
    return values[::-1]


def _called(function: Any, arguments: Any) -> Any:
  _require(
    isinstance(function, Name) and isinstance(arguments, tuple),
    'the pickle calls what is no function',
  )
  _require(function.call is not None, f'the pickle calls {function.text}')
  try:
    return function.call(*arguments)
  except TypeError as error:
    raise Refused(f'{function.text} is called in an unknown way') from error


def _with_items(target: Any, values: list[Any]) -> dict:
  _require(
    isinstance(target, dict) and len(values) % 2 == 0,
    'an entry of what is no dictionary',
  )
  # Other keys can take for ever to hash.
  plain = all(isinstance(key, str | int | float) for key in values[::2])
  _require(plain, 'a dictionary whose keys are no plain values')
  target.update(zip(values[::2], values[1::2]))
  return target


class _Ordered(dict):
  """An OrderedDict; attributes, which PyTorch's have, are dropped."""

  def built(self, state: Any) -> dict:
    return self


class _Namespace(_Ordered):
  """An argparse.Namespace, as a dictionary of its attributes."""

  def built(self, state: Any) -> dict:
    return _with_items(self, [x for item in state.items() for x in item])


class _DType:
  """`numpy.dtype` as a pickle spells it: a code, then its byte order."""

  def __init__(self, code: Any, *_: Any):
    # Sizes fixed, no object inside.
    known = isinstance(code, str) and code in _CODES
    _require(known, f'arrays of dtype {code!r:.50} are no weights')
    self.numpy = np.dtype(code)

  def built(self, state: Any) -> '_DType':
    # (version, order, subdtype, names, fields, itemsize, alignment, flags)
    is_plain = isinstance(state, tuple) and state[2:5] == (None,) * 3
    _require(
      is_plain and state[1] in ('<', '>', '=', '|'),
      'an array of a structured dtype is no weight',
    )
    self.numpy = self.numpy.newbyteorder(state[1])
    return self


_CODES = {f'{kind}{size}' for kind in 'iu' for size in (1, 2, 4, 8)}
_CODES |= {'b1', 'f2', 'f4', 'f8'}


class _Array:
  """`numpy.ndarray` as a pickle spells it, filled by BUILD."""

  def __init__(self) -> None:
    self.value: np.ndarray | None = None

  def built(self, state: Any) -> '_Array':
    # (version, shape, dtype, is_fortran, data): NumPy's ndarray.__setstate__.
    known = isinstance(state, tuple) and len(state) in (4, 5)
    _require(known, 'an array is described in an unknown way')
    shape, dtype, is_fortran, data = state[-4:]
    self.value = _frombuffer(data, dtype, shape, 'F' if is_fortran else 'C')
    return self


def _frombuffer(
  data: Any, dtype: Any, shape: Any, order: Any = 'C', *_: Any
) -> np.ndarray:
  known = isinstance(dtype, _DType) and isinstance(data, bytes | bytearray)
  _require(known, 'an array of unknown dtype or data')
  _require(
    isinstance(shape, tuple)
    and all(type(size) is int and 0 <= size < 2**40 for size in shape)
    and len(data) == math.prod(shape) * dtype.numpy.itemsize,
    f'an array of shape {shape!r:.100} of {len(data)} bytes',
  )
  flat = np.frombuffer(data, dtype.numpy)
  native = flat.astype(dtype.numpy.newbyteorder('='))
  ordered = native.reshape(shape, order='F' if order == 'F' else 'C')
  return np.ascontiguousarray(ordered).reshape(shape)


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> _Array:
  known = isinstance(subtype, Name) and subtype.text == 'numpy.ndarray'
  _require(known, 'a subclass of numpy.ndarray is no weight')
  return _Array()


def _described(function: Any, args: Any, state: Any, *_: Any) -> np.ndarray:
  # The three parts of `ndarray.__reduce__`. JAX adds a dictionary of flags
  # (weak types), dill one of attributes: weights need neither.
  known = isinstance(function, Name) and function.call is _reconstruct
  _require(known, 'a device array is described in an unknown way')
  return _called(function, args).built(state).value


def _encode(text: Any, encoding: Any) -> bytes:
  # How protocols 0 to 2 spell bytes.
  _require(encoding == 'latin1', 'an encoding that pickles do not use')
  return text.encode('latin1') if isinstance(text, str) else _encode()


def _mapping(items: Any = None) -> dict:
  if items is None:
    return _Ordered()
  _require(isinstance(items, dict), 'a mapping is described in an unknown way')
  return items


def _list(items: Any = ()) -> list:
  _require(isinstance(items, list | tuple), 'a set of what is no list')
  return list(items)


def _path(*parts: Any) -> str:
  known = all(isinstance(part, str) and len(part) < 4096 for part in parts)
  known = known and len(parts) < 256
  _require(known, 'a path is described in an unknown way')
  return '/'.join(parts).replace('//', '/')


def _defaults(factory: Any = None) -> dict:
  # The factory is never called: what it would make is nobody's weight.
  known = factory is None or isinstance(factory, Name)
  _require(known, 'a mapping is described in an unknown way')
  return _Ordered()


class _Module(NamedTuple):
  """What dill of 2021 spells functions written in C by: it wrote
  `_get_attr(_import_module(module), function)` where pickle writes a global."""

  name: Any


def _get_attr(module: Any, name: Any) -> Name:
  known = isinstance(module, _Module)
  _require(known, f'the pickle asks for an attribute, {name!r:.100}')
  return _named(f'{module.name}.{name}', _CALLS)


def _load_type(name: Any) -> Name:
  # dill's way of writing a built-in type, under its own name or an older one.
  older = {'BytesType': 'bytes', 'DictType': 'dict'}
  return _named(f'builtins.{older.get(name, name)}', _CALLS)


_NAMESPACE = 'argparse.Namespace'
_CALLS = {
  _NAMESPACE: None,
  'numpy.ndarray': None,
  'numpy.dtype': _DType,
  '_codecs.encode': _encode,
  'collections.OrderedDict': _mapping,
  'collections.defaultdict': _defaults,
  # dm-haiku 0.0.4 (2021) reduces a FlatMapping to its name and a dict; later
  # versions kept that name, earlier ones had frozendict.
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
  # That a defaultdict names.
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
  """Arrays for what BUILD filled; only plain values beside."""
  # By identity: what refers to itself a thousand times is walked once.
  if id(value) not in done:
    done[id(value)] = _finish(value, done)
  return done[id(value)]


def _finish(value: Any, done: dict[int, Any]) -> Any:
  if isinstance(value, _Array):
    _require(value.value is not None, 'an array that nothing was put into')
    return value.value
  if isinstance(value, dict):
    return {key: _finished(item, done) for key, item in value.items()}
  if isinstance(value, list | tuple) and not isinstance(value, _Module):
    return type(value)(_finished(item, done) for item in value)
  shown = type(value).__name__
  _require(isinstance(value, _PLAIN), f'a bare {shown} among the weights')
  return value


_PLAIN = (np.ndarray, str, bytes, int, float, bool, type(None))
