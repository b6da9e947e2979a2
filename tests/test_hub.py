"""The five lines of the README: a network by name, called, without Haiku."""

import errno
import hashlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import traceback
import urllib.error

import dill
import fake_hub
import jax
import jax.numpy as jnp
import numpy as np
import photographs
import pytest

import nfnets
from nfnets import hub, weights
from nfnets.weights import certificate, match, names, timm
from scripts import common

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A repository of timm's smallest network, and its weights as a file."""
  path = tmp_path_factory.mktemp('hub') / 'timm' / 'test_nfnet.r160_in1k'
  kept = fake_hub.write_repository(path, num_classes=5)
  weights.write(path / 'ours.safetensors', kept)
  return path


@pytest.fixture(scope='module')
def net(folder):
  return nfnets.load(folder / 'model.safetensors')


def test_a_network_is_called_like_a_function(net):
  photos = [np.asarray(x) for x in photographs.load()]
  images = net.preprocess(photos)
  assert images.shape == (2, 64, 64, 3) and images.dtype == np.float32
  assert net.class_names == [f'class {index}' for index in range(5)]
  # The oracle: the network itself, its weights not folded.
  apply = jax.jit(net.transformed.apply, static_argnums=4)
  output, _ = apply(net.params, net.state, None, images, False)
  np.testing.assert_allclose(net(images), output['logits'], atol=1e-5)
  np.testing.assert_allclose(net.pool(images), output['pool'], atol=1e-5)


def test_a_network_may_be_called_first_in_a_program_such_as_a_loss(folder):
  net = nfnets.load(folder / 'model.safetensors')
  images = np.zeros((2, 64, 64, 3), np.float32)
  within = jax.jit(lambda images: 2 * net(images))(images)
  np.testing.assert_allclose(within, 2 * net(images), rtol=1e-6)


def test_feature_maps_have_their_strides(net):
  images = np.zeros((1, 96, 64, 3), np.float32)
  maps = net.features(images)
  assert list(maps) == [2, 4, 8, 16, 32]
  for stride, x in maps.items():
    assert x.shape[:3] == (1, 96 // stride, 64 // stride)


def test_pictures_are_files_bytes_or_arrays(net, tmp_path):
  photo = photographs.load()[0]
  photo.save(tmp_path / 'a.png')
  wanted = net.preprocess(np.asarray(photo))
  for given in (tmp_path / 'a.png', (tmp_path / 'a.png').read_bytes()):
    np.testing.assert_array_equal(net.preprocess(given), wanted)
  both = net.preprocess([str(tmp_path / 'a.png'), np.asarray(photo)])
  np.testing.assert_array_equal(both, np.concatenate([wanted] * 2))


def test_of_several_pictures_the_one_that_cannot_be_read_is_named(
  net, tmp_path
):
  photo = np.asarray(photographs.load()[0])
  (tmp_path / 'b.png').write_bytes(b'text')
  for bad, name in ((b'text', '1'), (tmp_path / 'b.png', r'1 \(.*b.png\)')):
    with pytest.raises(ValueError, match=f'^picture {name}: not an image'):
      net.preprocess([photo, bad])


def test_pictures_that_were_not_preprocessed_are_refused(net, folder):
  photo = np.asarray(photographs.load()[0])
  with pytest.raises(ValueError, match=r'uint8 \[1, .* must be float'):
    net(photo[None])
  for given in ([[0.5]], None, 'a.jpg'):
    with pytest.raises(ValueError, match='must be float'):
      net(given)
  with pytest.raises(ValueError, match=r'got uint8 \[\d+, \d+\]'):
    net.preprocess(photo[..., 0])
  with pytest.raises(ValueError, match='empty array'):
    net.preprocess(photo[:0])
  with pytest.raises(ValueError, match='at least one picture'):
    net.preprocess([])


def test_sizes_that_are_no_whole_numbers_in_range_are_refused(folder):
  for given in (
    {'image_size': 0},
    {'image_size': 64.5},
    {'image_size': 50_000},
    {'num_classes': '3'},
    {'num_classes': True},
    {'num_classes': 10**12},
    {'in_channels': 0},
  ):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=f'{name}={value!r}: must be a whole'):
      nfnets.load(folder / 'model.safetensors', **given)


def test_ours_and_timms_file_are_one_network(net, folder):
  ours = nfnets.load(folder / 'ours.safetensors', image_size=32)
  assert ours.config['model'] == net.config['model'] == 'test_nfnet'
  images = np.random.RandomState(0).standard_normal((1, 32, 32, 3))
  np.testing.assert_allclose(ours(images), net(images), atol=1e-5)
  assert ours.preprocess(np.zeros((9, 9, 3), np.uint8)).shape[1] == 32


