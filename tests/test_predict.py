"""The prediction command: five classes a picture, and a line for the rest."""

import json
import subprocess
import sys

import cv2
import golden_lib
import jax
import numpy as np
import pytest

from nfnets import models, weights
from nfnets.data import augment
from nfnets.weights import files
from scripts import predict

NAMES = [f'thing {letter}' for letter in 'abcdefg']


def _weights(**data):
  overrides = {'normalizer': 'nf', 'depths': [1, 1, 1]}
  params = golden_lib.fill(files.shapes('cifar_resnet_20', 7, **overrides)[0])
  data = {'eval_image_size': 24, 'eval_preprocessing': 'none'} | data
  return weights.Weights(params, {}, 'cifar_resnet_20', 7, overrides, data)


@pytest.fixture
def picture(tmp_path):
  image = np.random.RandomState(0).randint(0, 255, (24, 24, 3), np.uint8)
  cv2.imwrite(str(tmp_path / 'picture.png'), image[..., ::-1])
  return tmp_path / 'picture.png', image


def test_the_command_names_five_classes_and_goes_on_after_a_bad_file(
  picture, tmp_path
):
  path, image = picture
  kept = _weights(class_names=NAMES)
  weights.write(tmp_path / 'w.safetensors', kept)
  (tmp_path / 'text.jpg').write_text('no picture')
  bad = [str(tmp_path / name) for name in ('text.jpg', 'missing.png')]
  command = [sys.executable, '-m', 'scripts.predict', '--json']
  command += [f'--weights={tmp_path}/w.safetensors', *bad, str(path)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == predict.UNREADABLE, done.stderr
  errors = done.stderr.strip().splitlines()
  assert len(errors) == 2
  assert all(line.startswith(f'error: {b}: ') for line, b in zip(errors, bad))
  found = json.loads(done.stdout)
  assert [error['image'] for error in found['errors']] == bad
  (row,) = found['predictions']
  assert row['image'] == str(path)
  # The oracle: the network itself, its weights not folded.
  network = models.create('cifar_resnet_20', 7, **kept.overrides)
  inputs = augment.normalize(image[None])
  output, _ = network.apply(kept.params, {}, None, inputs, False)
  wanted = np.asarray(jax.nn.softmax(output['logits']))[0]
  order = np.argsort(-wanted)[:5]
  assert [c['index'] for c in row['classes']] == list(order)
  assert [c['name'] for c in row['classes']] == [NAMES[i] for i in order]
  np.testing.assert_allclose(
    [c['probability'] for c in row['classes']], wanted[order], rtol=1e-4
  )


def test_what_is_impossible_is_refused_in_a_line(tmp_path):
  command = [sys.executable, '-m', 'scripts.predict']
  done = subprocess.run(
    [*command, f'--weights={tmp_path}/none.npz', 'a.png'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == predict.REFUSED
  assert len(done.stderr.strip().splitlines()) == 1
  assert 'none.npz' in done.stderr


def test_text_has_names_and_shares():
  row = {'image': 'a.png', 'classes': predict.best(np.eye(7)[2], NAMES)}
  lines = predict.text(row).splitlines()
  assert lines[0] == 'a.png'
  assert lines[1] == '  100.0 %  thing c'
  assert len(lines) == 6


def test_pictures_are_prepared_as_the_network_was_tested(picture):
  path, image = picture
  np.testing.assert_array_equal(
    predict.preparation(_weights(), None)(str(path)), image
  )
  for model, size in (('nfnet_f1', 320), ('nf_regnet_b0', 224)):
    made = weights.Weights({}, {}, model, 1000)
    assert predict.preparation(made, None)(str(path)).shape == (size, size, 3)
    assert predict.preparation(made, 48)(str(path)).shape == (48, 48, 3)


def test_many_pictures_come_in_batches(picture):
  path, _ = picture
  prepare = predict.preparation(_weights(), None)
  paths = [str(path)] * (predict.BATCH_SIZE + 3) + ['missing.png']
  batches = list(predict.read(paths, prepare))
  assert [len(good) for good, _, _ in batches] == [predict.BATCH_SIZE, 3]
  assert batches[1][1].shape == (3, 24, 24, 3)
  assert [f['image'] for f in batches[1][2]] == ['missing.png']
