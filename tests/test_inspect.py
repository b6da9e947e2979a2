"""scripts.inspect: captions, pictures, tables of signal and numerics."""

import numpy as np
import pytest
import tiny
from PIL import Image

from nfnets import factory
from nfnets.data import sources
from scripts import inspect

TINY = [
  '--config=configs/quickstart.py',
  '--config.model.depths=1,1,1',
  '--config.model.widths=8,8,8',
]


def test_captions_order_labels_by_share():
  assert inspect.caption(np.array([0.25, 0, 0.75]), 'abc') == 'c 0.75 + a 0.25'
  assert inspect.caption(np.array([0, 1.0, 0]), 'abc') == 'b'


def test_without_augmentation_before_and_after_are_the_same_images():
  config = tiny.config(data__crop='none', data__flip=False)
  before, after = inspect.captioned(config, 6, 3)
  assert [text for _, text in before] == [text for _, text in after]
  for (image, _), (other, _) in zip(before, after):
    np.testing.assert_array_equal(image, other)


@pytest.mark.parametrize('pairs', ['batch', 'fresh'])
def test_mixed_examples_name_their_labels_and_are_as_many_as_asked(pairs):
  config = tiny.config(augment__mix='cutmix', augment__pairs=pairs)
  before, after = inspect.captioned(config, 5, 0)
  assert len(before) == len(after) == 5
  names = sources.create('digits', 'test').class_names
  assert all(text in names for _, text in before)
  assert any(' + ' in text for _, text in after)


@pytest.mark.parametrize('mix', ['mixup', 'mixup_cutmix'])
@pytest.mark.parametrize('pairs', ['batch', 'fresh'])
def test_each_mixed_example_stands_beside_its_first_image(mix, pairs):
  config = tiny.config(
    augment__mix=mix,
    augment__pairs=pairs,
    augment__mixup_alpha=100.0,  # no share is too small for a caption
  )
  before, after = inspect.captioned(config, 8, 0)
  assert all(label in text for (_, label), (_, text) in zip(before, after))


def test_a_step_shows_the_examples_that_training_sees():
  config = tiny.config(batch_size=16)
  source, _ = factory.sources_of(config)
  batch = next(factory.train_batches(config, source, 3))
  before, _ = inspect.captioned(config, 5, 3)
  for (image, _), wanted in zip(before, batch['images']):
    np.testing.assert_array_equal(image, wanted)


def test_a_batch_is_drawn(run_script, tmp_path):
  path = tmp_path / 'new' / 'batch.png'
  done = run_script(
    'scripts.inspect', 'batch', *TINY, '--examples=5', f'--out={path}'
  )
  assert done.code == 0, done.stderr
  with Image.open(path) as sheet:
    assert min(sheet.size) > 300
    assert np.asarray(sheet).std() > 10


def test_a_class_by_any_name_is_drawn(tmp_path):
  image = np.zeros((4, 4, 3), np.uint8)
  pairs = [(image, 'c$x^$d'), (image, 'a_$')]
  inspect.draw_batch(pairs, pairs, tmp_path / 'batch.png')
  assert (tmp_path / 'batch.png').exists()


def test_numerics_show_each_block_and_a_runs_parameters(run_script, tmp_path):
  flags = ['numerics', *TINY, '--noise', '--examples=2']
  done = run_script('scripts.inspect', *flags)
  assert done.code == 0, done.stderr
  assert 'CIFAR_ResNet/~/nf_block_2 ' in done.stdout
  assert done.stdout.endswith('every output and gradient is finite\n')
  done = run_script('scripts.inspect', *flags, f'--workdir={tmp_path}')
  assert done.code == 2 and str(tmp_path) in done.stderr


def test_a_signal_is_printed_drawn_and_judged(run_script, tmp_path):
  flags = ['--model=cifar_resnet_20', '--image_size=8']
  path = tmp_path / 'signal.png'
  done = run_script('scripts.inspect', 'signal', *flags, f'--out={path}')
  assert done.code == 0, done.stderr
  assert done.stdout.count('CIFAR_ResNet/~/block') == 9
  assert 'not normalizer-free' in done.stdout and path.exists()


def test_a_recipes_network_is_measured_with_its_own_arguments(
  run_script, tmp_path
):
  flags = [*TINY, '--image_size=8', f'--out={tmp_path}/signal.png']
  flags[1] = '--config.model.depths=1,2,1'
  done = run_script('scripts.inspect', 'signal', *flags)
  assert done.code in (0, 1), done.stderr  # so narrow a block may vary
  assert done.stdout.count('CIFAR_ResNet/~/nf_block') >= 4
  assert 'nf_block_3 ' in done.stdout and 'nf_block_4 ' not in done.stdout