def test_bfloat16_is_near(net, folder):
  images = np.random.RandomState(0).standard_normal((1, 64, 64, 3))
  half = nfnets.load(folder / 'model.safetensors', dtype='bfloat16')
  wanted = np.asarray(net(images))
  error = np.abs(half(images) - wanted).max() / np.abs(wanted).max()
  assert 1e-5 < error < 0.05
  with pytest.raises(ValueError, match="dtype='int8': use"):
    nfnets.load(folder / 'model.safetensors', dtype='int8')


@pytest.mark.parametrize('num_classes', [0, 7])
def test_another_head_leaves_the_features(net, folder, num_classes):
  other = nfnets.load(folder / 'model.safetensors', num_classes=num_classes)
  images = np.random.RandomState(0).standard_normal((1, 32, 32, 3))
  pool = np.asarray(net.pool(images))
  np.testing.assert_allclose(other.pool(images), pool, atol=1e-6)
  logits = np.asarray(other(images))
  if num_classes:
    head = other.params['NFNet/~/linear']
    np.testing.assert_allclose(logits, pool @ head['w'], atol=1e-5)
    assert len(other.class_names) == 7
  else:
    np.testing.assert_allclose(logits, pool, atol=1e-6)
    assert other.class_names == []


@pytest.mark.parametrize('channels', [1, 4])
def test_other_channels_get_the_stem_that_timm_gives_them(
  net, folder, channels
):
  """A grey image repeated is the same image; a turn of channels is scaled."""
  other = nfnets.load(folder / 'model.safetensors', in_channels=channels)
  stem = 'NFNet/~/stem_conv0'
  old, new = (x.params[stem]['w'] for x in (net, other))
  assert new.shape[2] == channels
  wanted = old.sum(2, keepdims=True) if channels == 1 else old * 3 / 4
  np.testing.assert_allclose(new[:, :, :3], wanted, rtol=1e-6)
  if channels == 4:
    np.testing.assert_allclose(new[:, :, 3], old[:, :, 0] * 3 / 4, rtol=1e-6)
    with pytest.raises(ValueError, match='takes 4 channels'):
      other.preprocess(np.zeros((9, 9, 3), np.uint8))
  else:
    grey = other.preprocess(np.asarray(photographs.load()[0]))
    assert grey.shape == (1, 64, 64, 1)
  assert other(np.zeros((1, 32, 32, channels))).shape == (1, 5)
  with pytest.raises(ValueError, match=r'must be float \[N, H, W'):
    other(np.zeros((1, 32, 32, 2)))


def test_a_start_for_training_is_functional(folder):
  net = nfnets.load(folder / 'model.safetensors', num_classes=3)
  network = nfnets.create('test_nfnet', num_classes=3)

  def step(params, images):
    optimizer = nfnets.sgd(0.1, clipping=0.01)
    loss = lambda params: network.apply(params, net.state, None, images, True)[
      0
    ]['logits'].sum()
    gradients = jax.grad(loss)(params)
    return optimizer.update(gradients, optimizer.init(params), params)[0]

  updates = jax.eval_shape(step, net.params, jnp.zeros((1, 32, 32, 3)))
  assert updates.keys() == net.params.keys()


def test_models_and_weights_have_names():
  assert len(nfnets.list_models(pretrained=True)) == 21
  assert {'nfnet_f0', 'timm/nfnet_f0', 'eca_nfnet_l0'} <= {
    *nfnets.list_models()
  }


def test_nothing_is_imported_before_it_is_asked_for():
  code = (
    'import sys, nfnets; assert "jax" not in sys.modules; nfnets.models.create;'
    'nfnets.__version__; dir(nfnets); assert "huggingface_hub" not in '
    'sys.modules; nfnets.no_such_thing'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True)
  assert b"no attribute 'no_such_thing'" in done.stderr


# The Hub's names, in a process of their own: its address is read at import.

CALL = """
import sys, nfnets
for name in sys.argv[1:]:
  try:
    net = nfnets.load(name)
    print(net.config['model'], net.config['preprocessing']['resize'])
  except (ValueError, OSError, ImportError) as error:
    print('error:', error)
"""
LOADED = 'test_nfnet center_0.95'


