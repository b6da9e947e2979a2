"""Signal propagation at initialization (paper B, Figures 1 and 2).

Untrained networks of 600 layers on unit-normal images: the average squared
channel mean, the average channel variance and the residual branch's variance,
at the ends of the four stages. Five minutes on two CPU cores; `python -m
scripts.inspect signal` measures any model. The expected variance is 1 + 0.04 j
after j blocks of a stage, 3 at its end; zero padding takes some of it at the
borders of small maps. Paper B's Figure 1 is taken as read to 5 %. Each row is
one draw of weights: over C channels a squared mean scatters by sqrt(2 / C)
between draws, so that two draws may well be 25, 18, 12 and 9 % apart in the
four stages.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments import _figures
from experiments.study import Experiment, Row, Rows

# Digitised, at the ends of the stages.
FIGURE = {
  'bn_act': {
    'squared_mean': (13.7, 14.6, 16.7, 17.2),
    'variance': (35, 35, 35, 35),
    'branch_variance': (0.68, 0.68, 0.68, 0.68),
  },
  'act_bn': {
    'squared_mean': (0, 0, 0, 0),
    'variance': (51, 51, 51, 51),
    'branch_variance': (1.0, 1.0, 1.0, 1.0),
  },
}
MEASURES = {
  'squared_mean': 'average squared channel mean',
  'variance': 'average channel variance',
  'branch_variance': 'residual branch variance',
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
  labels={
    'bn_act': 'BN, ReLU, conv',
    'act_bn': 'ReLU, BN, conv',
    'he': 'no normalization, He init.',
    'nf': 'normalizer-free',
  },
  checks=[
    (
      'NF: the variance at the ends of the stages is the expected one, within '
      '5 %',
      lambda rows: all(
        abs(end['variance'] / end['expected_variance'] - 1) <= CLOSE
        for end in ends(rows['nf'])
      ),
    ),
    (
      'NF: the squared mean there is below 5 % of the variance',
      lambda rows: all(
        end['squared_mean'] < CLOSE * end['variance']
        for end in ends(rows['nf'])
      ),
    ),
    (
      'NF, and ReLU, BN, conv: the variance grows by a fixed step a block and '
      'starts again at every stage',
      lambda rows: is_saw_tooth(rows['nf']) and is_saw_tooth(rows['act_bn']),
    ),
    (
      "the batch-normalized networks have the numbers of paper B's figure, as "
      'far as reading and the draw of the weights let one tell',
      lambda rows: all(abs(off) <= by for off, by in differences(rows)),
    ),
  ],
  published={
    row: ('; '.join(', '.join(map(str, v)) for v in found.values()), 'D')
    for row, found in FIGURE.items()
  },
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
  plot=lambda experiment, found: plot(experiment, found),
)
get_config = EXPERIMENT.get_config


def measure(config: ConfigDict) -> list[dict[str, Any]]:
  """One row per block, see `signal.Signal`, to five digits."""
  from nfnets.analysis import signal

  overrides = config.model.to_dict()
  name = overrides.pop('name')
  size = (config.batch_size, config.image_size)
  found = signal.measure_noise(name, config.seed, *size, **overrides)
  digits = lambda x: float(f'{x:.5g}') if isinstance(x, float) else x
  return [
    {key: digits(value) for key, value in vars(block).items()}
    for block in found
  ]


def ends(row: Row) -> list[Mapping[str, Any]]:
  """The last block of each stage."""
  return list({block['stage']: block for block in row.measured}.values())


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


def differences(rows: Rows) -> Iterator[tuple[float, float]]:
  """Measured against digitised: the relative difference, and what is allowed.

  A mean that is published as 0 is held against the variance.
  """
  for row, figure in FIGURE.items():
    for key, numbers in figure.items():
      for end, number, channels in zip(ends(rows[row]), numbers, CHANNELS):
        off = (end[key] - number) / (number or end['variance'])
        scatter = 4 / math.sqrt(channels) if key == 'squared_mean' else 0.0
        yield off, max(CLOSE, scatter) if number else CLOSE


def plot(experiment: Experiment, found: Mapping[str, Rows]) -> Figure:
  """The three measures over all blocks, with the figure's and the expected."""
  made, rows = _figures.figure(experiment, found, 12)
  axes = made.subplots(1, 3)
  for ax, (key, title) in zip(axes, MEASURES.items()):
    for color, (name, row) in zip(_figures.COLORS, rows.items()):
      blocks = range(1, len(row.measured) + 1)
      values = [block[key] for block in row.measured]
      ax.plot(blocks, values, color=color, label=experiment.label(name))
      if name in FIGURE:
        depth = len(values) // 4
        at = [stage * depth for stage in (1, 2, 3, 4)]
        ax.plot(at, FIGURE[name][key], 'x', color=color, ms=8, mew=2)
      if name == 'nf' and key == 'variance':
        expected = [block['expected_variance'] for block in row.measured]
        ax.plot(blocks, expected, 'k:', zorder=5)
    _figures.finish(ax, 'residual block', '', title)
    ax.set_yscale('symlog' if key == 'squared_mean' else 'log')
  axes[0].set_ylim(bottom=0)
  axes[0].plot([], [], 'k:', label='expected: 1 + 0.04 j')
  axes[0].plot([], [], 'kx', label="paper B's Figure 1 [D]")
  _figures.legend(made, axes[0], columns=6)
  return made
