"""Every recipe: complete, lazy, as published, and one real step."""

import importlib
import json
import pathlib

import jax
import numpy as np
import pytest
import tiny
from absl import flags
from ml_collections import config_flags

from configs import base, cifar_resnet20, lazy, nf_regnet_b0, nfnet_f0
from nfnets import checks, factory, parallel, step, variants, workdir

FOLDER = pathlib.Path(__file__).parents[1] / 'configs'
NAMES = sorted(
  path.stem
  for path in FOLDER.glob('*.py')
  if 'get_config' in path.read_text() and path.stem not in ('base', 'lazy')
)


def load(name):
  """A recipe; what it leaves to weights and data is filled in as an F0's."""
  config = importlib.import_module(f'configs.{name}').get_config()
  if name.startswith('finetune'):
    f0 = nfnet_f0.get_config()
    with config.unlocked():
      config.model = {**f0.model.to_dict(), **CHOSEN}
      for key in config.data:
        if config.data[key] in ('', 0, ()):
          config.data[key] = f0.data[key]
  return config


# What a fine-tuning recipe says of its model.
CHOSEN = {'drop_rate': 0.0, 'stochdepth_rate': 0.0}


def flat(config):
  return workdir.flat(config.to_dict())


# ml_collections loads a recipe by a call that Python means to drop.
loads_a_file = pytest.mark.filterwarnings(
  'ignore:.*load_module:DeprecationWarning'
)


def from_command_line(name, *overrides):
  """The config as `scripts.train` gets it."""
  values = flags.FlagValues()
  argv = ['train', f'--config={FOLDER / name}.py', *overrides]
  config_flags.DEFINE_config_file(
    'config', flag_values=values, lock_config=True, sys_argv=argv
  )
  values(argv)
  return values['config'].value


@pytest.mark.parametrize('name', NAMES)
def test_a_recipe_is_locked_passes_the_check_and_prints_as_json(name):
  config = load(name)
  assert config.is_locked
  with pytest.raises(AttributeError):
    config.schedule.warm_up_steps = 1
  resolved = config.copy_and_resolve_references()
  checks.check(resolved, device_count=32)
  factory.network_of(resolved)
  factory.optimizer_of(resolved)
  printed = json.loads(workdir.dump_json(resolved.to_dict()))
  assert printed['model']['name'] in variants.ALL
  assert None not in workdir.flat(printed).values()


def test_all_recipes_have_the_keys_of_the_base_and_of_the_same_types():
  def shape(config):
    return {
      key: type(value)
      for key, value in flat(config).items()
      if not key.startswith('model.')
    }

  expected = shape(base.imagenet('nfnet_f0'))
  for name in NAMES:
    assert shape(load(name)).items() >= expected.items(), name


# What a variant's file adds to its name, so that the name alone isn't enough.
MORE_THAN_A_NAME = {
  'cifar_resnet110': {'schedule.warmup_steps': 400, 'schedule.start': 0.01}
}


@loads_a_file
@pytest.mark.parametrize(
  'family, name',
  [
    (family, name)
    for family, prefix in (
      ('nfnet_f0', 'nfnet_f'),
      ('nf_resnet_50', 'nf_resnet_'),
      ('nf_regnet_b0', 'nf_regnet_b'),
      ('cifar_resnet20', 'cifar_resnet'),
    )
    for name in NAMES
    if name.startswith(prefix) and name[len(prefix) :].isdigit()
  ],
)
def test_overriding_the_name_on_the_command_line_equals_the_variants_file(
  family, name
):
  model = name.replace('cifar_resnet', 'cifar_resnet_')
  got = flat(from_command_line(family, f'--config.model.name={model}'))
  got |= MORE_THAN_A_NAME.get(name, {})
  assert got == flat(load(name))


@pytest.mark.parametrize('name', NAMES)
def test_the_batch_size_moves_the_steps(name):
  config = load(name)
  before = config.num_steps
  config.batch_size = config.batch_size // 2
  if name.startswith('jft_finetune'):  # A.5 counts steps
    assert config.num_steps == before == 15_000
  else:
    assert abs(config.num_steps - 2 * before) <= 1