@pytest.fixture
def ask(tmp_path):
  """A function that loads names in a new process: a line of output for each.

  Without a server that process is offline.
  """
  pytest.importorskip('huggingface_hub')

  def run(server, *names):
    place = {'HF_ENDPOINT': server.url} if server else {'HF_HUB_OFFLINE': '1'}
    done = subprocess.run(
      [sys.executable, '-c', CALL, *names],
      env=os.environ | {'HF_HOME': str(tmp_path / 'hf')} | place,
      capture_output=True,
      text=True,
      cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    return lines

  return run


def test_a_name_is_downloaded_once_and_checked(folder, ask):
  name = 'test_nfnet.r160_in1k'
  with fake_hub.serve(folder.parents[1]) as server:
    *loaded, unknown = ask(
      server,
      name,
      f'hf-hub:timm/{name}',
      'timm/test_nfnet',
      'hf-hub:timm/other',
    )
    assert loaded == [LOADED] * 3
    assert 'has no repository timm/other' in unknown
    asked = [x for x in server.asked if x.endswith('.safetensors')]
    assert sum(line.startswith('GET') for line in asked) == 1
  loaded, missing = ask(None, 'test_nfnet', 'eca_nfnet_l0')
  assert loaded == LOADED
  assert re.search(r'not in the cache .*/hf/hub, and .* cannot be', missing)
  assert 'nfnets.load(PATH)' in missing


@pytest.mark.parametrize(
  'spoil, says',
  [
    (lambda data: data[:-99], 'received'),
    (lambda data: data[:-99] + bytes(99), 'has the SHA256'),
  ],
)
def test_a_damaged_download_is_refused_and_repeated(folder, ask, spoil, says):
  with fake_hub.serve(folder.parents[1]) as server:

    def at_first(name, data):
      loads = [x for x in server.asked if re.match('HEAD.*config.json', x)]
      damages = name.endswith('.safetensors') and len(loads) == 1
      return spoil(data) if damages else data

    server.spoil = at_first
    refused, loaded = ask(server, 'test_nfnet', 'test_nfnet')
    assert refused.startswith('error: test_nfnet: ') and says in refused
    assert loaded == LOADED


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setattr(names.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match='pip install huggingface_hub'):
    nfnets.load('eca_nfnet_l0')


def test_deepminds_files_come_by_address_and_md5(tmp_path, monkeypatch):
  data = dill.dumps(certificate.random_weights('test_nfnet', 5).params)
  store, cache = tmp_path / 'store', tmp_path / 'cache'
  store.mkdir()
  (store / 'F0_haiku.npz').write_bytes(data)
  monkeypatch.setenv('NFNETS_CACHE', str(cache))

  def expect(md5):
    published = names.PUBLISHED['nfnet_f0']
    published = published._replace(model='test_nfnet', md5=md5)
    monkeypatch.setitem(names.PUBLISHED, 'nfnet_f0', published)

  expect('f' * 32)
  with fake_hub.serve(store) as server:
    monkeypatch.setattr(names, 'DEEPMIND', server.url)
    with pytest.raises(ValueError, match='has the MD5'):
      nfnets.load('nfnet_f0')
    assert not list(cache.iterdir())
    expect(hashlib.md5(data).hexdigest())
    assert nfnets.load('nfnet_f0').config['model'] == 'test_nfnet'
    assert len(server.asked) == 2
  assert nfnets.load('nfnet_f0').config['model'] == 'test_nfnet'


@pytest.mark.parametrize('full', [False, True])
def test_a_failed_download_is_one_error_with_the_remedy_unless_the_disk_is_full(
  full, tmp_path, monkeypatch
):
  def urlopen(*_, **__):
    why = socket.gaierror(-3, 'Temporary failure in name resolution')
    raise OSError(errno.ENOSPC, 'full') if full else urllib.error.URLError(why)

  monkeypatch.setenv('NFNETS_CACHE', str(tmp_path))
  monkeypatch.setattr(names.urllib.request, 'urlopen', urlopen)
  with pytest.raises(ValueError) as caught:
    nfnets.load('nfnet_f1')
  if full:
    assert 'the disk is full' in common.explain(caught.value)
    return
  text = ''.join(traceback.format_exception(caught.value))
  assert text.count('Traceback') == 1
  said = str(caught.value)
  assert said.startswith('nfnet_f1: ') and said.endswith(names.REMEDY)
  assert f'to {tmp_path} (Temporary failure in' in said


@pytest.mark.parametrize(
  'source, says',
  [
    ('F0_haiku.npz', 'the name nfnet_f0 downloads it'),
    ('nf_regnet_b1', 'did you mean nf_regnet_b1.ra2_in1k'),
    ('eca_nfnet_l3', 'eca_nfnet_l3 has no published weights'),
    ('eca_nfnet_l0.ra_in1k', 'did you mean eca_nfnet_l0.ra2_in1k'),
    ('no/such.npz', 'no/such.npz: no such file, folder or name'),
  ],
)
def test_an_unknown_name_gets_a_hint_and_no_download(source, says):
  with pytest.raises(FileNotFoundError, match=says):
    nfnets.load(source)


def test_a_given_model_must_match_the_file(folder):
  assert weights.load(folder / 'ours.safetensors', model='test_nfnet')
  with pytest.raises(ValueError, match='it holds test_nfnet, not nfnet_l0'):
    weights.load(folder / 'ours.safetensors', model='nfnet_l0')
  with pytest.raises(match.Mismatch):
    weights.load(folder / 'model.safetensors', model='timm/nfnet_f0')
  arrays = timm.to_timm(weights.load(folder / 'ours.safetensors').params,
                        'test_nfnet')  # fmt: skip
  assert timm.guess(arrays) == 'test_nfnet'
  assert hub.load(folder / 'model.safetensors', model='timm/test_nfnet')
