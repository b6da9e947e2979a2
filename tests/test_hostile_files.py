"""No file of weights crashes its reader, or takes it much time or memory.

A few hundred files, damaged at random or made to harm, are read in another
process. Errors are one line.
"""

import io
import json
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile

import dill
import jax
import numpy as np
import pytest
import safetensors.numpy
import test_files
import test_restricted
import test_torch_file
from test_torch_file import fake_torch as fake_torch

from nfnets import weights

READER = """
import json, pathlib, resource, sys, time
from nfnets import weights
from nfnets.weights import exported

def peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10

readers = {'.zip': exported.load}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
  print(path.name, flush=True)
  started, before, told = time.process_time(), peak(), ''
  try:
    readers.get(path.suffix, weights.load)(str(path))
  except ValueError as error:
    told = str(error)
  seconds, grown = time.process_time() - started, peak() - before
  print(json.dumps([told, seconds, grown]), flush=True)
"""
MOST_SECONDS = 8.0
MOST_BYTES = 2**28


def whole_files(folder):
  """One small file of each kind that is read."""
  small = test_files.small()
  for ending in ('npz', 'safetensors'):
    weights.write(folder / f'ours.{ending}', small)
  tree = {module: dict(named) for module, named in small.params.items()}
  (folder / 'dill.npz').write_bytes(dill.dumps(tree))
  (folder / 'two.pkl').write_bytes(pickle.dumps(tree, 2))
  arrays = test_torch_file.ARRAYS.values()
  stored = {str(index): array for index, array in enumerate(arrays)}
  for name, write in (
    ('zip.pth', test_torch_file._write_zip),
    ('legacy.pth', test_torch_file._write_legacy),
  ):
    write(folder / name, test_torch_file._state_dict(), stored)
  program(folder / 'exported.zip')
  return sorted(folder.iterdir())


def program(path, name=None, text=None):
  """An exported function, as scripts.export writes it."""
  w, x = np.eye(3, dtype=np.float32), np.zeros((2, 3), np.float32)
  done = jax.export.export(jax.jit(lambda w, x: x @ w['w']))({'w': w}, x)
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('network.json', text or json.dumps({'shapes': [2, 3]}))
    file.writestr('network.stablehlo', done.serialize())
    file.writestr('weights.safetensors', safetensors.numpy.save({'w': w}))


def damaged(data, random):
  """Flips bits, truncates, zeroes, inserts random bytes or repeats a part."""
  data, at = bytearray(data or b'0'), random.randint(max(len(data), 1))
  if random.rand() < 0.5:  # structure lies at the ends
    at = min(at, 300) if random.rand() < 0.5 else max(at, len(data) - 300)
  match random.randint(5):
    case 0:
      for index in random.randint(max(at - 20, 0), at + 1, 3):
        data[index % len(data)] ^= 1 << random.randint(8)
    case 1:
      del data[at:]
    case 2:
      data[at : at + 64] = bytes(len(data[at : at + 64]))
    case 3:
      data[at:at] = random.bytes(random.randint(1, 64))
    case 4:
      data[at:at] = data[max(at - 64, 0) : at]
  return bytes(data)


def repacked(path, target, random):
  """The zip with one member damaged, and its checksum right."""
  with zipfile.ZipFile(path) as file:
    members = {name: file.read(name) for name in file.namelist()}
  name = random.choice(list(members))
  members[name] = damaged(members[name], random)
  with zipfile.ZipFile(target, 'w') as file:
    for name, data in members.items():
      file.writestr(name, data)


def write_all(folder, count):
  """`count` damaged files of each kind, and the ones made to harm."""
  whole, random = folder / 'whole', np.random.RandomState(0)
  whole.mkdir()
  for path in whole_files(whole):
    for index in range(count):
      target = folder / f'{path.stem}_{index}{path.suffix}'
      if zipfile.is_zipfile(path) and index % 2:
        repacked(path, target, random)
      else:
        target.write_bytes(damaged(path.read_bytes(), random))
  runs(folder)
  for name, data in made().items():
    (folder / name).write_bytes(data)
  for name, write in test_files.HOSTILE.items():
    write(folder / f'{name.replace(" ", "_")}.safetensors')
  for kind in (test_restricted.BOMBS, test_restricted.ATTACKS):
    for name, data in kind.items():
      data = data if isinstance(data, bytes) else data(str(folder / 'RAN'))
      (folder / f'{name.replace(" ", "_")}.npz').write_bytes(data)


def told(**changes):
  """The small network's file with other metadata."""
  stated = {'model': 'cifar_resnet_20', 'num_classes': 4} | changes
  arrays = weights.files.leaves(test_files.small())
  return safetensors.numpy.save(arrays, {'nfnets': json.dumps(stated)})


