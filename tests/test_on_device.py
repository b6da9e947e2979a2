"""Sets held on the device: the same stream and the same training."""

import numpy as np
import pytest
import tiny
from test_pipeline import Ramp, arguments
from test_pipeline import train as train_batches
from test_train import assert_bit_equal, last_state, run_config

from nfnets import checks, train
from nfnets.data import pipeline, sources


@pytest.mark.parametrize(
  'place',
  [
    {},
    {'start_step': 9},
    {'process': (1, 2)},
    {'seed': 3, 'start_step': 2, 'process': (3, 4)},
  ],
)
def test_ids_are_the_pipelines(place):
  source = Ramp(30)  # batches cross the epochs' borders
  host = train_batches(source, crop='none', flip=False, **place)
  ours = pipeline.id_batches(len(source), batch_size=8, **place)
  for batch, ids in zip(host, ours):
    assert ids['ids'].dtype == np.int32
    np.testing.assert_array_equal(ids['ids'], batch['ids'])


@pytest.mark.parametrize('image_size', [8, 11])
def test_gathered_images_and_labels_are_the_pipelines(image_size):
  source = sources.create('digits', 'test')
  values = {'train_image_size': image_size, 'crop': 'none', 'flip': False}
  data = pipeline.load_all(source, arguments(**values)[0])
  (batch,) = train_batches(source, steps=1, batch_size=32, **values)
  for name in ('images', 'labels'):
    np.testing.assert_array_equal(data[name][batch['ids']], batch[name])
    assert data[name].dtype == batch[name].dtype


def test_training_from_the_device_equals_training_from_the_host_bit_for_bit(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(train, '_evaluate', lambda *_: {})  # compiles for long
  for held in (False, True):
    values = {'num_steps': 3, 'observe_every': 0, 'data__on_device': held}
    train.train_and_evaluate(run_config(**values), tmp_path / str(held))
  config = run_config(num_steps=3)
  from_host, from_device = (
    last_state(config, tmp_path / str(held)) for held in (False, True)
  )
  assert_bit_equal(from_device, from_host)
  assert int(from_device.step) == 3


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'data__crop': 'inception'}, "crop='none' .not 'inception'"),
    ({'data__flip': True}, 'flip=False .not True'),
    (
      {'data__num_train': 1281167, 'data__train_image_size': 192},
      r'1281167 images of 192 x 192 pixels are 132.0 GiB, over the limit of 2',
    ),
  ],
)
def test_what_cannot_be_held_is_refused_in_one_line(values, message):
  config = tiny.config(data__on_device=True, **values)
  with pytest.raises(ValueError, match=message) as error:
    checks.check(config, device_count=4)
  assert '\n' not in str(error.value)