@loads_a_file
def test_the_batch_size_moves_the_learning_rate_and_a_given_rate_stays():
  config = from_command_line('nfnet_f0', '--config.batch_size=1024')
  assert config.learning_rate == pytest.approx(0.4)
  assert config.num_steps == 450_410
  config = from_command_line(
    'nfnet_f0', '--config.batch_size=1024', '--config.learning_rate=1.6'
  )
  assert config.learning_rate == 1.6
  # Paper B's NF-RegNets don't scale it.
  assert (
    from_command_line('nf_regnet_b0', '--config.batch_size=256').learning_rate
    == 0.4
  )


@loads_a_file
def test_any_value_can_be_set_on_the_command_line():
  config = from_command_line(
    'nfnet_f0',
    '--config.num_epochs=1.5',
    '--config.model.widths=(256, 512, 1024, 2048)',
    '--config.model.use_two_convs=false',
    '--config.model.normalizer=batch',
    '--config.schedule.name=piecewise',
    "--config.optimizer.unclipped=('head', 'stage_4')",
  )
  assert config.model.widths == (256, 512, 1024, 2048)
  assert config.num_steps == 469
  factory.network_of(config.copy_and_resolve_references())
  with pytest.raises(AttributeError, match='wdths'):
    from_command_line('nfnet_f0', '--config.model.wdths=(1,)')


def test_an_unpublished_weight_decay_must_be_given():
  config = nf_regnet_b0.get_config()
  config.model.name = 'nf_regnet_b7'
  with pytest.raises(ValueError, match='no weight_decay .*nf_regnet_b7'):
    config.copy_and_resolve_references()
  config.optimizer.weight_decay = 1e-4
  assert config.copy_and_resolve_references().data.train_image_size == 512


# num_steps, warm-up steps, rates at its start, its end, and the run's end:
# papers A (A.1, A.5), B and D, or the released experiments.
SCHEDULES = {
  'nfnet_f0': (112_602, 1_564, 0.0, 1.6, 0.0),
  'nf_resnet_50': (112_602, 6_256, 0.0, 0.4, 0.0),
  'nf_regnet_b0': (450_410, 6_256, 0.0, 0.4, 0.001),
  'cifar_resnet20': (64_000, 0, 0.1, 0.1, 0.001),
  'cifar_resnet110': (64_000, 400, 0.01, 0.1, 0.001),
  'jft_pretrain': (2_929_687, 5_000, 0.0, 0.4, 0.0),
  'jft_pretrain_f4_plus': (1_464_843, 5_000, 0.0, 1.6, 0.0),
  'jft_finetune': (15_000, 5_000, 0.0, 0.1, 0.0),
  'jft_finetune_f4_plus': (15_000, 5_000, 0.0, 0.1, 0.0),
  'quickstart': (449, 22, 0.0, 0.1, 0.0),
  'finetune': (800_729, 266_910, 0.0, 0.01, 0.0),
  'finetune_caltech101': (1_275, 425, 0.0, 0.01, 0.0),
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_the_schedule_has_the_published_end_points(name):
  num_steps, warmup_steps, start, peak, end = SCHEDULES[name]
  config = load(name).copy_and_resolve_references()
  assert config.num_steps == num_steps
  assert config.schedule.warmup_steps == warmup_steps
  rate = factory.schedule_of(config)
  np.testing.assert_allclose(rate(0), start, atol=1e-9)
  np.testing.assert_allclose(rate(warmup_steps), peak, rtol=1e-6)
  np.testing.assert_allclose(rate(num_steps), end, rtol=1e-4, atol=1e-9)


def shrunken(name):
  """One block a stage, narrow, on small pictures of ten classes."""
  config = load(name).copy_and_resolve_references()
  size = 16 if config.data.train_image_size <= 32 else 32
  with config.unlocked():
    config.model.depths = (1,) * len(config.model.depths)
    config.model.widths = (16, 16, 32, 32)[: len(config.model.depths)]
    if 'width' in config.model:
      config.model.width = 1.0
    for key in ('drop_rate', 'stochdepth_rate'):
      config.model[key] = 0.1 if config.model[key] else 0.0
    if config.augment.randaugment_layers:
      config.augment.randaugment_layers = 1
      config.augment.randaugment_magnitude = 10
    if config.optimizer.weight_decay:
      config.optimizer.weight_decay = 1e-4
    config.data.num_classes = 10
    config.data.train_image_size = config.data.eval_image_size = size
    config.batch_size = 8
    config.num_steps = 100
    config.schedule.warmup_steps = 10
    config.schedule.start = 0.05
    config.learning_rate = 0.1
    config.label_smoothing = 0.1
    config.observe_every = 0
    config.ema.decay = 0.99
  return config


# Variants whose file says no more than a name are their family, shrunken.
RECIPES = [
  name
  for name in NAMES
  if 'lambda: ' not in (FOLDER / f'{name}.py').read_text()
]
DEFAULT = ('nfnet_f0', 'fixup_resnet_50', 'cifar_resnet20')


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[] if name in DEFAULT else [pytest.mark.slow])
    for name in RECIPES
  ],
)
def test_a_shrunken_copy_takes_one_real_step_that_moves_every_parameter(name):
  config = shrunken(name)
  _, _, before = tiny.network_and_state(config)
  batch = tiny.batch(config.batch_size, config.data.train_image_size)
  after, metrics = tiny.take_steps(config, jax.devices()[:1], 1, batch)
  after = parallel.to_host(after)
  assert metrics['nonfinite'] == 0 and after.step == 1
  assert 1 < metrics['loss'] < 10
  for (path, old), new, average in zip(
    jax.tree.flatten_with_path(before.params)[0],
    jax.tree.leaves(after.params),
    jax.tree.leaves(after.ema_params) or jax.tree.leaves(after.params),
  ):
    assert np.isfinite(new).all() and (new != old).any(), path
    if config.ema.mode != 'none':
      # (1 + t) / (10 + t) of the old average at t = 0.
      np.testing.assert_allclose(
        average, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-7
      )


