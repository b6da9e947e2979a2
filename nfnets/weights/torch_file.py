"""Reads PyTorch's `state_dict` files (.pth, .pt) without PyTorch."""

import io
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from nfnets.weights import restricted

_DTYPES = {
  'torch.FloatStorage': '<f4',
  'torch.DoubleStorage': '<f8',
  'torch.HalfStorage': '<f2',
  'torch.BFloat16Storage': jnp.bfloat16,
  'torch.LongStorage': '<i8',
  'torch.IntStorage': '<i4',
  'torch.ShortStorage': '<i2',
  'torch.CharStorage': '<i1',
  'torch.ByteStorage': '<u1',
  'torch.BoolStorage': '|b1',
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # starts files of PyTorch before 1.6
# Training scripts' keys for the weights and for their moving average.
_RAW_KEYS = ('state_dict', 'model', 'model_state_dict', 'net', 'params')
_AVERAGED_KEYS = ('state_dict_ema', 'model_ema', 'ema', 'ema_state_dict')
_PREFIXES = ('module.', '_orig_mod.', 'model.', 'net.')  # of module wrappers
_COUNTER = 'n_averaged'  # of PyTorch's AveragedModel


def read(
  path: str | pathlib.Path, averaged: bool = True
) -> tuple[dict[str, np.ndarray], str | None]:
  """Reads a `state_dict`, alone or within a training script's checkpoint.

  Args:
    path: a file written by `torch.save`, as a zip or in the format from before
      PyTorch 1.6.
    averaged: whether to take the moving average of a checkpoint that has one.

  Returns:
    Arrays by dotted names without wrappers' prefixes, and their key in the
    checkpoint, None if the file is the state_dict.

  Raises:
    ValueError: the file holds anything but tensors in dictionaries.
  """
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      content = _read_zip(archive, os.path.getsize(path))
  else:
    with open(path, 'rb') as file:
      content = _read_legacy(file)
  keys = (*_AVERAGED_KEYS, *_RAW_KEYS) if averaged else _RAW_KEYS
  held = content if isinstance(content, Mapping) else {}
  found = {k: _unwrapped(held.get(k)) for k in keys}
  key = next((k for k in keys if found[k]), None)
  if key is None:
    return _state_dict(_unwrapped(content) or content), None
  return _state_dict(found[key]), key


def _unwrapped(held: Any) -> dict | None:
  """The dictionary of tensors, if need be from an entry `module`; or None."""
  while isinstance(held, dict) and isinstance(held.get('module'), dict):
    held = held['module']
  is_dict = isinstance(held, dict)
  has_any = is_dict and any(isinstance(x, np.ndarray) for x in held.values())
  return held if has_any else None


def _state_dict(content: Any) -> dict[str, np.ndarray]:
  if not isinstance(content, dict):
    raise ValueError('holds no state_dict')
  arrays = {k: x for k, x in content.items() if isinstance(x, np.ndarray)}
  if len(arrays) != len(content) or not arrays:
    raise ValueError(
      'not a state_dict, which holds named tensors alone: it has '
      f'{len(content) - len(arrays)} other entries'
    )
  return plain_names(arrays)


def plain_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Strips the prefixes that module wrappers add to all names."""
  arrays = {name: x for name, x in arrays.items() if name != _COUNTER}
  for prefix in _PREFIXES * 2:  # wrappers nest in any order
    if arrays and all(str(name).startswith(prefix) for name in arrays):
      arrays = {name.removeprefix(prefix): x for name, x in arrays.items()}
  return dict(arrays)


def _read_zip(archive: zipfile.ZipFile, file_size: int) -> Any:
  pickles = [n for n in archive.namelist() if n.endswith('/data.pkl')]
  if len(pickles) != 1:
    raise restricted.Refused('not a file by torch.save: no data.pkl inside')
  if sum(info.file_size for info in archive.infolist()) > file_size:
    raise restricted.Refused("its parts are compressed, unlike torch.save's")
  folder = pickles[0].removesuffix('data.pkl')
  if f'{folder}byteorder' in archive.namelist() and (
    archive.read(f'{folder}byteorder') != b'little'
  ):
    raise restricted.Refused('big-endian files are not supported')
  storages: dict[str, np.ndarray] = {}

  def stored(pid: Any) -> np.ndarray:
    dtype, key, size = _described(pid)
    if key not in storages:
      member = f'{folder}data/{key}'
      if archive.getinfo(member).file_size != size * dtype.itemsize:
        raise restricted.Refused(f'storage {key!r} has not the stated size')
      storages[key] = np.frombuffer(archive.read(member), dtype)
    return storages[key]

  return _load(io.BytesIO(archive.read(pickles[0])), stored, file_size)


def _read_legacy(file: BinaryIO) -> Any:
  if restricted.load(file) != _LEGACY_MAGIC:
    raise restricted.Refused('not a file by torch.save')
  restricted.load(file)  # the format's version
  restricted.load(file)  # the writer's byte order and sizes
  file_size = os.fstat(file.fileno()).st_size
  storages: dict[str, np.ndarray] = {}

  def stored(pid: Any) -> np.ndarray:
    dtype, key, size = _described(pid)
    if key not in storages:
      known = sum(storage.nbytes for storage in storages.values())
      if known + size * dtype.itemsize > file_size:
        raise restricted.Refused(f'storage {key!r} is larger than the file')
      # Filled below: the bytes follow the pickle.
      storages[key] = np.zeros(size, dtype)
    return storages[key]

  content = _load(file, stored, file_size)
  for key in restricted.load(file):
    if not (isinstance(key, str) and key in storages):
      raise restricted.Refused('its list of storages has an unknown form')
    (size,) = np.frombuffer(file.read(8), '<i8')
    storage = storages[key]
    if size != storage.size:
      raise restricted.Refused(f'storage {key!r} has not the stated size')
    storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
  return content


def _described(pid: Any) -> tuple[np.dtype, str, int]:
  # PyTorch's persistent id: ('storage', type, key, device, size, view).
  if (
    not isinstance(pid, tuple)
    or len(pid) not in (5, 6)
    or pid[0] != 'storage'
    or getattr(pid[1], 'text', None) not in _DTYPES
    or not isinstance(pid[2], str)
    or type(pid[4]) is not int
    or not 0 <= pid[4] < 2**40
    or (len(pid) == 6 and pid[5] is not None)
  ):
    raise restricted.Refused('a storage has an unknown form')
  return np.dtype(_DTYPES[pid[1].text]), pid[2], pid[4]


def _load(file: BinaryIO, stored: Callable[[Any], Any], file_size: int) -> Any:
  calls = dict.fromkeys(_DTYPES) | {
    'torch._utils._rebuild_tensor_v2': _strided,
    'torch._utils._rebuild_parameter': lambda data, *_: data,
    'torch.Size': tuple,
  }
  return restricted.load(file, calls, stored, file_size)


def _strided(
  storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> np.ndarray:
  """A tensor as a view of its storage, which may be filled later."""
  sizes = (offset,), shape, strides
  if (
    not isinstance(storage, np.ndarray)
    or not all(map(restricted.is_shape, sizes))
    or len(shape) != len(strides)
  ):
    raise restricted.Refused('a tensor has an unknown form')
  if not math.prod(shape):
    return np.zeros(shape, storage.dtype)
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides))
  if max(last + 1, math.prod(shape)) > storage.size:
    raise restricted.Refused('a tensor reaches beyond its storage')
  return np.lib.stride_tricks.as_strided(
    storage[offset:],
    shape,
    [stride * storage.itemsize for stride in strides],
    writeable=False,
  )
