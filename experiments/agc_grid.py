r"""AGC over batch sizes and lambdas, at each arm's own learning rate. CIFAR-10.

  python -m scripts.sweep --experiment=agc_grid -- \
    --config.data.data_dir=DATA --config.learning_rate_factor=ITS_OWN

As `agc_sweep`, with two differences: skip gains are exempt from AGC, and the
learning rate is the one that `pilot` chose. Correlations are of runs that
ended above twice chance; the interaction of both factors is shown.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _plots, _study

TITLE = "AGC: batch size and lambda, at each arm's own learning rate"
CLAIM = (
  'Test accuracy correlates negatively with the batch size and positively with '
  'lambda; the batch size matters more; small batches want a bigger lambda.'
)
PAPER = {}
SEEDS = (0, 1, 2)
NETWORKS = {'nf': 'nf_agc', 'none': 'none_agc'}
LAMBDAS = (0.01, 0.04, 0.16, 0.64)
BATCH_SIZES = (16, 32, 64, 128)
RUNS = {
  f'{network}_b{size}_l{lambda_:g}': {
    **_cifar.ARMS[arm],
    'batch_size': size,
    'optimizer.clipping': lambda_,
  }
  for network, arm in NETWORKS.items()
  for size in reversed(BATCH_SIZES)
  for lambda_ in LAMBDAS
}
LABELS = {
  f'{network}_b{size}_l{lambda_:g}': (
    f'{_cifar.ARM_LABELS[arm]}, batch {size}, lambda {lambda_:g}'
  )
  for network, arm in NETWORKS.items()
  for size in reversed(BATCH_SIZES)
  for lambda_ in LAMBDAS
}
SCALES = {
  'full': {
    'note': 'the first 10,000 images, 13 epochs',
    'overrides': {
      'num_epochs': 13.0,
      'data.train_split': 'train[:10000]',
      'data.num_train': 10000,
    },
  },
}


def get_config(run: str) -> ConfigDict:
  """One network, batch and lambda."""
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
