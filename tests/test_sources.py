"""nfnets/data/sources.py: splits are disjoint and whole; errors name a cure."""

import os
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
import tiny
import tiny_tfds
from PIL import Image
from sklearn import datasets

from nfnets.data import pipeline, sources


def test_digits_splits_are_disjoint_and_cover_all_1797():
  parts = [sources.create('digits', split) for split in sources.SPLITS]
  train, valid, both, test = [
    sorted(image.tobytes() for image, _ in part.examples) for part in parts
  ]
  whole = np.rint(datasets.load_digits().images * (255 / 16)).astype(np.uint8)
  assert sorted(train + valid) == both
  assert sorted(both + test) == sorted(
    np.repeat(image[..., None], 3, -1).tobytes() for image in whole
  )


def test_digits_test_split_is_a_fifth_of_each_class():
  test = sources.create('digits', 'test')
  counts = np.bincount([test[i]['label'] for i in range(len(test))])
  everything = np.bincount(datasets.load_digits().target)
  np.testing.assert_array_equal(counts, np.rint(everything / 5))
  images = [test[i]['image'] for i in range(50)]
  assert images[0].shape == (8, 8, 3)
  assert np.min(images) == 0 and np.max(images) == 255


def open_folder(root, split):
  return sources.create('folder', split, str(root))


def names_of(source):
  return sorted(source.describe(i) for i in range(len(source)))


def _make_flat(root, counts):
  for name, count in counts.items():
    (root / name).mkdir(parents=True)
    for i in range(count):
      shade = np.full((4, 5, 3), i, np.uint8)
      Image.fromarray(shade).save(root / name / f'{i}.png')


def _make_folder(root):
  for part in ('train', 'val'):
    _make_flat(root / part, {'a': 20, 'b': 20})


def test_folder_labels_follow_the_sorted_class_names(tmp_path):
  _make_folder(tmp_path)
  source = open_folder(tmp_path, 'train_and_valid')
  assert list(source.class_names) == ['a', 'b'] and len(source) == 40
  for i in range(len(source)):
    expected = source.class_names[source[i]['label']]
    assert f'/train/{expected}/' in source.describe(i)
  assert all(
    '/val/' in name for name in names_of(open_folder(tmp_path, 'test'))
  )


def test_folder_valid_and_train_part_the_training_folder(tmp_path):
  _make_folder(tmp_path)
  train, valid, both = [
    names_of(open_folder(tmp_path, split))
    for split in ('train', 'valid', 'train_and_valid')
  ]
  assert len(valid) == 4 and len(train) == 36
  assert sorted(train + valid) == both


@pytest.mark.parametrize(
  ('extra', 'split', 'message'),
  [
    ('train/c', 'train', 'train/c contains no image'),
    ('val/c', 'test', "one of them has 'c'"),
  ],
)
def test_a_class_without_pictures_or_of_one_part_is_named(
  tmp_path, extra, split, message
):
  _make_folder(tmp_path)
  (tmp_path / extra).mkdir()
  with pytest.raises(ValueError, match=message):
    open_folder(tmp_path, split)


def test_unknown_split_is_an_error():
  with pytest.raises(ValueError, match="'eval' is unknown"):
    sources.create('digits', 'eval')
  with pytest.raises(ValueError, match='only data prepared by TFDS'):
    sources.create('digits', 'train[:5]')


@pytest.mark.parametrize(
  ('name', 'info', 'error', 'message'),
  [
    ('cifar10', None, FileNotFoundError, 'scripts.prepare_data --dataset'),
    ('cifar10', '{}', ValueError, 'tfrecord format.*convert it: python'),
    ('cifar10', '{"alternativeFileFormats": null}', ValueError, 'convert it'),
    ('cifar10:1.0.0', '{}', FileNotFoundError, 'version 3.0.2, not 1.0.0'),
    ('toy', '{}', ValueError, 'convert it: python -m scripts.prepare_data'),
    ('toy', '{"fileFormat": "riegeli"}', ValueError, 'away, then prepare it'),
    ('toy', None, FileNotFoundError, r"TFDS: tfds.builder.'toy', data_dir"),
    ('imagenet_v2', None, FileNotFoundError, '0/.*to 999/.*TFDS: tfds.b'),
    ('imagenet2012_real', None, FileNotFoundError, 'real.json and val/.*TFDS'),
  ],
)
def test_tfds_data_that_cannot_be_read_say_what_to_do(
  tmp_path, name, info, error, message
):
  if info:
    folder = tmp_path / name.partition(':')[0] / '3.0.2'
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text(info)
  with pytest.raises(error, match=message):
    sources.create(name, 'test', str(tmp_path))


