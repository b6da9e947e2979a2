"""Pickles of weights are read; nothing in other pickles is run."""

import argparse
import builtins
import collections
import io
import os
import pathlib
import pickle
import pickletools
import struct

import dill
import haiku as hk
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.weights import restricted

TREE = {
  'NFNet/~/stem_conv0': {
    'w': np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    'gain': np.linspace(0.5, 1.5, 4, dtype=np.float32),
  },
  'NFNet/~/nf_block': {'skip_gain': np.array(0.25, np.float32)},
  'odd': {
    'fortran': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    'big_endian': np.arange(3, dtype='>f4'),
    'half': np.array([1.5], np.float16),
    'counter': np.array(7, np.int32),
    'empty': np.zeros((0, 3), np.float32),
  },
}


def _load(data):
  return restricted.load(io.BytesIO(data))


def _assert_equals(found, tree=TREE):
  assert type(found) is dict
  assert found.keys() == tree.keys()
  for module, leaves in tree.items():
    assert type(found[module]) is dict
    assert found[module].keys() == leaves.keys()
    for name, leaf in leaves.items():
      got = found[module][name]
      assert type(got) is np.ndarray
      assert got.shape == leaf.shape
      assert got.dtype == leaf.dtype.newbyteorder('=')
      assert got.flags.writeable
      np.testing.assert_array_equal(got, leaf)


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('writer', [dill.dumps, pickle.dumps])
@pytest.mark.parametrize(
  'kind', [dict, collections.OrderedDict, hk.data_structures.to_immutable_dict]
)
def test_every_protocol_and_mapping_of_today_is_read(protocol, writer, kind):
  tree = kind(TREE)
  _assert_equals(_load(writer(tree, protocol=protocol)))


def _text(value):
  data = value.encode()
  return b'X' + struct.pack('<I', len(data)) + data


def _bytes(value):
  return b'B' + struct.pack('<I', len(value)) + value


def _number(value):
  return b'J' + struct.pack('<i', value)


def _array_2021(array, function):
  """Protocol 3 opcodes of `dill._dill._create_array`, names of NumPy 1.20."""
  shape = b'(' + b''.join(map(_number, array.shape)) + b't'
  dtype = (
    b'cnumpy\ndtype\n'
    + _text(array.dtype.str[1:])
    + b'\x89\x88\x87R('
    + _number(3)
    + _text('<')
    + b'NNN'
    + _number(-1)
    + _number(-1)
    + _number(0)
    + b'tb'
  )
  state = (
    b'(' + _number(1) + shape + dtype + b'\x89' + _bytes(array.tobytes()) + b't'
  )
  arguments = b'cnumpy\nndarray\n' + _number(0) + b'\x85' + _bytes(b'b')
  return (
    b'cdill._dill\n_create_array\n('
    + function
    + arguments
    + b'\x87'
    + state
    + b'NtR'
  )


# How dill writes a function in C: since 2021's end, then before.
GLOBAL = b'cnumpy.core.multiarray\n_reconstruct\n'
GET_ATTR = (
  b'cdill._dill\n_get_attr\ncdill._dill\n_import_module\n'
  + _text('numpy.core._multiarray_umath')
  + b'\x85R'
  + _text('_reconstruct')
  + b'\x86R'
)


@pytest.mark.parametrize('function', [GLOBAL, GET_ATTR])
def test_the_published_form_with_the_names_of_2021_is_read(function):
  """Opcodes by hand: a FlatMapping of dicts of arrays, as dill wrote it."""
  tree = {module: TREE[module] for module in list(TREE)[:2]}
  modules = b''
  for module, leaves in tree.items():
    items = b''.join(
      _text(name) + _array_2021(leaf, function) for name, leaf in leaves.items()
    )
    modules += _text(module) + b'}(' + items + b'u'
  flat = b'chaiku._src.data_structures\nFlatMapping\n'
  data = b'\x80\x03' + flat + b'}(' + modules + b'u\x85R.'
  pickletools.dis(data, out=io.StringIO())  # The opcodes are well formed.
  found = _load(data)
  _assert_equals(found, tree)


def test_device_arrays_are_read_as_plain_arrays():
  found = _load(pickle.dumps({'a': {'w': jnp.arange(3.0)}}))
  assert type(found['a']['w']) is np.ndarray
  np.testing.assert_array_equal(found['a']['w'], [0, 1, 2])


class _Calls:
  def __init__(self, function, *args):
    self.reduced = (function, args)

  def __reduce__(self):
    return self.reduced


