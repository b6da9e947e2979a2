"""Whatever the value of a config's key, it is refused by name or it runs.

Numbers become -1, 0, huge, NaN and infinite, strings empty and garbage, tuples
empty or with such an element; switches are flipped.
"""

import functools
import math

import jax
import numpy as np
import pytest
import tiny

from configs import nfnet_f0, quickstart
from nfnets import finetune, parallel, step, train
from nfnets.data import sources
from nfnets.workdir import flat

SMALL = {
  'num_epochs': 1.0,
  'batch_size': 16,
  'model.depths': (1, 1, 1),
  'model.widths': (16, 16, 32),
  'schedule.warmup_steps': 1,
  'optimizer.frozen': ('linear/b',),
  'optimizer.learning_rate_scales': (('head', 10.0),),
  'sam.rho': 0.05,
  'sam.perturbed': ('linear',),
}
# All keys of the first are tested, and the keys that only the second has.
BASES = {
  'quickstart': (quickstart, SMALL),
  'nfnet_f0': (
    nfnet_f0,
    SMALL
    | {
      'model.depths': (1, 1, 1, 1),
      'model.widths': (128, 128, 128, 128),
      'data.name': 'digits',
      'data.num_train': 1438,
      'data.num_classes': 10,
      'data.train_image_size': 32,
      'data.eval_image_size': 32,
    },
  ),
}
# Keys that have an effect only with another setting.
CONTEXT = {
  'schedule.boundaries': {'schedule.name': 'piecewise'},
  'schedule.factor': {'schedule.name': 'piecewise'},
  'schedule.decay_rate': {'schedule.name': 'warmup_exponential'},
  'schedule.decay_steps': {'schedule.name': 'warmup_exponential'},
  'augment.pairs': {'augment.mix': 'mixup'},
  'augment.mixup_alpha': {'augment.mix': 'mixup'},
}
HUGE = 10**12
DEVICES = 4


def others(value):
  """The values to try in place of this one."""
  match value:
    case bool():
      return [not value]
    case int():
      return [-1, 0, HUGE]
    case float():
      return [-1.0, 0.0, 1e30, math.nan, math.inf]
    case str():
      return ['', 'garbage']
    case tuple():
      inner = [
        (other, *value[1:])
        for first in value[:1]
        if not isinstance(first, tuple)
        for other in others(first)
      ]
      return [(), ('garbage',), ('(',), *inner]
  raise TypeError(value)


def cases():
  seen = set()
  for base in BASES:
    for key, value in flat(made(base).to_dict()).items():
      if key not in seen:
        seen.add(key)
        yield from ((base, key, other) for other in others(value))


def made(base, **values):
  recipe, changes = BASES[base]
  config = recipe.get_config()
  config.update_from_flattened_dict({**changes, **values})
  return config


def verdict(base, key, value):
  """'refused', with the error, or 'accepted', with config and shapes."""
  try:
    config = made(base, **CONTEXT.get(key, {}), **{key: value})
    config, _ = train.complete(config)
    shapes, *_ = train.prepare(config)
    if config.weights:
      finetune.fitting(config, shapes)
  except (ValueError, OSError) as error:
    return 'refused', error
  return 'accepted', (config, shapes)


def assert_named(key, value, error):
  """The error names the key, by its path or its last part, or its value."""
  said = str(error)
  told = value[0] if isinstance(value, tuple) and value else value
  texts = [repr(told), told] if isinstance(told, str) and told else []
  names = [f'config.{key}', key.rpartition('.')[2], *texts]
  assert any(name in said for name in names), said
  assert '\n' not in said and ' at 0x' not in said


def evaluate_abstractly(config, shapes):
  """Traces the steps of training and evaluation; compiles nothing."""
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  size = config.data.train_image_size
  shape = (DEVICES, config.batch_size * fresh // DEVICES, size, size, 3)
  batch = {
    'images': jax.ShapeDtypeStruct(shape, np.uint8),
    'labels': jax.ShapeDtypeStruct(shape[:2], np.int32),
  }
  train_step = parallel.map_step(step.make_train_step(config))
  return jax.eval_shape(train_step, shapes, batch, jax.random.key(0))


@pytest.fixture(autouse=True)
def _one_reading_of_the_digits(monkeypatch):
  monkeypatch.setattr(sources, 'create', functools.cache(sources.create))


def accepted(chosen):
  """The accepted values of these keys, or of all keys if none is given."""
  for base, key, value in cases():
    if key in chosen or not chosen:
      answer, found = verdict(base, key, value)
      if answer == 'accepted':
        yield key, value, *found


def test_every_value_is_refused_by_name_or_accepted():
  counts = {'refused': 0, 'accepted': 0}
  for base, key, value in cases():
    answer, found = verdict(base, key, value)
    counts[answer] += 1
    if answer == 'refused':
      assert_named(key, value, found)
  print(counts)
  assert counts['refused'] > 150 and counts['accepted'] > 40


SAMPLE = ('model.skipinit_gain', 'sam.m', 'schedule.boundaries')


def test_a_sample_of_accepted_values_can_be_traced():
  for key, value, config, shapes in accepted(SAMPLE):
    _, metrics = evaluate_abstractly(config, shapes)
    assert metrics['loss'].shape == (), (key, value)


@pytest.mark.slow
def test_all_accepted_values_can_be_traced():
  for key, value, config, shapes in accepted(()):
    _, metrics = evaluate_abstractly(config, shapes)
    assert metrics['loss'].shape == (), (key, value)


@pytest.mark.slow
@pytest.mark.parametrize('key', SAMPLE)
def test_a_sample_of_accepted_values_trains_one_step(key):
  for _, value, config, _ in accepted((key,)):
    _, metrics = tiny.take_steps(config, jax.local_devices(), num_steps=1)
    assert np.isfinite(metrics['loss']), value