def test_tfds_splits_are_the_published_ones_and_need_no_tensorflow(tmp_path):
  counts = {'train': 40, 'validation': 6, 'test': 4}
  written = tiny_tfds.write(tmp_path, 'imagenet2012', counts)
  read = {}
  for split in sources.SPLITS:
    source = sources.create('imagenet2012', split, str(tmp_path))
    items = [source[i] for i in range(len(source))]
    read[split] = [(item['image'], item['label']) for item in items]
  assert read['train_and_valid'] == written['train']
  assert read['valid'] == written['train'][:4]
  assert read['train'] == written['train'][4:]
  assert read['test'] == written['validation']
  assert 'tensorflow' not in sys.modules


def test_newest_prepared_version_is_taken_unless_one_is_named(tmp_path):
  for version, count in (('9.0.0', 10), ('10.0.0', 20)):
    tiny_tfds.write(tmp_path, 'toy', {'train': count}, version=version)
  assert len(sources.create('toy', 'train_and_valid', str(tmp_path))) == 20
  old = sources.create('toy:9.0.0', 'train_and_valid', str(tmp_path))
  assert len(old) == 10


def test_shard_that_vanished_is_named(tmp_path):
  tiny_tfds.write(tmp_path, 'toy', {'train': 10, 'test': 4})
  next(tmp_path.rglob('toy-train*-00001-of-*')).unlink()
  assert len(sources.create('toy', 'test', str(tmp_path))) == 4
  with pytest.raises(FileNotFoundError, match='00001-of-00002 is missing'):
    sources.create('toy', 'train_and_valid', str(tmp_path))
  tiny_tfds.write(tmp_path, 'untested', {'train': 10})
  with pytest.raises(ValueError, match="no split 'test'"):
    sources.create('untested', 'test', str(tmp_path))


@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json'])
@pytest.mark.parametrize('text', ['{', '[0]', '{"0": [1]}'])
def test_a_damaged_description_of_prepared_data_is_named(tmp_path, name, text):
  tiny_tfds.write(tmp_path, 'toy', {'train': 10})
  (tmp_path / 'toy/1.0.0' / name).write_text(text)
  with pytest.raises(ValueError, match='toy/1.0.0'):
    sources.create('toy', 'train', str(tmp_path))


