r"""Each arm's learning rate, chosen on training images held out. CIFAR-10.

  python -m scripts.sweep --experiment=pilot -- --config.data.data_dir=DATA

13 epochs of the first 10,000 training images at batch 128 (1,015 updates), and
the accuracy on the next 5,000 training images: no test image takes part in the
choice. An arm tries three factors of the learning rate 0.1, twice apart, and
one more beyond an end as long as that end is the best. Its best factor is its
own in `headline` and `agc_grid`. Rows 'b1024_...' choose those of `large_batch`
in the same way: 26 epochs at batch 1,024 (253 updates), factors of 0.8.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _plots, _study, large_batch

TITLE = "The arms' learning rates"
CLAIM = 'Arms differ in the learning rate that suits them.'
PAPER = {}
SEEDS = (0,)
ARMS = _cifar.ARMS | {
  f'b1024_{arm}': {'batch_size': 1024, 'num_epochs': 26.0, **overrides}
  for arm, overrides in large_batch.RUNS.items()
}
FACTORS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
FIRST = dict.fromkeys(_cifar.ARMS, (1, 2, 4)) | {
  'none': (1 / 8, 1 / 4, 1 / 2),
  'none_agc': (1 / 2, 1, 2),
  'b1024_batch': (1 / 4, 1 / 2, 1),
  'b1024_none': (1 / 32, 1 / 16, 1 / 8),
  'b1024_none_agc': (1 / 8, 1 / 4, 1 / 2),
  'b1024_none_agc_own': (1 / 8, 1 / 4, 1 / 2),
  'b1024_nf_agc': (1 / 2, 1, 2),
}
RUNS = {
  f'{arm}_x{factor:g}': {
    'learning_rate_factor': float(factor),
    **overrides,
  }
  for arm, overrides in ARMS.items()
  for factor in FACTORS
}
LABELS = {
  f'{arm}_x{factor:g}': f'{name}, rate {0.1 * factor:g}'
  for arm, name in _cifar.ARM_LABELS.items()
  for factor in FACTORS
} | {
  f'b1024_{arm}_x{factor:g}': f'batch 1,024, {name}, rate {0.8 * factor:g}'
  for arm, name in large_batch.LABELS.items()
  for factor in FACTORS
}
SCALES = {
  'full': {
    'note': '10,000 training images, 13 epochs, judged by 5,000 others',
    'overrides': {
      'num_epochs': 13.0,
      'data.train_split': 'train[:10000]',
      'data.num_train': 10000,
      'data.eval_split': 'train[10000:15000]',
    },
  },
}


def get_config(run: str) -> ConfigDict:
  """One arm at one learning rate."""
  return _study.configure(_cifar.resnet20(), RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """A table for each scale."""

  def section(found: Sequence, note: str, suffix: str) -> str:
    del note, suffix
    return _plots.table(found, RUNS, LABELS, growth=_cifar.gain_growth)

  return _plots.sections(records, SCALES, section)


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """None yet: the comparisons are named in the docstring, and made later."""
  del records
  return 'not run', 'The runs are under way.'
