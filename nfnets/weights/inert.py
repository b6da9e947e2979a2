"""Inert stand-ins for the names that a pickle of arrays asks for.

Each takes plain data and gives plain data; none imports or runs a thing that
the pickle chose.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class Refused(ValueError):
  """The file asks for something that weights don't need."""


class Inert:
  """Calls one function with plain data; nothing can be set on it."""

  __slots__ = ('_call', '_name')

  def __init__(self, name: str, call: Callable[..., Any]):
    object.__setattr__(self, '_name', name)
    object.__setattr__(self, '_call', call)

  def __call__(self, *args: Any) -> Any:
    try:
      return self._call(*args)
    except TypeError as error:
      raise Refused(f'{self._name} is called in an unknown way') from error

  # The opcode BUILD would otherwise write to attributes.
  def __setstate__(self, state: Any) -> None:
    raise Refused(f'the pickle tries to change {self._name}')

  def __setattr__(self, name: str, value: Any) -> None:
    raise Refused(f'the pickle tries to change {self._name}')


def named(key: str, names: Mapping[str, Any]) -> Any:
  """The inert object of a dotted name.

  Raises:
    Refused: naming it, where it isn't one of `names`.
  """
  # NumPy's functions live in a C module and are shown by another.
  shown = key.replace('._multiarray_umath.', '.multiarray.')
  if shown not in names:
    raise Refused(
      f'refused: the pickle asks for {key!r}, and weights need arrays and '
      'dictionaries only; nothing of it was run'
    )
  return names[shown]


class _DType:
  """`numpy.dtype` as a pickle spells it: a code, then its byte order."""

  __slots__ = ('code', 'order')

  def __init__(self, code: Any, *_: Any):
    # Booleans, integers, floats: sizes fixed, no object inside.
    if not isinstance(code, str) or code not in _CODES:
      raise Refused(f'refused: arrays of dtype {code!r} are no weights')
    self.code = code
    self.order = '='

  def __setstate__(self, state: Any) -> None:
    # (version, order, subdtype, names, fields, itemsize, alignment, flags)
    if (
      not isinstance(state, tuple)
      or len(state) < 5
      or state[1] not in ('<', '>', '=', '|')
      or any(part is not None for part in state[2:5])
    ):
      raise Refused('refused: an array of a structured dtype is no weight')
    self.order = state[1]

  def numpy(self) -> np.dtype:
    return np.dtype(self.code).newbyteorder(self.order)


_CODES = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8') + (
  'f2',
  'f4',
  'f8',
)


class Array:
  """`numpy.ndarray` as a pickle spells it, filled by BUILD."""

  __slots__ = ('value',)

  def __init__(self) -> None:
    self.value: np.ndarray | None = None

  def __setstate__(self, state: Any) -> None:
    # (version, shape, dtype, is_fortran, data): NumPy's ndarray.__setstate__.
    if not isinstance(state, tuple) or len(state) not in (4, 5):
      raise Refused('refused: an array is described in an unknown way')
    shape, dtype, is_fortran, data = state[-4:]
    self.value = _array(data, dtype, shape, 'F' if is_fortran else 'C')


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
  if not isinstance(dtype, _DType):
    raise Refused('refused: an array without a dtype of its own')
  if not isinstance(shape, tuple) or not all(
    type(size) is int and 0 <= size < 2**40 for size in shape
  ):
    raise Refused(f'refused: an array of shape {shape!r}')
  if not isinstance(data, (bytes, bytearray)):
    raise Refused(f'refused: an array of {type(data).__name__}')
  size = math.prod(shape) * dtype.numpy().itemsize
  if len(data) != size:
    raise Refused(
      f'refused: an array of shape {shape} needs {size} bytes, '
      f'the file holds {len(data)}'
    )
  flat = np.frombuffer(data, dtype.numpy())
  native = flat.astype(dtype.numpy().newbyteorder('='))
  return np.ascontiguousarray(
    native.reshape(shape, order='F' if order == 'F' else 'C')
  ).reshape(shape)


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> Array:
  if subtype is not NAMES['numpy.ndarray']:
    raise Refused('refused: a subclass of numpy.ndarray is no weight')
  return Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Any:
  return _array(data, dtype, shape, order)


