"""nfnets/data/pipeline.py: an exact stream, a complete evaluation."""

import functools
import itertools
import shutil

import jax
import numpy as np
import pytest
import tiny_tfds
from ml_collections import ConfigDict

from configs import base
from nfnets.data import pipeline, sources

assert_equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)
GOLDEN = [1, 14, 13, 9, 22, 20, 27, 3]  # the first ids of seed 3


class Ramp:
  """Thirty-one 6x7 images, told apart by their first channel."""

  num_classes = 5
  class_names = list('abcde')

  def __init__(self, length=31):
    self.length = length
    self.reads = []

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    self.reads.append(index)
    image = np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    image[..., 0] = index
    return {'image': image, 'label': index % 5}

  def describe(self, index):
    return f'ramp {index}'


def arguments(batch_size=8, **overrides):
  """`config.data`, and the other arguments of a stream of batches."""
  data = ConfigDict(base.defaults()['data'])
  data.update(train_image_size=6, eval_image_size=6, num_threads=0)
  data.update({key: overrides.pop(key) for key in {*data} & {*overrides}})
  return data, {'batch_size': batch_size, **overrides}


def train(source=None, steps=12, **overrides):
  data, place = arguments(**overrides)
  batches = pipeline.train_batches(source or Ramp(), data, **place)
  return list(itertools.islice(batches, steps))


def evaluate(source=None, **overrides):
  data, place = arguments(**overrides)
  return list(pipeline.eval_batches(source or Ramp(), data, **place))


def join(batches, name):
  return np.concatenate([batch[name] for batch in batches])


def test_each_epoch_holds_every_example_once_and_no_two_are_ordered_alike():
  ids = join(train(steps=12), 'ids')
  epochs = [ids[e * 31 : (e + 1) * 31] for e in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(31))
  for a, b in itertools.combinations(epochs, 2):
    assert list(a) != list(b)


def test_ids_labels_and_images_belong_together():
  for batch in train(crop='none'):
    np.testing.assert_array_equal(batch['labels'], batch['ids'] % 5)
    np.testing.assert_array_equal(batch['images'][:, 3, 3, 0], batch['ids'])
    assert batch['images'].dtype == np.uint8
    assert batch['labels'].dtype == np.int32


def test_the_order_is_a_function_of_the_seed_for_good():
  assert list(join(train(seed=3, steps=1), 'ids')) == GOLDEN
  first, second = np.split(join(train(seed=3, steps=8), 'ids')[:62], 2)
  other = join(train(seed=4, steps=4), 'ids')[:31]
  assert list(other) != list(first) and list(other) != list(second)


@pytest.mark.parametrize('crop', ['inception', 'pad4', 'none'])
def test_starting_at_a_step_goes_on_with_the_same_stream(crop):
  whole = train(crop=crop, steps=12, seed=7)
  assert_equal(whole[5:], train(crop=crop, steps=7, start_step=5, seed=7))


def test_resuming_late_reads_nothing_that_came_before():
  source = Ramp()
  train(source, steps=1, start_step=1_000_000)
  assert len(source.reads) == 8


@pytest.mark.parametrize('crop', ['inception', 'pad4'])
@pytest.mark.parametrize('process_count', [2, 4])
def test_processes_split_each_batch_of_the_one_process_stream(
  crop, process_count
):
  whole = train(crop=crop, seed=5)
  parts = [
    train(crop=crop, seed=5, process=(p, process_count))
    for p in range(process_count)
  ]
  joined = [
    {name: join(step, name) for name in step[0]} for step in zip(*parts)
  ]
  assert_equal(whole, joined)


@pytest.mark.parametrize('num_threads', [1, 3])
def test_threads_and_pieces_change_nothing(num_threads, monkeypatch):
  alone = train(seed=2)
  monkeypatch.setattr(pipeline, 'PIECE', 3)
  assert_equal(alone, train(seed=2, num_threads=num_threads))


def test_cached_images_give_the_same_stream_and_are_read_once():
  source = Ramp()
  assert_equal(train(seed=2), train(source, seed=2, cache=True))
  assert sorted(source.reads) == list(range(31))


def test_flip_mirrors_about_half_of_the_images_and_nothing_else():
  plain = join(train(crop='none', flip=False, steps=50), 'images')
  flipped = join(train(crop='none', flip=True, steps=50), 'images')
  mirrored = [
    np.array_equal(a[:, ::-1], b) and not np.array_equal(a, b)
    for a, b in zip(plain, flipped)
  ]
  same = [np.array_equal(a, b) for a, b in zip(plain, flipped)]
  assert all(m or s for m, s in zip(mirrored, same))
  assert 160 < sum(mirrored) < 240  # of 400: four standard deviations


@pytest.mark.parametrize('process_count', [1, 2, 4])
@pytest.mark.parametrize('batch_size', [4, 8, 28, 32, 64])
def test_evaluation_counts_every_example_once(batch_size, process_count):
  per_process = [
    evaluate(batch_size=batch_size, process=(p, process_count))
    for p in range(process_count)
  ]
  batches = list(itertools.chain(*per_process))
  counted = join(batches, 'ids')[join(batches, 'mask') == 1]
  assert sorted(counted) == list(range(31))
  assert len({len(b) for b in per_process}) == 1
  assert {len(b['images']) for b in batches} == {batch_size // process_count}


def test_batch_that_does_not_split_over_processes_is_an_error():
  with pytest.raises(ValueError, match='multiple of the 3 processes'):
    train(process=(0, 3))


@pytest.mark.parametrize('crop', ['random', 'padx'])
def test_an_unknown_crop_is_an_error(crop):
  with pytest.raises(ValueError, match=crop):
    train(crop=crop)


class Spoilt(Ramp):
  """Example 3 has no bytes, example 4 an impossible label."""

  def __getitem__(self, index):
    example = super().__getitem__(index)
    if index == 3:
      example['image'] = b''
    if index == 4:
      example['label'] = 5
    return example


def test_bad_example_stops_the_stream_with_its_name():
  with pytest.raises(ValueError, match='ramp [34]: '):
    train(Spoilt(), steps=4)


def test_skipping_replaces_bad_examples_and_lists_them():
  skipped = {}
  ids = join(train(Spoilt(), steps=4, on_error='skip', skipped=skipped), 'ids')
  assert skipped == {
    'ramp 3': 'the file is empty',
    'ramp 4': 'label 5 is not in 0..4',
  }
  assert set(ids) == set(range(31)) - {3, 4}


def test_evaluation_masks_what_it_skips():
  skipped = {}
  batches = evaluate(Spoilt(), on_error='skip', skipped=skipped)
  assert join(batches, 'mask').sum() == 29 and len(skipped) == 2


def test_folder_that_vanishes_is_named_by_the_missing_file(tmp_path):
  for part, name in itertools.product(('train', 'val'), 'ab'):
    (tmp_path / part / name).mkdir(parents=True)
    (tmp_path / part / name / '0.jpg').write_bytes(tiny_tfds.jpeg(1))
  source = sources.create('folder', 'train_and_valid', str(tmp_path))
  data, place = arguments(batch_size=4, train_image_size=8)
  batches = pipeline.train_batches(source, data, **place)
  assert next(batches)['images'].shape == (4, 8, 8, 3)
  shutil.rmtree(tmp_path / 'train')
  with pytest.raises(ValueError, match=r'train/[ab]/0.jpg: .*No such file'):
    list(itertools.islice(batches, 50))
