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
      lambda rows, a=arm: is_lower(rows, f'{a}none', f'{a}batch'),
      lambda rows, a=arm: '; '.join(
        [
          f'factors that may be the best of {other}: '
          + ', '.join(f'{x:g}' for x in candidates(rows, a + other))
          for other in ('none', 'batch')
        ]
        + [fewest(rows.values())]
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
  spread=_resnet20.SPREAD,
  config=lambda row: _resnet20.recipe(),
  plot=_figures.lines(
    'learning rate, relative to the default', r'_x([\d.]+)', by='b1024'
  ),
)
get_config = EXPERIMENT.get_config


def best(rows: Rows, arm: str) -> float:
  """The best factor of those tried; a diverged run is the worst."""
  found = tried(rows, arm)
  top_1 = {name: np.nan_to_num(rows[name].mean) for name in found}
  return found[max(found, key=lambda name: top_1[name])]


def candidates(rows: Rows, arm: str) -> list[float]:
  """The factors that no other is clearly above, in ascending order."""
  found = tried(rows, arm)
  if all(rows[name].diverged for name in found):
    raise NotRun(arm)
  return [found[name] for name in rows.best(list(found))]


def is_lower(rows: Rows, arm: str, other: str) -> bool | None:
  """Whether an arm's best factor is below the other's, if that is clear."""
  ours, theirs = candidates(rows, arm), candidates(rows, other)
  if max(ours) < min(theirs):
    return True
  return False if min(ours) >= max(theirs) else None


def tried(rows: Rows, arm: str) -> dict[str, float]:
  """The factors with a record, by row; `NotRun` if there are none."""
  names = {f'{arm}_x{factor:g}': factor for factor in FACTORS}
  found = {row: factor for row, factor in names.items() if row in rows}
  if not found:
    raise NotRun(arm)
  return found