def _scalar(dtype: Any, data: Any) -> np.ndarray:
  return _array(data, dtype, (), 'C')


def _encode(text: Any, encoding: Any) -> bytes:
  # How protocols 0 to 2 spell bytes.
  if not isinstance(text, str) or encoding != 'latin1':
    raise Refused('refused: a text in an encoding that pickles do not use')
  return text.encode('latin1')


def _empty_bytes() -> bytes:
  return b''


def _mapping(*args: Any) -> dict:
  if not args:
    return {}
  (items,) = args
  if isinstance(items, Mapping):
    return dict(items)
  if isinstance(items, (list, tuple)) and all(
    isinstance(item, (list, tuple)) and len(item) == 2 for item in items
  ):
    return dict(items)
  raise Refused('refused: a mapping is described in an unknown way')


class _Ordered(dict):
  """An OrderedDict whose attributes (PyTorch's versions) are dropped."""

  __slots__ = ()

  def __setstate__(self, state: Any) -> None:
    pass


def _ordered(*args: Any) -> _Ordered:
  return _Ordered(_mapping(*args))


def _filled(function: Any, args: Any, state: Any) -> np.ndarray:
  """The three parts of `ndarray.__reduce__`, put together."""
  known = [name for name in _RECONSTRUCT if function is NAMES[name]]
  if not known or not isinstance(args, tuple):
    raise Refused('refused: a device array is described in an unknown way')
  array = function(*args)
  array.__setstate__(state)
  return array.value


def _described(function: Any, args: Any, state: Any, *_: Any) -> np.ndarray:
  # JAX adds a dictionary of flags (weak types), dill one of attributes: weights
  # need neither.
  return _filled(function, args, state)


class _Module:
  """The name of a module, by which dill of 2021 spells functions written in C.

  dill 0.3.3 wrote `_get_attr(_import_module(module), function)` where pickle
  writes a global.
  """

  __slots__ = ('name',)

  def __init__(self, name: Any, *_: Any):
    self.name = name


def _get_attr(module: Any, name: Any) -> Any:
  if not isinstance(module, _Module):
    raise Refused(f'refused: the pickle asks for an attribute, {name!r}')
  return named(f'{module.name}.{name}', NAMES)


def _load_type(name: Any) -> Any:
  # dill's way of writing a built-in type, under its own name or an older one.
  older = {'BytesType': 'bytes', 'DictType': 'dict'}
  return named(f'builtins.{older.get(name, name)}', NAMES)


def _no_call(*args: Any) -> None:
  raise Refused('refused: the pickle calls numpy.ndarray itself')


_RECONSTRUCT = (
  'numpy.core.multiarray._reconstruct',
  'numpy._core.multiarray._reconstruct',
)
_CALLS = {
  'numpy.ndarray': _no_call,
  'numpy.dtype': _DType,
  # NumPy before 2.0, then since.
  'numpy.core.multiarray._reconstruct': _reconstruct,
  'numpy._core.multiarray._reconstruct': _reconstruct,
  'numpy.core.numeric._frombuffer': _frombuffer,
  'numpy._core.numeric._frombuffer': _frombuffer,
  'numpy.core.multiarray.scalar': _scalar,
  'numpy._core.multiarray.scalar': _scalar,
  '_codecs.encode': _encode,
  'builtins.dict': _mapping,
  '__builtin__.dict': _mapping,
  'builtins.bytes': _empty_bytes,
  '__builtin__.bytes': _empty_bytes,
  'collections.OrderedDict': _ordered,
  # dm-haiku 0.0.4 (2021) reduces a FlatMapping to its name and a dict; later
  # versions kept that name, earlier ones had frozendict.
  'haiku._src.data_structures.FlatMapping': _mapping,
  'haiku._src.data_structures.FlatMap': _mapping,
  'haiku._src.data_structures.frozendict': _mapping,
  'dill._dill._load_type': _load_type,
  'dill._dill._import_module': _Module,
  'dill._dill._get_attr': _get_attr,
  'dill._dill._create_array': _described,  # every array that dill writes
  # jax.Array: 2022, then since.
  'jax._src.device_array.reconstruct_device_array': _described,
  'jax._src.array._reconstruct_array': _described,
}
NAMES = {name: Inert(name, call) for name, call in _CALLS.items()}
