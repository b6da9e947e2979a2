"""The CIFAR-10 study's common recipe, and its scales."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs import cifar_resnet20, lazy
from experiments import _study
from nfnets import factory

REPORT = (
  'The report is a public one by Thakur, a minimal ablation study of NFNets on '
  "CIFAR-10, known here at second hand, from Composer's notes on gradient "
  'clipping.'
)


def resnet20(normalizer: str = 'batch', batch_size: int = 128) -> ConfigDict:
  """ResNet-20 on CIFAR-10 for 100 epochs: what all arms of the study share.

  Learning rate 0.1 x batch / 128 x `learning_rate_factor`, linear warm-up over
  5 % of the steps, cosine to 0, Nesterov, weight decay 5e-4 on weights alone in
  every arm; 4 evaluations.
  """
  config = cifar_resnet20.get_config()
  config.model.normalizer = normalizer
  config.batch_size = batch_size
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
  config.data.on_device = True
  config.eval_every = num_steps // 4 + 1
  config.log_every = num_steps // 40 + 1
  config.observe_every = num_steps // 20 + 1
  return config


def scales(
  rows: Sequence[str] | None = None,
  more: Mapping[str, Any] = {},
  own_batch: bool = False,
) -> dict[str, dict[str, Any]]:
  """The whole of CIFAR-10, at two lengths, and what two CPU cores can train on.

  Args:
    rows: those of scale 'cpu', if not all.
    more: overrides there.
    own_batch: whether rows have batch sizes of their own; else it is 128
      there, since 13 epochs at 1,024 would be 126 updates.
  """
  cpu = {
    'note': 'the first 10,000 images, 13 epochs'
    + ('' if own_batch else ' at batch 128'),
    'overrides': {
      'batch_size': 128,
      'num_epochs': 13.0,  # 1,015 updates at 128: just enough for AGC
      'data.train_split': 'train[:10000]',
      'data.num_train': 10000,
      **more,
    },
  }
  if rows is not None:
    cpu['rows'] = tuple(rows)
  full = {'note': 'all 50,000 images, 100 epochs', 'overrides': {}}
  short = {
    'note': 'all 50,000 images, 30 epochs',
    'overrides': {'num_epochs': 30.0},  # 1,464 updates at batch 1024
  }
  return {_study.FULL: full, 'short': short, 'cpu': cpu}


def with_source(text: str) -> str:
  """An experiment's report, and which report it is that the claim quotes."""
  return f'{text.rstrip()}\n\n{REPORT}'


def gain_limit(images: int, lambda_: float) -> float:
  """About the largest skip gain that AGC allows at the end of such a run.

  Below AGC's epsilon of 0.001 a gain moves by rate x lambda / (1 - momentum) x
  0.001 an update at most, then by as much of itself. The rates of `resnet20`
  add up to 0.05 an update of 128 images. Under 1, residual branches stay shut.

  Args:
    images: updates times batch size.
    lambda_: AGC's.
  """
  growth = 0.05 * images / 128 * lambda_ / (1 - 0.9)
  return 1e-3 * (growth if growth < 1 else math.exp(min(growth - 1, 50)))


# What the study compares, each at a learning rate of its own. Skip gains are
# exempt from AGC unless the arm is called 'clipped', which is AGC as published:
# all but the head's weight.
AGC = {'optimizer.clip': 'agc', 'optimizer.clipping': 0.16}
EXEMPT = {**AGC, 'optimizer.unclipped': ('head', 'skip_gain')}
ARMS = {
  'batch': {'model.normalizer': 'batch'},
  'none': {'model.normalizer': 'none'},
  'none_agc': {'model.normalizer': 'none', **AGC},
  'nf': {'model.normalizer': 'nf'},
  'nf_agc': {'model.normalizer': 'nf', **EXEMPT},
  'nf_agc_clipped': {'model.normalizer': 'nf', **AGC},
}
ARM_LABELS = {
  'batch': 'batch normalization',
  'none': 'no normalization',
  'none_agc': 'no normalization, AGC',
  'nf': 'normalizer-free',
  'nf_agc': 'normalizer-free, AGC, skip gains exempt',
  'nf_agc_clipped': 'normalizer-free, AGC as published',
}
# A skip gain of 0 that AGC clips first moves by rate x lambda / (1 - momentum)
# x 0.001 an update, then by as much of itself: it has reached 1 when their sum
# without the 0.001 is 1 + ln 1000.
OPEN = 1 + math.log(1000)


def gain_growth(config: Mapping[str, Any]) -> float:
  """The sum of learning rate x lambda / (1 - momentum) over a run's updates.

  AGC can be judged if it is `OPEN` or more, where skip gains start at 0.

  Args:
    config: resolved, as a record holds it.

  Returns:
    The sum; infinite where AGC clips no skip gain that starts at 0.
  """
  model, optimizer = config['model'], config['optimizer']
  opens = (
    model['normalizer'] != 'nf'
    or optimizer['clip'] != 'agc'
    or 'skip_gain' in optimizer['unclipped']
    or model['skipinit_gain'] > 0
  )
  if opens:
    return math.inf
  rates = factory.schedule_of(ConfigDict(dict(config)))(
    np.arange(config['num_steps'])
  )
  share = optimizer['clipping'] / (1 - optimizer['momentum'])
  return float(np.sum(rates) * share)
