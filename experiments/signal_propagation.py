"""Signal propagation at initialization (paper B, Figures 1 and 2).

Untrained networks on unit-normal images: the average squared channel mean, the
average channel variance and the residual branch's variance after every block.
`python -m scripts.signal_propagation` measures the runs and writes the report.
"""

import matplotlib.axes
import matplotlib.figure
import numpy as np
from ml_collections import ConfigDict

from nfnets.analysis import signal, tables

# He and N(0, 1 / fan_in) initialization are those that give the branch
# variances of the paper's figure, 0.68 and 1.
RUNS = {
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
}
LABELS = {
  'bn_act': 'BN, ReLU, conv',
  'act_bn': 'ReLU, BN, conv',
  'he': 'no normalization, He init.',
  'nf': 'normalizer-free',
}
# Digitised from paper B's Figure 1 (600 layers at 512 pixels), at stage ends:
# good to a few per cent.
PAPER = {
  'bn_act': {
    'squared_mean': (13.7, 14.6, 16.7, 17.2),
    'variance': (35, 35, 35, 35),
    'branch_variance': (0.68,) * 4,
  },
  'act_bn': {
    'squared_mean': (0, 0, 0, 0),
    'variance': (51, 51, 51, 51),
    'branch_variance': (1.0,) * 4,
  },
}
MEASURES = {
  'squared_mean': 'average squared channel mean',
  'variance': 'average channel variance',
  'branch_variance': 'residual branch variance',
}


def get_config(run: str) -> ConfigDict:
  """The measurement of one run of `RUNS`.

  Raises:
    ValueError: for an unknown run.
  """
  if run not in RUNS:
    raise ValueError(f'no run {run!r}: choose one of {", ".join(RUNS)}.')
  config = of_model('')
  with config.unlocked():
    config.update_from_flattened_dict(RUNS[run])
  return config


def of_model(name: str, image_size: int = 128) -> ConfigDict:
  """The measurement of any model."""
  config = ConfigDict()
  config.seed = 0
  config.batch_size = 4
  config.image_size = image_size  # pixels; the paper's are 512
  config.model = ConfigDict({'name': name})
  return config.lock()


def measure(config: ConfigDict) -> list[dict]:
  """One row per block, see `signal.Signal`."""
  overrides = config.model.to_dict()
  name = overrides.pop('name')
  size = (config.batch_size, config.image_size)
  signals = signal.measure_noise(name, config.seed, *size, **overrides)
  return [vars(row) for row in signals]


def report(results: dict[str, list[dict]]) -> dict[str, object]:
  """File names to their contents: the table's text and the plot's figure."""
  return {'table.md': _table(results), 'plot.png': _plot(results)}


def _table(results: dict[str, list[dict]]) -> str:
  header = ('run', 'stage', 'blocks', *MEASURES.values(), 'expected variance')
  rows = []
  for run, signals in results.items():
    for stage in sorted({row['stage'] for row in signals}):
      inside = [row for row in signals if row['stage'] == stage]
      last = inside[-1]
      cells = [
        _with_paper(run, measure, stage, last[measure]) for measure in MEASURES
      ]
      expected = last['expected_variance']
      expected = '' if expected is None else f'{expected:.3g}'
      label = LABELS.get(run, run)
      rows.append((label, stage, len(inside), *cells, expected))
  note = (
    "At the end of each stage, at initialization. In brackets paper B's Figure "
    '1, digitised, at 512 pixels.\n\n'
  )
  return note + tables.markdown(header, rows)


def _with_paper(run: str, measure: str, stage: int, value: float) -> str:
  paper = PAPER.get(run, {}).get(measure)
  return f'{value:.3g}' + (f' ({paper[stage - 1]:g})' if paper else '')


def _plot(results: dict[str, list[dict]]) -> matplotlib.figure.Figure:
  figure = matplotlib.figure.Figure(figsize=(12, 3.8), layout='constrained')
  axes = figure.subplots(1, 3)
  for ax, (measure, title) in zip(axes, MEASURES.items()):
    for index, (run, signals) in enumerate(results.items()):
      color = f'C{index}'
      blocks = np.arange(1, len(signals) + 1)
      values = [row[measure] for row in signals]
      ax.plot(blocks, values, color=color, label=LABELS.get(run, run), lw=1.5)
      _draw_expectation(ax, measure, blocks, signals, run)
      if run in PAPER:
        ends = [
          block
          for block, row, after in zip(blocks, signals, [*signals[1:], None])
          if after is None or after['stage'] != row['stage']
        ]
        ax.plot(ends, PAPER[run][measure], 'x', color=color, ms=8, mew=2)
    ax.set_title(title, fontsize=10)
    ax.set_xlabel('residual block')
    ax.set_yscale('symlog' if measure == 'squared_mean' else 'log')
    ax.grid(alpha=0.3)
  axes[0].set_ylim(bottom=0)
  axes[0].legend(fontsize=8, frameon=False)
  axes[1].plot([], [], 'k:', label='expected: 1 + 0.04 j')
  axes[1].plot([], [], 'kx', label='paper B, Figure 1')
  axes[1].legend(fontsize=8, frameon=False)
  return figure


def _draw_expectation(
  ax: matplotlib.axes.Axes,
  measure: str,
  blocks: np.ndarray,
  signals: list[dict],
  run: str,
) -> None:
  expected = [row['expected_variance'] for row in signals]
  if measure == 'variance' and None not in expected and run != 'he':
    ax.plot(blocks, expected, 'k:', lw=1.5, zorder=5)
