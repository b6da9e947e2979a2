"""Evaluation."""

import functools

import numpy as np
import pytest
import tiny
from PIL import Image

from nfnets import evaluate, parallel, step
from nfnets.weights import accuracy, files


class Pictures:
  """37 random pictures in memory."""

  num_classes = 10
  class_names = [str(i) for i in range(10)]

  def __init__(self):
    data = tiny.batch(37)
    self.images, self.labels = data['images'], data['labels']

  def __len__(self):
    return len(self.images)

  def __getitem__(self, index):
    return {'image': self.images[index], 'label': int(self.labels[index])}

  def describe(self, index):
    return f'picture {index}'


@functools.cache
def expected():
  """Accuracy and loss of all pictures in one plain batch."""
  config = tiny.config()
  network, _, state = tiny.network_and_state(config)
  pictures = Pictures()
  images = (pictures.images - np.array(config.data.mean)) / config.data.std
  outputs, _ = network.apply(
    state.params, state.state, None, images.astype(np.float32), False
  )
  logits = np.asarray(outputs['logits'], np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  ranks = (-logits).argsort(-1)
  return {
    'eval/count': 37,
    'eval/loss': -log_p[np.arange(37), pictures.labels].mean(),
    'eval/top_1': (ranks[:, 0] == pictures.labels).mean(),
    'eval/top_5': (ranks[:, :5] == pictures.labels[:, None]).any(1).mean(),
  }


@functools.cache
def mapped():
  config = tiny.config(data__num_threads=0)
  network, _, state = tiny.network_and_state(config)
  eval_step = parallel.map_eval(step.make_eval_step(config, network))
  return (
    config,
    eval_step,
    parallel.replicate({'eval': (state.params, state.state)}),
  )


@pytest.mark.parametrize('batch_size', [1, 7, 16, 37, 100])
def test_every_example_counts_once_for_any_batch_size_on_four_devices(
  batch_size,
):
  config, eval_step, variables = mapped()
  config = config.copy_and_resolve_references()
  config.eval_batch_size = batch_size
  got = evaluate.evaluate(
    eval_step, variables, evaluate.eval_batches(config, Pictures())
  )
  assert got == pytest.approx(expected(), rel=1e-5)


def test_an_empty_evaluation_is_an_error():
  with pytest.raises(ValueError, match='nothing to evaluate'):
    evaluate.evaluate(lambda *_: None, {}, [])


def test_what_is_evaluated_reordered_and_left_out_is_printed(tmp_path):
  images = tiny.batch(6)['images']
  for index, image in enumerate(images):
    folder = tmp_path / 'val' / ('cat', 'dog')[index % 2]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f'{index}.png')
  (folder / 'broken.png').write_bytes(b'no picture')
  (folder / 'notes.txt').write_text('no picture by its name')
  changes = {'name': 'folder', 'data_dir': str(tmp_path), 'num_classes': 2}
  changes |= {'on_error': 'skip', 'num_threads': 0}
  config = tiny.config(
    eval_batch_size=4, **{f'data__{key}': x for key, x in changes.items()}
  )
  _, _, state = tiny.network_and_state(config)
  overrides = config.model.to_dict()
  weights = files.Weights(
    state.params, {}, overrides.pop('name'), 2, overrides,
    {'class_names': ['dog', 'cat']},
  )  # fmt: skip
  said = []
  found = accuracy.measure(config, {'eval': weights}, True, said.append)
  assert found['eval/count'] == 6
  assert said[0].startswith('7 examples of folder, split test, at 8 pixels')
  assert 'ignored 1 file' in said[0] and 'notes.txt' in said[0]
  assert 'matched by their names' in said[1]
  assert said[2].startswith('1 unreadable') and 'broken.png' in said[2]
