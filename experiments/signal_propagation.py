"""Signal propagation at initialization (paper B, Figures 1 and 2).

Untrained networks of 600 layers on unit-normal images: the average squared
channel mean, the average channel variance and the variance of the residual
branch at the ends of the four stages. This takes five minutes on two CPU cores;
`python -m scripts.inspect signal` measures any model. The expected variance is
1 + 0.04 j after j blocks of a stage, 3 at its end; zero padding takes away some
of it at the borders of small maps. Paper B's Figure 1 can be read to about 5 %.
Each row is one draw of weights: over C channels, a squared mean varies between
draws by sqrt(2 / C), so two draws may well be 25, 18, 12 and 9 % apart in the
four stages.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import _figures
from experiments.study import Experiment, Numbered, Row, Rows

MEASURES = {
  'squared_mean': 'average squared channel mean',
  'variance': 'average channel variance',
  'branch_variance': 'residual branch variance',
}
# Digitised, at the ends of the stages, each measure in turn.
FIGURE = {
  'bn_act': ((13.7, 14.6, 16.7, 17.2), (35,) * 4, (0.68,) * 4),
  'act_bn': ((0,) * 4, (51,) * 4, (1.0,) * 4),
}
LABELS = {
  'bn_act': 'BN, ReLU, conv',
  'act_bn': 'ReLU, BN, conv',
  'he': 'no normalization, He init.',
  'nf': 'normalizer-free',
}
CHANNELS = (256, 512, 1024, 2048)
CLOSE = 0.05  # relative; the figure's numbers are good to a few per cent
EXPERIMENT = Experiment(
  title='Signal propagation at initialization',
  claim='Without any normalization layer, scaled weight standardization and '
  'alpha give the signal of a batch-normalized ResNet: variance that grows by '
  'a fixed step per block and starts again at every stage, and no mean.',
  # He and N(0, 1 / fan_in) initialization are those that give the branch
  # variances of the paper's figure, 0.68 and 1.
  rows={
    'bn_act': {
      'model.name': 'resnet_600',
      'model.conv_init': 'he',
      'model.order': 'bn_act',
    },
    'act_bn': {
      'model.name': 'resnet_600',
      'model.conv_init': 'lecun',
      'model.order': 'act_bn',
    },
    'he': {'model.name': 'nf_resnet_600', 'model.normalizer': 'none'},
    'nf': {'model.name': 'nf_resnet_600', 'model.normalizer': 'nf'},
  },
  checks={
    'NF: the variance at the ends of the stages is the expected one, within '
    '5 %': lambda rows: all(
      abs(end['variance'] / end['expected_variance'] - 1) <= CLOSE
      for end in ends(rows['nf'])
    ),
    'NF: the squared mean there is below 5 % of the variance': lambda rows: all(
      end['squared_mean'] < CLOSE * end['variance'] for end in ends(rows['nf'])
    ),
    'NF, and ReLU, BN, conv: the variance grows by a fixed step a block and '
    'starts again at every stage': lambda rows: (
      is_saw_tooth(rows['nf']) and is_saw_tooth(rows['act_bn'])
    ),
    "the batch-normalized networks have the numbers of paper B's figure, as "
    'far as reading and the draw of the weights let one tell': lambda rows: all(
      is_as_digitised(rows[name], name) for name in FIGURE
    ),
  },
  explored={
    'the squared mean exceeds the variance without normalization, not with '
    'BN': Numbered(
      lambda rows: (
        min(shifts(rows['he'])) > 1
        and max(*shifts(rows['bn_act']), *shifts(rows['act_bn'])) < 1
      ),
      lambda rows: (
        'squared mean / variance, mean of the stages: '
        + '; '.join(
          f'{LABELS[name]} {np.mean(shifts(row)):.2g}'
          for name, row in rows.items()
        )
      ),
    ),
  },
  published={
    row: ('; '.join(', '.join(map(str, values)) for values in found), 'D')
    for row, found in FIGURE.items()
  },
  labels=LABELS,
  columns={
    title: lambda row, key=key: ', '.join(
      f'{end[key]:.3g}' for end in ends(row)
    )
    for key, title in MEASURES.items()
  },
  config=lambda row: ConfigDict(
    {'seed': 0, 'batch_size': 4, 'image_size': 512, 'model': {}}
  ),
  measure=lambda config: measure(config),
  plot=lambda experiment, rows: panels(experiment, rows),
)
get_config = EXPERIMENT.get_config


def measure(config: ConfigDict) -> list[dict[str, Any]]:
  """One row per block, see `signal.Signal`, to five digits."""
  from nfnets.analysis import signal

  of_noise = config.to_dict()
  found = signal.measure_noise(**of_noise.pop('model'), **of_noise)
  digits = lambda x: float(f'{x:.5g}') if isinstance(x, float) else x
  return [
    {key: digits(value) for key, value in vars(block).items()}
    for block in found
  ]


def ends(row: Row) -> list[Mapping[str, Any]]:
  """The last block of each stage."""
  return list({block['stage']: block for block in row.measured}.values())


def shifts(row: Row) -> list[float]:
  """The squared mean over the variance at the end of each stage."""
  return [end['squared_mean'] / end['variance'] for end in ends(row)]


def is_saw_tooth(row: Row) -> bool:
  """Whether each stage's variance grows on a line, to 5 %, and starts anew.

  It starts at less than half of what the stage before ended with.
  """
  before = math.inf
  for stage in (1, 2, 3, 4):
    values = [b['variance'] for b in row.measured if b['stage'] == stage]
    first, last = values[0], values[-1]
    off = np.abs(values - np.linspace(first, last, len(values))).max()
    if not (first < before / 2 and first < last and off <= CLOSE * last):
      return False
    before = last
  return True


def is_as_digitised(row: Row, name: str) -> bool:
  """Whether a network's numbers are the figure's.

  A mean that is published as 0 is held against the variance.
  """
  for key, numbers in zip(MEASURES, FIGURE[name]):
    for end, number, channels in zip(ends(row), numbers, CHANNELS):
      allowed = CLOSE
      if key == 'squared_mean' and number:
        allowed = max(CLOSE, 4 / math.sqrt(channels))
      if abs(end[key] - number) / (number or end['variance']) > allowed:
        return False
  return True


def panels(experiment: Experiment, rows: Rows) -> _figures.Panels:
  """The measures over all blocks, with the figure's and the expected."""
  x = "residual block (crosses: paper B's Figure 1 [D])"
  for index, (key, title) in enumerate(MEASURES.items()):
    found = []
    for name, row in rows.items():
      blocks = range(1, len(row.measured) + 1)
      values = [block[key] for block in row.measured]
      label = experiment.label(name)
      found.append(_figures.Curve(label, blocks, values, marker=''))
      if name in FIGURE:
        at = [(stage + 1) * len(values) // 4 for stage in range(4)]
        crosses = label, at, FIGURE[name][index], None, '', 'x'
        found.append(_figures.Curve(*crosses))
    if key == 'variance' and 'nf' in rows:
      steps = [block['expected_variance'] for block in rows['nf'].measured]
      places, label = range(1, len(steps) + 1), 'expected: 1 + 0.04 j'
      found.append(_figures.Curve(label, places, steps, None, ':', ''))
    log = '' if key == 'squared_mean' else 'y'
    yield _figures.Panel(x, '', found, title, log)
