"""Tiny recipes and batches that tests share."""

import jax
import numpy as np

from configs import cifar_resnet20
from nfnets import factory, parallel, step


def config(normalizer='nf', **values):
  """A ResNet of one block a stage on 8-pixel digits, nothing random."""
  tiny = cifar_resnet20.get_config()
  with tiny.unlocked():
    tiny.model.normalizer = normalizer
    tiny.model.depths = (1, 1, 1)
    tiny.model.widths = (16, 16, 32)
    tiny.data.name = 'digits'
    tiny.data.num_train = 1438
    tiny.data.train_image_size = tiny.data.eval_image_size = 8
    tiny.augment.pad = 0
    tiny.batch_size = 16
    tiny.learning_rate = 0.1
    tiny.num_steps = 8
    tiny.schedule.name = 'constant'
    tiny.schedule.warmup_steps = 0
    tiny.optimizer.clipping = 0.01
    tiny.observe_every = 0
    tiny.update_from_flattened_dict(
      {key.replace('__', '.'): value for key, value in values.items()}
    )
  return tiny.copy_and_resolve_references()


def network_and_state(tiny):
  """The network, optimizer and a host state whose branches all matter.

  Filled by NumPy: compiling an initialization takes longer than the tests.
  """
  shapes = step.state_shapes(tiny)
  random = np.random.RandomState(0)

  def fill(path, leaf):
    name = getattr(path[-1], 'key', '')
    if name in ('gain', 'scale', 'skip_gain'):
      return np.full(leaf.shape, 0.9, np.float32)
    if name != 'w':
      return np.zeros(leaf.shape, leaf.dtype)
    fan_in = np.prod(leaf.shape[:-1])
    return (random.randn(*leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

  params = jax.tree_util.tree_map_with_path(fill, shapes.params)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  state = zeros._replace(params=params)
  if state.ema_params:
    state = state._replace(ema_params=jax.tree.map(np.copy, params))
  return factory.network_of(tiny), factory.optimizer_of(tiny), state


def batch(size, image_size=8, num_classes=10, seed=0):
  random = np.random.RandomState(seed)
  return {
    'images': random.randint(
      0, 256, (size, image_size, image_size, 3), dtype=np.uint8
    ),
    'labels': random.randint(0, num_classes, (size,), dtype=np.int32),
  }


def take_steps(tiny, devices, num_steps=2, host_batch=None, state=None):
  """State and metrics after a few steps on these devices."""
  train_step = parallel.map_step(step.make_train_step(tiny), devices)
  state = parallel.replicate(state or network_and_state(tiny)[-1], devices)
  key = parallel.replicate(jax.random.key(0), devices)
  for index in range(num_steps):
    data = host_batch or batch(tiny.batch_size, seed=index)
    state, metrics = train_step(state, parallel.shard(data, devices), key)
  return state, metrics