def zipped(*members, method=zipfile.ZIP_STORED):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, 'w', method) as file:
    for name, data in members:
      file.writestr(name, data)
  return stream.getvalue()


def opcodes(body):
  return b'\x80\x04' + body + b'.'


NPY = test_files.npy
DEEP = 100_000


def made():
  """Files that announce, nest or unpack more than they hold."""
  return {
    'nested.safetensors': struct.pack('<Q', DEEP) + b'[' * DEEP,
    'told_deep.safetensors': told(overrides={'depths': [900, 900, 900]}),
    'told_wide.safetensors': told(overrides={'widths': [2**40, 2**40, 2**40]}),
    'told_huge.safetensors': told(
      overrides={'alpha': 1e308, 'drop_rate': 1e308}
    ),
    'told_stem.safetensors': told(
      model='nfnet_f0', overrides={'stem': [9] * 50}
    ),
    'told_group.safetensors': told(
      model='nfnet_f0', overrides={'group_size': 0}
    ),
    'told_ratio.safetensors': told(
      model='nfnet_f0', overrides={'final_ratio': 1e300}
    ),
    'members.npz': zipped(*((f'a/{i}.npy', b'') for i in range(5000))),
    'outside.npz': zipped(('../../w.npy', NPY((1,), bytes(4)))),
    'minus.npz': zipped(('a/w.npy', NPY((-1, -4), bytes(16)))),
    'nothing.npz': zipped(('a/w.npy', NPY((0, 2**60)))),
    'itemsize.npz': zipped(('a/w.npy', NPY((1,), b'', '<U1000000000'))),
    'code.npz': zipped(('a/w.npy', NPY('(' * 5000))),
    'bomb.npz': zipped(
      ('a/w.npy', NPY((2**26,), bytes(2**28))), method=zipfile.ZIP_DEFLATED
    ),
    'bomb.pth': zipped(
      ('a/data.pkl', opcodes(b'N')),
      ('a/data/0', bytes(2**28)),
      method=zipfile.ZIP_DEFLATED,
    ),
    'bomb.zip': zipped(
      ('network.json', b' ' * 2**28), method=zipfile.ZIP_DEFLATED
    ),
    'nested.zip': zipped(('network.json', b'[' * DEEP)),
    'no_program.zip': zipped(
      ('network.json', b'{}'), ('network.stablehlo', b'')
    ),
    'nested.npz': opcodes(b'(' * DEEP),
    'lists.npz': opcodes(b']' + b'](' * DEEP + b'e' * DEEP),
    'tuples.npz': opcodes(b'N' + b'\x85' * DEEP),
    'integer.npz': opcodes(
      b'\x8b' + struct.pack('<i', 2**20) + b'\x7f' * 2**20
    ),
    'text.npz': opcodes(b'\x8d' + struct.pack('<Q', 2**40) + b'x'),
    'frame.npz': opcodes(b'\x95' + struct.pack('<Q', 2**62) + b'}'),
    'entries.npz': opcodes(b'](' + b'N' * 10**6 + b'e'),
  }


def runs(folder):
  """Folders of runs with an invalid config.json."""
  config = json.dumps
  for name, text in {
    'empty': '',
    'list': '[]',
    'nested': '[' * DEEP,
    'deep': config(
      {'model': {'name': 'cifar_resnet_20', 'depths': [10**6] * 3}}
    ),
    'no_model': config({'model': 3, 'data': 4}),
    'bytes': '\x00' * 99,
  }.items():
    (folder / f'run_{name}.d' / 'checkpoints' / '7').mkdir(parents=True)
    (folder / f'run_{name}.d' / 'config.json').write_text(text)


@pytest.mark.filterwarnings('ignore::PendingDeprecationWarning')
def test_every_file_is_read_or_refused_within_bounds_in_one_line(
  fake_torch, tmp_path
):
  write_all(tmp_path, 30)
  done = subprocess.run(
    [sys.executable, '-c', READER, tmp_path],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
  )
  lines = done.stdout.splitlines()
  assert done.returncode == 0, (lines[-1], done.stderr[-500:])
  assert not (tmp_path / 'RAN').exists()
  refused = 0
  for name, (told, seconds, grown) in zip(
    lines[::2], map(json.loads, lines[1::2])
  ):
    refused += bool(told)
    assert '\n' not in told and len(told) < 1000, name
    assert not told or name in told, (name, told)
    assert seconds < MOST_SECONDS and grown < MOST_BYTES, (name, seconds, grown)
  print(len(lines) // 2, refused)
  assert refused > 200