def _global(name):
  module, _, attribute = name.rpartition('.')
  return f'c{module}\n{attribute}\n'.encode()


# Each would write the file `marker` if it ran: {} is its path.
ATTACKS = {
  'os.system': lambda path: pickle.dumps(_Calls(os.system, f'touch {path}')),
  'eval': lambda path: pickle.dumps(
    _Calls(builtins.eval, f'open({path!r}, "w")')
  ),
  'dill function': lambda path: dill.dumps(lambda: path, recurse=True),
  'attribute of a known name': lambda path: (
    b'\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.'
  ),
  'dill attribute': lambda path: (
    b'\x80\x03cdill._dill\n_get_attr\ncdill._dill\n_import_module\n'
    + _text('os')
    + b'\x85R'
    + _text('system')
    + b'\x86R'
    + _text(f'touch {path}')
    + b'\x85R.'
  ),
  'dill attribute of an inert object': lambda path: (
    b'\x80\x03cdill._dill\n_get_attr\ncnumpy\nndarray\n'
    + _text('__class__')
    + b'\x86R.'
  ),
  'old instance': lambda path: f'(S"touch {path}"\nios\nsystem\n.'.encode(),
  'old object': lambda path: (
    b'(' + _global('os.system') + _text(f'touch {path}') + b'o.'
  ),
  'new object': lambda path: b'\x80\x02' + _global('numpy.ndarray') + b')\x81.',
  'state of a name': lambda path: (
    b'\x80\x02'
    + _global('numpy.core.multiarray._reconstruct')
    + b'}'
    + _text('_call')
    + _text('x')
    + b'sb.'
  ),
  'slots of a name': lambda path: (
    b'\x80\x02'
    + _global('numpy.core.multiarray._reconstruct')
    + b'N}'
    + _text('_call')
    + _global('numpy.dtype')
    + b's\x86b.'
  ),
  'extension': lambda path: b'\x80\x02\x82\x01.',
  'persistent': lambda path: b'\x80\x02' + _text('x') + b'Q.',
  'subclass': lambda path: pickle.dumps(np.zeros(2).view(np.matrix)),
  'objects': lambda path: pickle.dumps(np.array([_Calls(os.getcwd)], object)),
  'structured': lambda path: pickle.dumps(np.zeros(2, [('a', 'f4')])),
  'strings': lambda path: pickle.dumps(np.array(['a'])),
  'a name alone': lambda path: b'\x80\x02' + _global('numpy.dtype') + b'.',
  'dill type': lambda path: (
    b'\x80\x03cdill._dill\n_load_type\n' + _text('eval') + b'\x85R.'
  ),
}


@pytest.mark.filterwarnings('ignore::PendingDeprecationWarning')
@pytest.mark.parametrize('attack', ATTACKS)
def test_nothing_else_runs(attack, tmp_path, monkeypatch):
  marker = tmp_path / 'marker'
  data = ATTACKS[attack](str(marker))
  ran = []
  monkeypatch.setattr(os, 'system', lambda *_: ran.append('system'))
  monkeypatch.setattr(os, 'getcwd', lambda *_: ran.append('getcwd'))
  with pytest.raises(restricted.Refused) as error:
    _load(data)
  assert '\n' not in str(error.value)
  assert not ran
  assert not marker.exists()
  # What the pickle tried to change is as it was.
  _assert_equals(_load(dill.dumps(TREE)))


def test_the_attacks_are_real(tmp_path):
  """An unrestricted reader does run them."""
  for attack in ('os.system', 'eval', 'dill attribute', 'old instance'):
    marker = tmp_path / attack.replace(' ', '_')
    value = dill.loads(ATTACKS[attack](str(marker)))
    if hasattr(value, 'close'):
      value.close()
    assert marker.exists(), attack


def test_a_refusal_has_the_name_in_the_pickle():
  with pytest.raises(restricted.Refused, match=r"'posix\.system'"):
    _load(pickle.dumps(_Calls(os.system, 'true')))


@pytest.mark.parametrize(
  'data',
  [b'', b'no pickle', b'\x80\x04', pickle.dumps(TREE)[:-40], b'\x80\x04)R.'],
)
def test_a_file_that_is_no_pickle_is_refused_in_one_line(data):
  with pytest.raises(restricted.Refused, match='no complete pickle'):
    _load(data)


