"""An unpickler that builds arrays, dictionaries and plain values only.

A pickle is a program: it names callables and calls them. Here no name is ever
imported. Each one that a file of weights may need stands for an inert object
of `inert.py`, and any other name ends the reading before a thing has run.
"""

import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from nfnets.weights import inert
from nfnets.weights.inert import Inert, Refused

__all__ = ['Inert', 'Refused', 'load']


def load(
  file: BinaryIO,
  names: Mapping[str, Any] | None = None,
  stored: Callable[[Any], Any] | None = None,
) -> Any:
  """Reads one pickle of NumPy arrays in dictionaries, lists and tuples.

  Args:
    file: opened for reading bytes, at the pickle's first.
    names: inert objects for further names, keyed `module.name`.
    stored: makes an array of what the pickle says of data kept outside of it.

  Returns:
    The nested structure, its arrays freshly made, contiguous and writable.

  Raises:
    Refused: on any other name, any object dtype, an array whose bytes don't
      fill its shape, or a file that isn't a whole pickle.
  """
  reader = _Unpickler(file)
  reader.names = inert.NAMES | dict(names or {})
  reader.stored = stored
  try:
    return _finished(reader.load(), {})
  except Refused:
    raise
  except RecursionError as error:
    raise Refused('the pickle nests too deeply for weights') from error
  except Exception as error:  # The pickle machine raises whatever it met.
    raise Refused(f'not a whole pickle of arrays: {error}') from error


class _Unpickler(pickle.Unpickler):
  names: Mapping[str, Any]
  stored: Callable[[Any], Any] | None

  def find_class(self, module: str, name: str) -> Any:
    return inert.named(f'{module}.{name}', self.names)

  def persistent_load(self, pid: Any) -> Any:
    if self.stored is None:
      raise Refused('refused: the pickle refers to data outside of itself')
    return self.stored(pid)


def _finished(value: Any, done: dict[int, Any]) -> Any:
  """Arrays for what BUILD filled; only plain values beside."""
  # By identity: what refers to itself a thousand times is walked once.
  if id(value) not in done:
    done[id(value)] = _finish(value, done)
  return done[id(value)]


def _finish(value: Any, done: dict[int, Any]) -> Any:
  if isinstance(value, inert.Array):
    if value.value is None:
      raise Refused('refused: an array that nothing was put into')
    return value.value
  if isinstance(value, dict):
    return {
      _finished(key, done): _finished(item, done) for key, item in value.items()
    }
  if isinstance(value, (list, tuple)):
    return type(value)(_finished(item, done) for item in value)
  if not isinstance(value, _PLAIN):
    raise Refused(f'refused: a bare {type(value).__name__} among the weights')
  return value


_PLAIN = (np.ndarray, str, bytes, int, float, bool, type(None))
