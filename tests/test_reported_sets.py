"""ImageNet-V2 and ReaL, prepared by TFDS and as folders."""

import json

import jax
import numpy as np
import pytest
import tiny
import tiny_tfds

from nfnets import factory, parallel, step
from nfnets.data import pipeline, sources

# Labels of ReaL: one, several, none, ...
SETS = [[0], [1, 2], [], [2], [0, 2], []]


def test_imagenet_v2_is_its_matched_frequency_set_and_trains_nothing(tmp_path):
  name = 'imagenet_v2/matched-frequency'
  written = tiny_tfds.write(tmp_path, name, {'test': 7})['test']
  source = sources.create('imagenet_v2', 'test', str(tmp_path))
  found = [source[i] for i in range(len(source))]
  assert [(example['image'], example['label']) for example in found] == written
  with pytest.raises(ValueError, match='imagenet_v2 can only be evaluated on'):
    sources.create('imagenet_v2', 'train', str(tmp_path))


def test_folders_named_by_number_are_imagenets_classes(tmp_path):
  for label in (0, 2, 10, 999):
    (tmp_path / str(label)).mkdir()
    for i in range(2):
      (tmp_path / f'{label}/{i}.jpeg').write_bytes(tiny_tfds.jpeg(label + i))
  (tmp_path / '1000').mkdir()
  (tmp_path / '10/notes.txt').write_text('none')
  source = sources.create('imagenet_v2', 'test', str(tmp_path))
  assert source.note.startswith("996 classes are absent, such as '1'; ")
  assert 'ignored 1 file' in source.note and 'ignored 1 folder' in source.note
  labels = sorted(source[i]['label'] for i in range(len(source)))
  assert labels == [0, 0, 2, 2, 10, 10, 999, 999]
  assert source.num_classes == 1000
  assert source.class_names[0] == 'n01440764'  # tench
  assert source.class_names[999] == 'n15075141'  # toilet tissue


def real_folder(root):
  """Pictures 1 to 6 of the validation set, two a class, and their labels."""
  for number in range(1, 7):
    folder = root / 'val' / f'n{number % 3}'
    folder.mkdir(parents=True, exist_ok=True)
    name = f'ILSVRC2012_val_{number:08d}.JPEG'
    (folder / name).write_bytes(tiny_tfds.jpeg(number - 1))
  (root / 'real.json').write_text(json.dumps(SETS))


def real_prepared(root):
  name = 'imagenet2012_real'
  tiny_tfds.write(root, name, {'validation': 6}, sets=SETS)


@pytest.mark.parametrize('make', [real_folder, real_prepared])
def test_each_picture_of_real_has_its_set_and_counts_if_it_isnt_empty(
  tmp_path, make
):
  make(tmp_path)
  source = sources.create('imagenet2012_real', 'test', str(tmp_path))
  assert source.num_classes == 3
  shades = [tiny_tfds.jpeg(i) for i in range(6)]
  examples = [source[i] for i in range(6)]
  order = [shades.index(example['image']) for example in examples]
  assert sorted(order) == list(range(6))
  assert [list(e['label']) for e in examples] == [SETS[i] for i in order]
  (batch,) = pipeline.eval_batches(source, tiny.config().data, batch_size=8)
  expected = [[k in SETS[i] for k in range(3)] for i in order]
  np.testing.assert_array_equal(batch['labels'][:6], expected)
  assert batch['labels'].shape == (8, 3)
  counts = [bool(SETS[i]) for i in order] + [False, False]
  np.testing.assert_array_equal(batch['mask'] > 0, counts)


@pytest.mark.parametrize('label', [-1, 3])
def test_a_label_of_real_that_is_no_class_is_named(tmp_path, label):
  real_folder(tmp_path)
  (tmp_path / 'real.json').write_text(json.dumps([[label]] * 6))
  source = sources.create('imagenet2012_real', 'test', str(tmp_path))
  with pytest.raises(ValueError, match=f'label {label} is not in 0..2'):
    next(pipeline.eval_batches(source, tiny.config().data, batch_size=8))


@pytest.mark.parametrize('text', ['[[0]', '[0, 1]', '{}', '[["a"]]'])
def test_labels_of_real_of_another_form_are_named(tmp_path, text):
  real_folder(tmp_path)
  (tmp_path / 'real.json').write_text(text)
  with pytest.raises(ValueError, match='real.json'):
    sources.create('imagenet2012_real', 'test', str(tmp_path))


def test_sets_of_labels_are_not_trained_on(tmp_path):
  real_folder(tmp_path)
  config = tiny.config(data__name='imagenet2012_real', data__num_classes=3)
  config.data.data_dir, config.data.train_split = str(tmp_path), 'test'
  with pytest.raises(ValueError, match='imagenet2012_real.*several labels'):
    factory.sources_of(config)


def test_a_prediction_is_right_if_it_is_among_the_labels():
  """Against ReaL's own words, in plain Python, for each k."""
  random = np.random.RandomState(0)
  logits = random.randn(40, 12).astype(np.float32)
  labels = (random.rand(40, 12) < 0.2).astype(np.int32)
  mask = labels.any(-1).astype(np.float32)

  class Network:
    @staticmethod
    def apply(params, state, key, images, is_training):
      del params, state, key, is_training
      return {'logits': images[:, 0, 0]}, {}

  config = tiny.config()
  with config.unlocked():
    config.data.num_classes, config.data.mean, config.data.std = 12, (0,), (1,)
  eval_step = parallel.map_eval(step.make_eval_step(config, Network))
  batch = {'images': logits[:, None, None], 'labels': labels, 'mask': mask}
  sums = parallel.to_host(
    eval_step(parallel.replicate({'eval': ({}, {})}), parallel.shard(batch))
  )['eval']
  rows = [i for i in range(40) if labels[i].any()]
  assert 0 < len(rows) < 40 and sums['count'] == len(rows)
  for name, k in (('top_1', 1), ('top_5', 5)):
    guesses = np.argsort(-logits, axis=-1)[:, :k]
    right = sum(labels[i][guesses[i]].any() for i in rows)
    assert sums[name] == right
  assert np.isfinite(sums['loss'])
  assert jax.device_count() == 4
