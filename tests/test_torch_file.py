"""PyTorch's files are read without PyTorch; other files are refused."""

import argparse
import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import test_restricted

from nfnets.weights import restricted, torch_file

ARRAYS = {
  'head.fc.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
  'half': np.array([1.5, 2.5], np.float16),
  'count': np.array(7, np.int64),
  'none': np.zeros((0, 4), np.float32),
}
STORAGES = {'f4': 'FloatStorage', 'f2': 'HalfStorage', 'i8': 'LongStorage'}


class _Tensor:
  def __init__(self, key, array, shape=None, strides=None, offset=0):
    self.key, self.array = key, array
    self.shape = array.shape if shape is None else shape
    sizes = [s // array.itemsize for s in array.strides]
    self.strides = tuple(sizes) if strides is None else strides
    self.offset = offset

  def __reduce__(self):
    rebuild = sys.modules['torch._utils']._rebuild_tensor_v2
    storage = _Stored(self.key, self.array)
    hooks = collections.OrderedDict()
    args = (storage, self.offset, self.shape, self.strides, False, hooks)
    return rebuild, args


class _Stored:
  def __init__(self, key, array):
    self.key, self.array = key, array


class _Pickler(pickle.Pickler):
  view = ()

  def persistent_id(self, value):
    if not isinstance(value, _Stored):
      return None
    kind = getattr(sys.modules['torch'], STORAGES[value.array.dtype.str[1:]])
    size = value.array.size
    return ('storage', kind, value.key, 'cpu', size, *self.view)


@pytest.fixture
def fake_torch(monkeypatch):
  """A torch of names alone, so that pickle writes them as PyTorch does."""
  torch = types.ModuleType('torch')
  utils = types.ModuleType('torch._utils')
  for name in STORAGES.values():
    kind = type(name, (), {'__module__': 'torch', '__qualname__': name})
    setattr(torch, name, kind)

  def _rebuild_tensor_v2():
    raise AssertionError('a name of the file was run')

  _rebuild_tensor_v2.__module__ = 'torch._utils'
  _rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  monkeypatch.setitem(sys.modules, 'torch', torch)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)


def _state_dict():
  content = collections.OrderedDict(
    (name, _Tensor(str(index), array))
    for index, (name, array) in enumerate(ARRAYS.items())
  )
  content._metadata = {'': {'version': 1}}  # PyTorch's modules leave this.
  return content


def _write_zip(path, content, storages):
  stream = io.BytesIO()
  _Pickler(stream, 2).dump(content)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', stream.getvalue())
    archive.writestr('archive/byteorder', 'little')
    for key, array in storages.items():
      archive.writestr(f'archive/data/{key}', array.tobytes())


def _write_legacy(path, content, storages):
  with open(path, 'wb') as file:
    pickle.dump(0x1950A86A20F9469CFC6C, file, 2)
    pickle.dump(1001, file, 2)
    pickle.dump({'little_endian': True}, file, 2)
    pickler = _Pickler(file, 2)
    pickler.view = (None,)
    pickler.dump(content)
    pickle.dump(list(storages), file, 2)
    for array in storages.values():
      file.write(struct.pack('<q', array.size) + array.tobytes())


WRITERS = [_write_zip, _write_legacy]


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize('key', [None, 'state_dict', 'model'])
def test_both_formats_are_read(write, key, fake_torch, tmp_path):
  content = _state_dict() if key is None else {key: _state_dict()}
  storages = {str(i): a for i, a in enumerate(ARRAYS.values())}
  write(tmp_path / 'w.pth', content, storages)
  found = torch_file.read(tmp_path / 'w.pth')[0]
  assert list(found) == list(ARRAYS)
  for name, array in ARRAYS.items():
    assert found[name].shape == array.shape
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize('averaged', [True, False])
def test_a_training_scripts_checkpoint_gives_its_average(
  write, averaged, fake_torch, tmp_path
):
  raw, average = np.float32([1, 2]), np.float32([3, 4])
  content = {
    'epoch': 3,
    'args': argparse.Namespace(model='dm_nfnet_f0', lr=0.1),
    'state_dict': {'module.w': _Tensor('0', raw)},
    'state_dict_ema': {'module._orig_mod.w': _Tensor('1', average)},
  }
  write(tmp_path / 'w.pth', content, {'0': raw, '1': average})
  found, key = torch_file.read(tmp_path / 'w.pth', averaged)
  assert key == ('state_dict_ema' if averaged else 'state_dict')
  np.testing.assert_array_equal(found['w'], average if averaged else raw)


