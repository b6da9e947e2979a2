"""scripts/show_batch.py: captions tell the shares, the sheet is written."""

import numpy as np
import pytest
import tiny
from PIL import Image

from nfnets.data import sources
from scripts import show_batch


def test_caption_orders_labels_by_share():
  target = np.array([0.25, 0, 0.75])
  assert show_batch.caption(target, 'abc') == 'c 0.75 + a 0.25'


def test_caption_of_an_unmixed_example_is_its_label():
  assert show_batch.caption(np.array([0, 1.0, 0]), 'abc') == 'b'


def test_without_augmentation_before_and_after_are_the_same_pictures():
  config = tiny.config(data__crop='none', data__flip=False)
  before, after = show_batch.load(config, 6, 3)
  assert [text for _, text in before] == [text for _, text in after]
  for (image, _), (other, _) in zip(before, after):
    np.testing.assert_array_equal(image, other)


def test_sheet_has_every_example_with_its_mixing_ratio(tmp_path):
  config = tiny.config(augment__mix='cutmix')
  before, after = show_batch.load(config, 5, 0)
  assert len(before) == len(after) == 5
  names = sources.create('digits', 'test').class_names
  assert all(text in names for _, text in before)
  assert any(' + ' in text for _, text in after)
  show_batch.draw(before, after, tmp_path / 'new' / 'sheet.png')
  with Image.open(tmp_path / 'new' / 'sheet.png') as sheet:
    assert min(sheet.size) > 300
    assert np.asarray(sheet).std() > 10


@pytest.mark.parametrize('pairs', ['batch', 'fresh'])
def test_both_kinds_of_pairs_give_as_many_examples_as_asked(pairs):
  config = tiny.config(augment__mix='mixup', augment__pairs=pairs)
  _, after = show_batch.load(config, 4, 0)
  assert len(after) == 4
