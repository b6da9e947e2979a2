"""A batch-normalized ResNet-20 over batch sizes, 16 to 4096. CIFAR-10.

Every row sees the same number of images, at a learning rate proportional to its
batch size. Rows such as 'b1024_of32' compute batch statistics over parts of the
batch (here, of 32 images), as if each part were on its own device; at scale cpu
the batch has 256 images. Rows such as 'b128_quarter' have a quarter of that
learning rate: scale rates has three batch sizes at both rates, so that a large
batch isn't judged at a rate that fails.
"""

import numpy as np
from scipy import stats

from experiments import _figures, _resnet20
from experiments.study import (
  FULL,
  Above,
  Differs,
  Experiment,
  Numbered,
  Rows,
  Scale,
)

SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
WHOLE = {f'b{size}': {'batch_size': size} for size in SIZES}
PARTS = {
  f'b{size}_of{part}': {'batch_size': size, 'micro_batches': size // part}
  for size, part in ((1024, 16), (1024, 32), (1024, 128), (256, 16), (256, 64))
}
QUARTER = {
  f'b{size}_quarter': {'batch_size': size, 'learning_rate_factor': 0.25}
  for size in (128, 512, 2048)
}
EXPERIMENT = Experiment(
  title='Batch normalization and the batch size',
  claim='At a fixed number of epochs the accuracy of a batch-normalized '
  'ResNet-20 falls as the batch grows; and statistics of a small part of the '
  'batch, as many devices compute them, change what is learnt.',
  rows=WHOLE | PARTS | QUARTER,
  checks={
    'accuracy falls with the batch, by rank': lambda rows: falls(rows),
    'batch 4,096 is worse than 16': Above('b16', 'b4096'),
    'statistics of 32 images change batch 1,024': Differs(
      'b1024_of32', 'b1024'
    ),
    'statistics of 16 images change batch 256': Differs('b256_of16', 'b256'),
    'statistics of 64 images change batch 256': Differs('b256_of64', 'b256'),
    'at the better of two rates batch 2,048 is worse than 128': Numbered(
      lambda rows: at_better_rates(rows)(rows),
      lambda rows: at_better_rates(rows).numbers(rows),
    ),
  },
  explored={'batch 128 is worse than 16': Above('b16', 'b128')},
  scales={
    FULL: _resnet20.epochs(100),
    'short': _resnet20.epochs(30),
    'rates': _resnet20.epochs(15, ['b128', 'b512', 'b2048', *QUARTER]),
    'cpu': Scale(
      _resnet20.PART, _resnet20.CPU, [*WHOLE, 'b256_of16', 'b256_of64']
    ),
  },
  labels={
    '': 'statistics of the batch',
    'quarter': 'a quarter of the rate',
    'b256_of': 'statistics of parts of a batch of 256',
    'b1024_of': 'statistics of parts of a batch of 1,024',
  },
  config=lambda row: _resnet20.recipe(),
  plot=_figures.lines(
    'images that share statistics', r'(?:^b|(?<=_of))(\d+)(?!\d*_of)'
  ),
  spread=_resnet20.SPREAD,
)
get_config = EXPERIMENT.get_config


def falls(rows: Rows) -> bool | None:
  """Whether accuracy falls with the batch, by rank; a weak fall is undecided.

  A diverged row is the worst.
  """
  found = [rows[name] for name in WHOLE]
  values = [0.0 if row.diverged else row.mean for row in found]
  rank = stats.spearmanr(SIZES, values)[0]
  return True if rank <= -0.7 else False if rank >= 0 else None


def at_better_rates(rows: Rows) -> Above:
  """Compares batch 128 and 2,048, each at the better of its two rates."""

  def better(name: str) -> str:
    both = name, f'{name}_quarter'
    return max(both, key=lambda name: np.nan_to_num(rows[name].mean))

  return Above(better('b128'), better('b2048'))
