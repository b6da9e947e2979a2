r"""Five networks at batch 128, each at its own learning rate. CIFAR-10.

  python -m scripts.sweep --experiment=headline --scale=short -- \
    --config.data.data_dir=DATA --config.learning_rate_factor=ITS_OWN

The arm's rate is the one that `pilot` chose. AGC's lambda is 0.16. Two rows
more are what the paper would have run: AGC that clips skip gains too, and skip
gains that start at 1.

Planned comparisons, paired by seed: none - batch, none_agc - none,
none_agc - batch, nf - batch, nf_agc - nf.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _plots, _study

TITLE = 'ResNet-20 on CIFAR-10, each at its own learning rate'
CLAIM = (
  'Without normalization a ResNet-20 loses accuracy at any learning rate, AGC '
  'restores part of it, and a normalizer-free network all of it.'
)
PAPER = {}
SEEDS = (0, 1, 2)
RUNS = {
  **_cifar.ARMS,
  'nf_agc_gain1': {
    'model.normalizer': 'nf',
    **_cifar.AGC,
    'model.skipinit_gain': 1.0,
  },
}
LABELS = _cifar.ARM_LABELS | {
  'nf_agc_gain1': 'normalizer-free, AGC as published, skip gains start at 1'
}
SCALES = {
  'full': {
    'note': 'all 50,000 images, 164 epochs',
    'overrides': {'num_epochs': 164.0},
  },
  'short': {
    'note': 'all 50,000 images, 20 epochs',
    'overrides': {'num_epochs': 20.0},  # 7,812 updates
  },
}


def get_config(run: str) -> ConfigDict:
  """One arm at batch 128."""
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
