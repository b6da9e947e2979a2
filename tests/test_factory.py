"""Checks of a config, and the parts made from it."""

import pytest
import tiny

from configs import cifar_resnet20, quickstart
from nfnets import checks, factory, train


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('precision', 'float16', "config.precision='float16': choose one of"),
    ('num_steps', 0, 'follows from config.data.num_train=1438, config.nu'),
    (
      'schedule__warmup_steps',
      99,
      'at most config.num_steps=8; set config.schedule.warmup_steps lower, or '
      'config.num_epochs',
    ),
    ('sam__m', 3, 'sam.m=3: must be 0 or divide config.batch_size=16'),
    ('data__crop', 'pad', "data.crop='pad': choose 'inception'"),
    ('data__eval_preprocessing', 'crop', 'choose one of resize_crop_32'),
    ('data__std', (1.0, 0.0, 1.0), r'must be in \[0.001, 1e6\]'),
    ('data__mean', (1.0, 0.0), 'give three numbers'),
    ('data__crop', 'pad²', "data.crop='pad²': choose 'inception'"),
    ('data__crop', 'pad99999', "'pad99999': the padding must not exceed"),
    ('data__mean', ('a', 'b', 'c'), "data.mean=.*'a' is not a number"),
    ('model__depths', ('a', 1, 1), "'a' is not a number"),
    ('model__width', 0.0, r'config.model.width=0.0: must be in \(0, 1000\]'),
    ('model__group_size', 0, 'config.model.group_size=0: must be in'),
    ('model__depths', (1.5, 1, 1), 'depths=.*1.5 is not a whole number'),
    ('optimizer__unclipped', (1, 2), 'optimizer.unclipped=.*1 is not a string'),
    ('augment__pairs', 'fresh', "pairs='fresh' needs config.augment.mix"),
    ('batch_size', 18, 'take 16 or 20'),
    ('batch_size', 3, '3 does not divide into 4 devices x config.micro_batches'
     '=1: take 4'),
    ('seed', 2**32, r'seed=4294967296: must be in \[0, 4294967295\]'),
    ('micro_batches', 3, 'config.micro_batches=3: take 12 or 24'),
  ],
)  # fmt: skip
def test_an_invalid_value_is_refused_in_one_line_with_key_and_remedy(
  key, value, message
):
  config = tiny.config(**{key: value})
  with pytest.raises(ValueError, match=message) as error:
    checks.check(config, device_count=4)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('batch_size', 'm', 'micro_batches', 'devices', 'fits'),
  [
    (16, 4, 8, 1, False),
    (16, 8, 8, 1, True),
    (16, 16, 8, 1, True),
    (24, 8, 1, 4, False),
    (24, 12, 1, 4, True),
    (24, 3, 1, 4, True),
    (24, 3, 2, 4, False),
  ],
)
def test_groups_of_sam_fit_micro_batches_and_devices(
  batch_size, m, micro_batches, devices, fits
):
  config = tiny.config(
    batch_size=batch_size, sam__m=m, micro_batches=micro_batches, sam__rho=0.05
  )
  if not fits:
    with pytest.raises(ValueError, match=f'config.sam.m={m}: .*micro_batches='):
      checks.check(config, devices)
    config.sam.rho = 0.0  # m has no effect
  checks.check(config, devices)


def test_a_batch_that_leaves_no_steps_is_named_as_the_reason():
  config = quickstart.get_config()
  config.batch_size = 4096
  with pytest.raises(ValueError, match='config.batch_size=4096'):
    checks.check(checks.resolve(config), device_count=4)


def test_a_batch_larger_than_the_training_set_is_refused():
  config = tiny.config(batch_size=2000, eval_every=8, checkpoint_every=8)
  with pytest.raises(ValueError, match='config.batch_size=2000: .* 1438 ex'):
    train.prepare(config)


def test_an_evaluation_needs_no_number_of_training_examples():
  config = quickstart.get_config()
  config.data.num_train = 0
  assert checks.resolve(config, trains=False).data.num_train == 0
  with pytest.raises(ValueError, match='config.data.num_train=0: must be in'):
    checks.resolve(config)


def test_wrong_class_and_example_counts_are_refused_with_the_right_ones():
  with pytest.raises(ValueError, match='digits has 10 classes'):
    factory.sources_of(tiny.config(data__num_classes=11))
  with pytest.raises(ValueError, match='pass --config.data.num_train=1438'):
    factory.sources_of(tiny.config(data__num_train=1000))


def test_an_unknown_model_or_override_is_refused_with_a_near_name():
  with pytest.raises(ValueError, match='did you mean'):
    factory.network_of(tiny.config(model__name='cifar_resnet_21'))
  config = tiny.config()
  with config.unlocked():
    config.model.activatoin = 'relu'
  with pytest.raises(ValueError, match='did you mean activation'):
    factory.network_of(config)


@pytest.mark.parametrize(
  ('values', 'why'),
  [
    ({'num_steps': 3}, r'num_steps=3: boundaries must increase, got \(2, 2\)'),
    (
      {'num_steps': 150, 'optimizer.clip': 'agc'},
      'boundary 75 is within.*warm-up of 100.*or config.schedule.warmup_steps',
    ),
  ],
)
def test_a_run_too_short_for_its_boundaries_names_the_keys(values, why):
  config = cifar_resnet20.get_config()
  config.update_from_flattened_dict(values)
  match = f'config.schedule.boundaries=.*{why}'
  with pytest.raises(ValueError, match=match) as error:
    factory.schedule_of(checks.resolve(config))
  assert '\n' not in str(error.value)


def test_the_piecewise_schedule_is_that_of_he_et_al():
  schedule = factory.schedule_of(
    tiny.config(schedule__name='piecewise', num_steps=64000)
  )
  assert [float(schedule(t)) for t in (0, 31999, 32000, 48000)] == (
    pytest.approx([0.1, 0.1, 0.01, 0.001])
  )