@pytest.mark.parametrize('size', [2**62, 7, -1])
def test_an_array_whose_bytes_do_not_fill_its_shape_is_refused(size):
  array = np.arange(3, dtype=np.float32)
  good = _array_2021(array, GLOBAL)
  shape = b'(' + _number(3) + b't'
  assert good.count(shape) == 1
  long = b'\x8a\x08' + struct.pack('<q', size)
  bad = good.replace(shape, b'(' + long + b't')
  np.testing.assert_array_equal(_load(b'\x80\x03' + good + b'.'), array)
  with pytest.raises(restricted.Refused, match='shape'):
    _load(b'\x80\x03' + bad + b'.')


# A tuple of 2^60 leaves: each level holds the one before twice.
CHAIN = b')q\x00' + b''.join(b'h%c\x86q%c' % (i, i + 1) for i in range(60))
MODULE = b'cdill._dill\n_import_module\n'
BOMBS = {
  'tuples as a key': b'\x80\x02' + CHAIN + b'}q\xf0h<h\xf0s.',
  'tuples as a dtype': b'\x80\x02cnumpy\ndtype\n' + CHAIN + b'\x85R.',
  'tuples as a shape': b'\x80\x03cnumpy.core.numeric\n_frombuffer\n(C\x01x'
  + b'cnumpy\ndtype\nX\x02\x00\x00\x00i1\x85R'
  + CHAIN
  + b'tR.',
  'tuples as an attribute': b'\x80\x02cdill._dill\n_get_attr\nN'
  + CHAIN
  + b'\x86R.',
  'tuples as an attribute of a module': b'\x80\x02cdill._dill\n_get_attr\n'
  + MODULE
  + b'U\x01n\x85R'
  + CHAIN
  + b'\x86R.',
  'tuples as a module': b'\x80\x02cdill._dill\n_get_attr\n'
  + MODULE
  + CHAIN
  + b'\x85RU\x01n\x86R.',
  'tuples as a type': b'\x80\x02cdill._dill\n_load_type\n' + CHAIN + b'\x85R.',
  'dimensions': b'\x80\x03cnumpy.core.numeric\n_frombuffer\n(C\x01x'
  + b'cnumpy\ndtype\nX\x02\x00\x00\x00i1\x85R('
  + _number(2**31 - 1)
  + b'q\x00'
  + b'h\x00' * 200_000
  + b'ttR.',
  'a number of digits': b'I' + b'9' * 10**6 + b'\n.',
  'a length': b'\x80\x04\x8e' + struct.pack('<Q', 2**62) + b'x.',
  'bytes of a length': b'\x80\x02c__builtin__\nbytes\n'
  + _number(2**31 - 1)
  + b'\x85R.',
  'copies of one array': b'\x80\x04'
  + b'cnumpy._core.numeric\n_frombuffer\n\x94(B'
  + struct.pack('<I', 4000)
  + bytes(4000)
  + b'cnumpy\ndtype\n\x8c\x02f4\x85RM\xe8\x03\x85\x8c\x01Ct\x940'
  + b'h\x00h\x01R0' * 30
  + b'N.',
}


@pytest.mark.parametrize('name', BOMBS)
def test_a_pickle_that_needs_more_memory_or_time_than_its_size_is_refused(name):
  with pytest.raises(restricted.Refused) as error:
    _load(BOMBS[name])
  assert len(str(error.value)) < 400
  assert _load(b'\x80\x02]r\xff\xff\xff\x7f.') == []  # a memo of one entry


def test_a_namespace_is_a_dictionary():
  told = argparse.Namespace(model='dm_nfnet_f0', lr=0.1, size=(3, 224))
  assert _load(pickle.dumps({'args': told}, 2)) == {'args': vars(told)}


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize(
  ('value', 'stands'),
  [
    (pathlib.PurePosixPath('/a/b'), '/a/b'),
    ({3}, [3]),
    (frozenset([3]), [3]),
    (collections.defaultdict(list, {'a': 1}), {'a': 1}),
  ],
)
def test_settings_beside_weights_are_read_as_plain_values(
  value, stands, protocol
):
  assert _load(pickle.dumps({'args': value}, protocol)) == {'args': stands}


def test_a_pickle_that_refers_to_itself_ends():
  """Fifty doublings: 2^50 leaves if each were visited."""
  data = b'\x80\x02]q\x00'
  for level in range(50):
    data += b'](h' + bytes([level]) + b'h' + bytes([level]) + b'e'
    data += b'q' + bytes([level + 1])
  assert isinstance(_load(data + b'.'), list)
  with pytest.raises(restricted.Refused, match='deep'):
    _load(b'\x80\x02]q\x00h\x00a.')  # it contains itself
