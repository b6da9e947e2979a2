"""Whole evaluations."""

import functools

import numpy as np
import pytest
import tiny

from nfnets import evaluate, parallel, step


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
    parallel.replicate(evaluate.variables_of(state, 'none')),
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
