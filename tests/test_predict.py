"""The prediction command: five classes a picture, and a line for the rest."""

import json
import os

import cv2
import jax
import numpy as np
import pytest
from test_files import small
from test_images import encoded

from nfnets import hub, models, weights
from nfnets.data import augment
from nfnets.weights import pictures

NAMES = ['ant', 'bee', 'cat\x1b[31m', 'dog', 'eel', 'fox', 'gnu']
DATA = {'eval_image_size': 24, 'eval_preprocessing': 'none'}
# Its last name isn't UTF-8.
MANY = [f'{index}.png' for index in range(17)] + [os.fsdecode(b'\xff.png')]


@pytest.fixture
def folder(tmp_path):
  """A file of weights, pictures, and what is none."""
  weights.write(tmp_path / 'w.npz', small(7, class_names=NAMES, **DATA))
  random = np.random.RandomState(0)
  for name in MANY:
    image = random.randint(0, 255, (24, 24, 3), np.uint8)
    data = cv2.imencode('.png', image[..., ::-1])[1].tobytes()
    (tmp_path / name).write_bytes(data)
    np.save(tmp_path / f'{name}.npy', image)
  (tmp_path / 'text.jpg').write_text('no picture')
  (tmp_path / 'album.jpg').mkdir()
  data = encoded(np.zeros((900, 900, 3), np.uint8), progressive=True)
  last_scan = data[data.rindex(b'\xff\xda') : -2]
  (tmp_path / 'scans.jpg').write_bytes(data[:-2] + last_scan * 3000 + data[-2:])
  return tmp_path


def test_five_classes_of_each_picture_and_a_line_for_the_others(
  folder, run_script
):
  bad = [folder / name for name in ('text.jpg', 'missing.png', 'album.jpg')]
  bad.append(folder / 'scans.jpg')
  good = [folder / name for name in MANY]
  flags = '--json', f'--weights={folder}/w.npz'
  done = run_script('scripts.predict', *flags, *bad, '/dev/zero', *good)
  assert done.code == 1, done.stderr
  lines = done.stderr.splitlines()
  assert len(lines) == 5
  assert all(line.startswith(f'error: {b}: ') for line, b in zip(lines, bad))
  assert lines[1] == f'error: {folder}/missing.png: no such file'
  found = json.loads(done.stdout)
  assert [row['image'] for row in found['predictions']] == list(map(str, good))
  # The oracle: the network itself, its weights not folded.
  kept = weights.load(folder / 'w.npz')
  network = models.create(kept.model, 7, **kept.overrides)
  images = np.stack([np.load(f'{path}.npy') for path in good])
  inputs = augment.normalize(images)
  output, _ = network.apply(kept.params, {}, None, inputs, False)
  wanted = np.asarray(jax.nn.softmax(output['logits']))
  for row, probabilities in zip(found['predictions'], wanted, strict=True):
    order = np.argsort(-probabilities)[:5]
    assert [c['name'] for c in row['classes']] == [NAMES[i] for i in order]
    np.testing.assert_allclose(
      [c['probability'] for c in row['classes']],
      probabilities[order],
      rtol=1e-4,
    )


def test_the_sigmoid_loss_gives_each_class_a_probability_of_its_own(
  folder, run_script
):
  kept = small(7, loss='sigmoid', **DATA)
  # Sigmoids of such large logits are all 1: the order must not be that of ties.
  kept.params['CIFAR_ResNet/~/linear']['b'][:] = [20, 0, 60, 80, 40, 0, 0]
  weights.write(folder / 'sigmoid.npz', kept)
  flags = '--json', f'--weights={folder}/sigmoid.npz'
  done = run_script('scripts.predict', *flags, folder / MANY[0])
  assert done.code == 0, done.stderr
  (row,) = json.loads(done.stdout)['predictions']
  net = hub.load(folder / 'sigmoid.npz')
  (logits,) = np.asarray(net(net.preprocess(folder / MANY[0])), np.float64)
  order = np.argsort(-logits)[:5]
  assert [c['index'] for c in row['classes']] == list(order)
  np.testing.assert_allclose(
    [c['probability'] for c in row['classes']],
    1 / (1 + np.exp(-logits[order])),
    rtol=1e-5,
  )


def test_a_network_that_takes_no_pictures_is_refused_once(folder, run_script):
  weights.write(folder / 'four.npz', hub.with_channels(small(7, **DATA), 4))
  pair = folder / MANY[0], folder / MANY[1]
  done = run_script('scripts.predict', f'--weights={folder}/four.npz', *pair)
  assert done.code == 2 and done.stderr.count('\n') == 1
  assert 'four.npz: takes images of 4 channels' in done.stderr


def test_outputs_that_are_not_finite_are_no_predictions(folder, run_script):
  kept = small(7, **DATA)
  kept.params['CIFAR_ResNet/~/linear']['w'][:] = 3e38
  weights.write(folder / 'huge.npz', kept)
  flags = '--json', f'--weights={folder}/huge.npz'
  done = run_script('scripts.predict', *flags, folder / MANY[0])
  assert done.code == 2 and not done.stdout
  assert 'are not finite' in done.stderr and done.stderr.count('\n') == 1


def test_an_ascii_terminal_shows_every_picture_and_nothing_moves_its_cursor(
  folder, run_script
):
  pair = [folder / MANY[-1], folder / 'ü.png']
  pair[1].write_bytes(pair[0].read_bytes())
  done = run_script(
    'scripts.predict',
    f'--weights={folder}/w.npz',
    *pair,
    process=True,
    env={'PYTHONIOENCODING': 'ascii'},
  )
  assert done.code == 0, done.stderr
  assert r'\udcff.png' in done.stdout and r'\xfc.png' in done.stdout
  assert '\x1b' not in done.stdout and r'cat\x1b[31m' in done.stdout


def test_a_networks_own_way_to_prepare_stands_in_where_a_file_is_silent():
  for model, name, size in (
    ('nfnet_f1', 'resize_crop_32', 320),
    ('nf_regnet_b0', 'crop_resize', 224),
  ):
    made = weights.Weights({}, {}, model, 1000)
    assert pictures.crop_name(made) == name
    assert pictures.image_size(made) == size
    assert len(pictures.class_names(made)) == 1000
  told = made._replace(data=DATA | {'mean': [1, 2, 3]}, num_classes=2)
  found = pictures.preparation(told, None)
  assert found['resize'] == 'none' and found['image_size'] == 24
  assert found['mean'] == [1, 2, 3]
  assert pictures.class_names(told) == ['class 0', 'class 1']


def test_imagenets_classes_are_where_their_labels_say():
  names = weights.imagenet_classes()
  assert len(names) == 1000 and all(names)
  # Labels as torchvision and TensorFlow Datasets number them.
  assert names[0].startswith('tench') and names[281].startswith('tabby')
  assert names[285] == 'Egyptian cat' and names[207] == 'golden retriever'
  assert names[999].startswith('toilet tissue')
