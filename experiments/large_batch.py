r"""The report's setting: batch 1,024 and lambda 0.01. CIFAR-10.

  python -m scripts.sweep --experiment=large_batch --scale=short -- \
    --config.data.data_dir=DATA --config.learning_rate_factor=ITS_OWN

The row's rate is the one that `pilot` chose at this batch. `none_agc_own` has
the lambda that 0.16 at batch 128 scales to, 20.48 / batch.

Planned comparisons, paired by seed: none - batch, none_agc - none,
none_agc - batch, none_agc_own - none_agc, nf_agc - batch.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _plots, _study

TITLE = "ResNet-20 on CIFAR-10 in the report's setting"
CLAIM = (
  'At batch 1,024, AGC with lambda 0.01 is worth no more than nothing to a '
  'ResNet-20 without normalization.'
)
PAPER = {}
SEEDS = (0, 1)
RUNS = {
  'batch': _cifar.ARMS['batch'],
  'none': _cifar.ARMS['none'],
  'none_agc': {**_cifar.ARMS['none_agc'], 'optimizer.clipping': 0.01},
  'none_agc_own': {**_cifar.ARMS['none_agc'], 'optimizer.clipping': 0.02},
  'nf_agc': {**_cifar.ARMS['nf_agc'], 'optimizer.clipping': 0.02},
}
LABELS = {
  'batch': 'batch normalization',
  'none': 'no normalization',
  'none_agc': 'no normalization, AGC 0.01',
  'none_agc_own': 'no normalization, AGC 0.02',
  'nf_agc': 'normalizer-free, AGC 0.02, skip gains exempt',
}
SCALES = {
  'full': {
    'note': 'all 50,000 images, 164 epochs',
    'overrides': {'num_epochs': 164.0},
  },
  'short': {
    'note': 'all 50,000 images, 30 epochs',
    'overrides': {'num_epochs': 30.0},  # 1,464 updates
  },
}


def get_config(run: str) -> ConfigDict:
  """One arm at batch 1,024."""
  config = _cifar.resnet20(batch_size=1024)
  return _study.configure(config, RUNS, SCALES, run)


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
