"""The ResNet-20 of the CIFAR-10 study: recipe, scales, arms."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import cifar_resnet20, lazy
from experiments.study import FULL, Scale

# Standard deviation over seeds in points, and degrees of freedom, pooled over
# the eleven rows of resnet20_three_ways and where_to_clip with three finished
# runs at scale cpu.
SPREAD = (1.6, 22)
TEN_THOUSAND = {'data.train_split': 'train[:10000]', 'data.num_train': 10000}
# A part of CIFAR-10 that suits two CPU cores. Its batches are smaller, because
# 13 epochs at batch 1,024 would be 126 updates.
PART = 'the first 10,000 images, 13 epochs'
CPU = {'batch_size': 128, 'num_epochs': 13.0, **TEN_THOUSAND}


def recipe(overrides: Mapping[str, Any] = {}) -> ConfigDict:
  """The recipe that all arms of the study share: 100 epochs of CIFAR-10.

  Learning rate 0.1 x batch / 128 x `learning_rate_factor`, linear warm-up over
  5 % of the steps, cosine to 0, Nesterov momentum, weight decay 5e-4 on weights
  only; 4 evaluations.
  """
  config = cifar_resnet20.get_config()
  config.num_epochs = 100.0
  with config.unlocked():
    config.learning_rate_factor = 1.0
  config.learning_rate = (
    config.get_ref('learning_rate_factor')
    * config.get_ref('batch_size')
    * (0.1 / 128)
  )
  config.schedule.name = 'warmup_cosine'
  num_steps = config.get_ref('num_steps')
  config.schedule.warmup_steps = lazy.share(num_steps, 0.05, 1)
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 5e-4
  config.optimizer.decayed = 'weights'
  config.optimizer.unclipped = ('head',)  # as published
  config.data.on_device = True
  config.eval_every = num_steps // 4 + 1
  config.log_every = num_steps // 40 + 1
  config.observe_every = num_steps // 20 + 1
  config.update_from_flattened_dict(dict(overrides))
  return config


def epochs(count: int, rows: Sequence[str] | None = None) -> Scale:
  """A scale of `count` epochs of all 50,000 images."""
  note = f'all 50,000 images, {count} epochs'
  return Scale(note, {'num_epochs': float(count)}, rows)


def scales(
  more: Mapping[str, Any] = {}, between: Mapping[str, Scale] = {}
) -> dict[str, Scale]:
  """All of CIFAR-10 for 100 or 30 epochs, and the part at batch 128.

  Args:
    more: further overrides of the part, scale 'cpu'.
    between: an experiment's own scales, fuller than 'cpu'.
  """
  cpu = Scale(f'{PART} at batch 128', {**CPU, **more})
  return {FULL: epochs(100), 'short': epochs(30), **between, 'cpu': cpu}


# AGC as published clips all parameters but the head's weight, as in the arm
# 'clipped'; the other normalizer-free arm exempts skip gains.
AGC = {'optimizer.clip': 'agc', 'optimizer.clipping': 0.16}
EXEMPT = {**AGC, 'optimizer.unclipped': ('head', 'skip_gain')}
NF = {'model.normalizer': 'nf'}
NONE = {'model.normalizer': 'none'}
ARMS = {
  'batch': {'model.normalizer': 'batch'},
  'none': NONE,
  'none_agc': {**NONE, **AGC},
  'nf': NF,
  'nf_agc': {**NF, **EXEMPT},
  'nf_agc_clipped': {**NF, **AGC},
}
LABELS = {
  'batch': 'batch normalization',
  'none': 'no normalization',
  'none_agc': 'no normalization, AGC',
  'nf': 'normalizer-free',
  'nf_agc': 'normalizer-free, AGC, skip gains exempt',
  'nf_agc_clipped': 'normalizer-free, AGC on skip gains too',
}