# Weight decay and AGC's lambda; papers A and B, or He's.
DECAY_AND_CLIPPING = {
  'nfnet_f6_sam': (2e-5, 0.01),
  'jft_finetune_f4_plus': (1e-5, 0.01),
  'nf_resnet_50': (1e-4, None),
  'nf_resnet_50_agc': (1e-4, 0.01),
  'jft_pretrain': (1e-5, None),
  'jft_finetune': (0.0, None),
  'resnet_50': (1e-4, None),
  'cifar_resnet20': (1e-4, None),
  'quickstart': (5e-4, 0.1),
  'finetune': (0.0, 0.01),
  'nf_regnet_b5': (1e-4, None),
}


@pytest.mark.parametrize('name', DECAY_AND_CLIPPING)
def test_decay_and_clipping_are_the_published_ones(name):
  spec = load(name).optimizer
  clipping = spec.clipping if spec.clip == 'agc' else None
  assert (spec.weight_decay, clipping) == DECAY_AND_CLIPPING[name]
  exempt = ('head', 'skip_gain') if name == 'quickstart' else ('head',)
  assert spec.unclipped == exempt
  assert spec.decayed == ('all' if name == 'cifar_resnet20' else 'weights')


def test_derived_numbers_follow_what_they_come_from():
  config = cifar_resnet20.get_config()
  assert config.optimizer.decayed == 'all'
  config.model.normalizer = 'nf'
  assert config.optimizer.decayed == 'weights'
  depth = lazy.published(config.model.get_ref('name'), 'depths', tuple)
  config.model.name = 'cifar_resnet_56'
  assert depth.get() == (9, 9, 9)


@loads_a_file
@pytest.mark.parametrize(
  'overrides, numbers',
  [
    ((), (0.01, 0, ('head',))),
    (('--config.optimizer.clip=agc',), (0.16, 100, ('head',))),
    (
      ('--config.optimizer.clip=agc', '--config.model.normalizer=none'),
      (0.16, 100, ('head',)),
    ),
    (
      ('--config.optimizer.clip=agc', '--config.model.normalizer=nf'),
      (0.16, 100, ('head', 'skip_gain')),
    ),
    (
      (
        '--config.optimizer.clip=agc',
        '--config.optimizer.clipping=0.02',
        '--config.schedule.warmup_steps=5',
        "--config.optimizer.unclipped=('head', 'stem')",
      ),
      (0.02, 5, ('head', 'stem')),
    ),
  ],
)
def test_agc_brings_its_own_defaults_to_the_cifar_recipe(overrides, numbers):
  config = from_command_line('cifar_resnet20', *overrides)
  spec, warmup_steps = config.optimizer, config.schedule.warmup_steps
  assert (spec.clipping, warmup_steps, spec.unclipped) == numbers
  step.state_shapes(config.copy_and_resolve_references())  # all patterns match
