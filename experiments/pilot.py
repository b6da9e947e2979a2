"""The learning rate of each arm, chosen on held-out images of CIFAR-10.

Each run trains for 13 epochs on the first 10,000 training images at batch 128
(1,015 updates), and is judged by its accuracy on the next 5,000 training
images: no test image takes part in the choice. Learning rates are 0.1 times a
factor. An arm tries three factors, each twice the one before, and goes on in
one direction as long as the outermost factor is the best, from 1/64 up to 8.
`headline` and `agc_grid` use its best factor. Rows 'b1024_...' choose the
factors for `large_batch` in the same way, with 26 epochs at batch 1,024 (253
updates) and rates of 0.8 times a factor.
"""

import numpy as np

from experiments import _figures, _resnet20, large_batch
from experiments.study import (
  FULL,
  Experiment,
  NotRun,
  Numbered,
  Rows,
  Scale,
  fewest,
)

FACTORS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
FIRST = dict.fromkeys(_resnet20.ARMS, (1, 2, 4)) | {
  'none': (1 / 8, 1 / 4, 1 / 2),
  'none_agc': (1 / 2, 1, 2),
  'b1024_batch': (1 / 4, 1 / 2, 1),
  'b1024_none': (1 / 32, 1 / 16, 1 / 8),
  'b1024_none_agc': (1 / 8, 1 / 4, 1 / 2),
  'b1024_none_agc_own': (1 / 8, 1 / 4, 1 / 2),
  'b1024_nf_agc': (1 / 2, 1, 2),
}
ARMS = _resnet20.ARMS | {
  f'b1024_{arm}': {'batch_size': 1024, 'num_epochs': 26.0, **overrides}
  for arm, overrides in large_batch.ROWS.items()
}
EXPERIMENT = Experiment(
  title='ResNet-20 on CIFAR-10: accuracy by learning rate',
  claim='The arms need different learning rates.',
  rows={
    f'{arm}_x{factor:g}': {'learning_rate_factor': float(factor), **overrides}
    for arm, overrides in ARMS.items()
    for factor in FACTORS
  },
  checks={
    f'{batch}no normalization needs a lower rate than BN': Numbered(
      lambda rows, a=arm: best(rows, f'{a}none') < best(rows, f'{a}batch'),
      lambda rows, a=arm: (
        f'best factors of the rate: none {best(rows, f"{a}none"):g}, '
        f'batch {best(rows, f"{a}batch"):g}, {fewest(rows.values())}'
      ),
    )
    for arm, batch in {'': '', 'b1024_': 'at batch 1,024 '}.items()
  },
  scales={
    FULL: Scale(
      '13 epochs on 10,000 training images, accuracy on 5,000 others',
      {**_resnet20.CPU, 'data.eval_split': 'train[10000:15000]'},
    )
  },
  labels=_resnet20.LABELS,
  config=lambda row: _resnet20.recipe(),
  plot=_figures.lines(
    'learning rate, relative to the default', r'_x([\d.]+)', by='b1024'
  ),
)
get_config = EXPERIMENT.get_config


def best(rows: Rows, arm: str) -> float:
  """The best factor of those tried; a diverged run is the worst."""
  names = {f'{arm}_x{factor:g}': factor for factor in FACTORS}
  found = {names[row]: rows[row] for row in names if row in rows}
  if not found:
    raise NotRun(arm)
  return max(found, key=lambda factor: np.nan_to_num(found[factor].mean))