def test_a_shard_cut_short_and_an_empty_split_are_named(tmp_path):
  tiny_tfds.write(tmp_path, 'toy', {'test': 10})
  path = next(tmp_path.rglob('toy-test*-00000-of-*'))
  whole = path.read_bytes()
  for split in ('test[:0]', 'test[5:3]'):
    said = f'{re.escape(split)} contains no examples.*--config.data.eval_split'
    with pytest.raises(ValueError, match=said):
      sources.create('toy', split, str(tmp_path))
  for size in (len(whole) // 2, len(whole) - 9, 100):
    path.write_bytes(whole[:size])
    reader = pipeline.Reader(
      sources.create('toy', 'test', str(tmp_path)), 'raise', None
    )
    with pytest.raises(ValueError, match='toy/1.0.0 test example 0'):
      reader.read(0)


def test_a_folder_of_classes_alone_holds_out_a_fixed_fifth_of_each(tmp_path):
  _make_flat(tmp_path, {'a': 5, 'b': 10, 'c': 2})
  (tmp_path / '.hidden').mkdir()
  train = open_folder(tmp_path, 'train_and_valid')
  test = open_folder(tmp_path, 'test')
  assert list(train.class_names) == list(test.class_names) == ['a', 'b', 'c']
  names = names_of(train) + names_of(test)
  assert len(names) == len(set(names)) == 17
  held_out = np.bincount([test[i]['label'] for i in range(len(test))])
  np.testing.assert_array_equal(held_out, [1, 2, 1])
  assert names_of(open_folder(tmp_path, 'test')) == names_of(test)
  assert 'held out' in test.note


def test_what_both_splits_remark_is_said_once(tmp_path):
  _make_flat(tmp_path, {'a': 5, 'b': 10})
  both = [open_folder(tmp_path, split) for split in ('train_and_valid', 'test')]
  assert sources.notes(*both) == [
    'a fixed fifth of each class is held out for testing'
  ]


def test_a_flat_class_of_one_picture_is_named(tmp_path):
  _make_flat(tmp_path, {'a': 5, 'b': 1})
  with pytest.raises(ValueError, match='/b contains 1 image .*hold one out'):
    open_folder(tmp_path, 'test')


@pytest.mark.parametrize(
  ('part', 'split'), [('val', 'train'), ('train', 'test')]
)
def test_a_folder_without_the_split_says_the_expected_layout(
  tmp_path, part, split
):
  _make_flat(tmp_path / part, {'a': 5, 'b': 5})
  with pytest.raises(FileNotFoundError, match='laid out as .*train/<class>'):
    open_folder(tmp_path, split)
  with pytest.raises(FileNotFoundError, match='nowhere does not exist'):
    open_folder(tmp_path / 'nowhere', split)


def test_pictures_are_regular_files_of_any_readable_kind_wherever_they_lie(
  tmp_path,
):
  _make_flat(tmp_path, {'a': 3, 'b': 3})
  shade = Image.fromarray(np.zeros((4, 5, 3), np.uint8))
  (tmp_path / 'a' / 'within').mkdir()
  for name in ('x.tif', 'x.ppm', 'within/x.JPG'):
    shade.save(tmp_path / 'a' / name)
  (tmp_path / 'a' / '._0.png').write_bytes(b'resource fork')
  (tmp_path / 'a' / 'album.jpg').mkdir()
  os.mkfifo(tmp_path / 'a' / 'pipe.jpg')
  (tmp_path / 'a' / 'notes.txt').write_text('none')
  opened = [open_folder(tmp_path, s) for s in ('train_and_valid', 'test')]
  found = {pathlib.Path(n).name for s in opened for n in names_of(s)}
  assert found >= {'x.tif', 'x.ppm', 'x.JPG'}
  assert not found & {'._0.png', 'album.jpg', 'pipe.jpg', 'notes.txt'}
  assert 'ignored 1 file' in opened[0].note and 'notes.txt' in opened[0].note
  for source in opened:
    assert all(source[i]['image'] for i in range(len(source)))


def test_what_is_ignored_in_a_folder_is_counted_with_an_example(tmp_path):
  _make_folder(tmp_path / 'set')
  _make_flat(tmp_path, {'elsewhere': 2})
  (tmp_path / 'set/test').mkdir()
  folder = tmp_path / 'set/val'
  (folder / 'a/link').symlink_to(tmp_path / 'elsewhere')
  (folder / 'a/gone.png').symlink_to(tmp_path / 'nowhere')
  shutil.copy(folder / 'a/0.png', folder / 'loose.png')
  source = open_folder(tmp_path / 'set', 'test')
  assert len(source) == 40
  assert f"'{tmp_path}/set/test' is ignored" in source.note
  assert 'ignored 2 link' in source.note and 'a/gone.png' in source.note
  assert 'ignored 1 image' in source.note and 'loose.png' in source.note


def test_a_validation_folder_beside_test_is_said_to_be_ignored(tmp_path):
  for name in ('train', 'valid', 'test'):
    _make_flat(tmp_path / name, {'a': 5, 'b': 5})
  said = f"'{tmp_path}/valid' is ignored: test/ is the test set"
  assert open_folder(tmp_path, 'test').note == said
  assert not open_folder(tmp_path, 'train').note


@pytest.mark.parametrize(
  'names', [('Train', 'Val'), ('training', 'validation')]
)
def test_splits_by_other_names_are_no_classes(tmp_path, names):
  for name in names:
    _make_flat(tmp_path / name, {'a': 5, 'b': 5})
  with pytest.raises(ValueError, match=f'{names[0]} contains .*to train'):
    open_folder(tmp_path, 'train')


def test_a_picture_that_became_a_pipe_is_refused_and_not_waited_for(tmp_path):
  _make_folder(tmp_path)
  source = open_folder(tmp_path, 'test')
  path = source.describe(0)
  os.remove(path)
  os.mkfifo(path)
  with pytest.raises(ValueError, match='not a regular file'):
    source[0]


def test_a_test_set_alone_can_be_opened_and_names_its_own_classes(tmp_path):
  _make_folder(tmp_path)
  whole = open_folder(tmp_path, 'test')
  expected = names_of(whole)
  shutil.rmtree(tmp_path / 'train')
  alone = open_folder(tmp_path, 'test')
  assert names_of(alone) == expected
  assert list(alone.class_names) == ['a', 'b'] and not alone.note


def test_a_class_may_be_called_train(tmp_path):
  _make_flat(tmp_path, {'bus': 5, 'train': 5})
  source = open_folder(tmp_path, 'train')
  assert list(source.class_names) == ['bus', 'train']


def test_the_config_says_which_feature_is_the_label(tmp_path):
  tiny_tfds.write(tmp_path, 'toy', {'train': 10})
  config = tiny.config(data__name='toy', data__data_dir=str(tmp_path))
  assert len(sources.of(config.data, 'train')) == 9
  config.data.label = 'real_label'
  with pytest.raises(ValueError, match='image, label; pass --config.data'):
    sources.of(config.data, 'train')
  config.data.label = 'image'
  with pytest.raises(ValueError, match='not a class label'):
    sources.of(config.data, 'train')