@pytest.mark.parametrize('key', [
  'model_state_dict', 'net', 'params', 'model_ema', 'ema', 'ema_state_dict'
])  # fmt: skip
@pytest.mark.parametrize('prefix', ['', 'model.', 'net.', 'module.model.'])
def test_containers_and_wrappers_are_unpacked(
  key, prefix, fake_torch, tmp_path
):
  count, array = np.array(9), np.float32([3, 4])
  held = {f'{prefix}w': _Tensor('0', array), 'n_averaged': _Tensor('1', count)}
  other = {'w': _Tensor('2', np.float32([0, 0]))}
  content = {'model': other} if 'ema' in key else {'model': None}
  content[key] = {'module': held} if 'ema' in key else held
  stored = {'0': array, '1': count, '2': np.float32([0, 0])}
  _write_zip(tmp_path / 'w.pth', content, stored)
  found, name = torch_file.read(tmp_path / 'w.pth')
  assert name == key and list(found) == ['w']
  np.testing.assert_array_equal(found['w'], array)


def test_deflated_storages_are_refused(fake_torch, tmp_path):
  array = np.zeros(2**20, np.float32)
  _write_zip(tmp_path / 'w.pth', {'w': _Tensor('0', array)}, {'0': array})
  with (
    zipfile.ZipFile(tmp_path / 'w.pth') as whole,
    zipfile.ZipFile(tmp_path / 'd.pth', 'w', zipfile.ZIP_DEFLATED) as deflated,
  ):
    for name in whole.namelist():
      deflated.writestr(name, whole.read(name))
  with pytest.raises(restricted.Refused, match='compressed'):
    torch_file.read(tmp_path / 'd.pth')


@pytest.mark.parametrize('write', WRITERS)
def test_views_of_one_storage_are_read(write, fake_torch, tmp_path):
  storage = np.arange(6, dtype=np.float32)
  content = {
    'transposed': _Tensor('0', storage, (3, 2), (1, 3)),
    'tail': _Tensor('0', storage, (2,), (1,), 4),
  }
  write(tmp_path / 'w.pth', content, {'0': storage})
  found = torch_file.read(tmp_path / 'w.pth')[0]
  want = storage.reshape(2, 3).T
  np.testing.assert_array_equal(found['transposed'], want)
  np.testing.assert_array_equal(found['tail'], [4, 5])


@pytest.mark.parametrize('write', WRITERS)
def test_any_number_of_tensors_share_one_storage(write, fake_torch, tmp_path):
  flat = np.arange(1000, dtype=np.float32)
  content = {
    f'w{i}': _Tensor('0', flat, (10, 5), (5, 1), 50 * i) for i in range(20)
  }
  write(tmp_path / 'w.pth', content, {'0': flat})
  found = torch_file.read(tmp_path / 'w.pth')[0]
  for name, part in zip(content, np.split(flat, 20), strict=True):
    np.testing.assert_array_equal(found[name], part.reshape(10, 5))


@pytest.mark.parametrize('write', WRITERS)
def test_copies_of_a_whole_storage_are_refused(write, fake_torch, tmp_path):
  flat = np.arange(10_000, dtype=np.float32)
  content = {f'w{i}': _Tensor('0', flat) for i in range(20)}
  write(tmp_path / 'w.pth', content, {'0': flat})
  with pytest.raises(restricted.Refused, match='builds more bytes'):
    torch_file.read(tmp_path / 'w.pth')


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize(
  ('shape', 'strides', 'offset'),
  [((7,), (1,), 0), ((2,), (1,), 5), ((2**20, 2**10), (0, 0), 0)],
)
def test_a_tensor_beyond_its_storage_is_refused(
  write, shape, strides, offset, fake_torch, tmp_path
):
  storage = np.arange(6, dtype=np.float32)
  content = {'w': _Tensor('0', storage, shape, strides, offset)}
  write(tmp_path / 'w.pth', content, {'0': storage})
  with pytest.raises(restricted.Refused, match='beyond its storage'):
    torch_file.read(tmp_path / 'w.pth')


@pytest.mark.parametrize('key', [test_restricted.CHAIN, b'U\x01x', b'N'])
def test_a_list_of_storages_with_another_key_is_refused_at_once(key, tmp_path):
  head = [0x1950A86A20F9469CFC6C, 1001, {}, {'w': None}]
  keys = b'\x80\x02]' + key + b'a.'
  data = b''.join(pickle.dumps(part, 2) for part in head) + keys
  (tmp_path / 'w.pth').write_bytes(data)
  with pytest.raises(restricted.Refused, match='its list of storages'):
    torch_file.read(tmp_path / 'w.pth')


@pytest.mark.parametrize('write', WRITERS)
def test_anything_else_is_refused_and_does_not_run(
  write, fake_torch, tmp_path, monkeypatch
):
  class Attack:
    def __reduce__(self):
      return os.system, (f'touch {tmp_path}/marker',)

  write(tmp_path / 'w.pth', {'w': Attack()}, {})
  with pytest.raises(restricted.Refused, match=r'posix\.system'):
    torch_file.read(tmp_path / 'w.pth')
  assert not (tmp_path / 'marker').exists()


@pytest.mark.parametrize('write', WRITERS)
def test_a_file_without_a_state_dict_is_refused(write, fake_torch, tmp_path):
  write(tmp_path / 'w.pth', {'epoch': 3}, {})
  with pytest.raises(ValueError, match='has 1 other entries'):
    torch_file.read(tmp_path / 'w.pth')


def test_other_files_get_one_line(tmp_path):
  with zipfile.ZipFile(tmp_path / 'w.pth', 'w') as archive:
    archive.writestr('readme', 'nothing')
  with pytest.raises(restricted.Refused, match=r'no data\.pkl'):
    torch_file.read(tmp_path / 'w.pth')
  (tmp_path / 'text.pth').write_bytes(b'hello')
  with pytest.raises(restricted.Refused, match='no complete pickle'):
    torch_file.read(tmp_path / 'text.pth')
  (tmp_path / 'other.pth').write_bytes(pickle.dumps(3))
  with pytest.raises(restricted.Refused, match=r'not a file by torch\.save'):
    torch_file.read(tmp_path / 'other.pth')


_SAVE = """
import sys, torch
from safetensors.torch import save_file
folder = sys.argv[1]
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
state = model.state_dict()
save_file(state, f'{folder}/wanted.safetensors')
torch.save(state, f'{folder}/zip.pth')
torch.save(
  {'state_dict': state}, f'{folder}/legacy.pth',
  _use_new_zipfile_serialization=False,
)
"""


@pytest.mark.slow
def test_files_by_pytorch_itself_are_read(tmp_path, python_with_timm):
  subprocess.run([python_with_timm, '-c', _SAVE, str(tmp_path)], check=True)
  wanted = safetensors.numpy.load_file(tmp_path / 'wanted.safetensors')
  for name in ('zip.pth', 'legacy.pth'):
    found = torch_file.read(tmp_path / name)[0]
    assert found.keys() == wanted.keys()
    for key, array in wanted.items():
      assert found[key].shape == array.shape
      np.testing.assert_array_equal(found[key], array)
