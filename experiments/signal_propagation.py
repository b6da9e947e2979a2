"""Signal propagation at initialization (paper B, Figures 1 and 2).

  python -m scripts.signal_propagation --image_size=512
  python -m scripts.report --experiment=signal_propagation

Untrained networks on unit-normal images: the average squared channel mean, the
average channel variance and the residual branch's variance after every block.
The first command measures every row, in five minutes on two CPU cores;
`--model=NAME` measures any one model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np
from ml_collections import ConfigDict

from nfnets.analysis import signal, tables

TITLE = 'Signal propagation at initialization'
CLAIM = (
  'Without any normalization layer, scaled weight standardization and alpha '
  'give the signal of a batch-normalized ResNet: variance that grows by a '
  'fixed step per block and starts again at every stage, and no mean.'
)
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
  """One row per block, see `signal.Signal`, to five digits."""
  overrides = config.model.to_dict()
  name = overrides.pop('name')
  size = (config.batch_size, config.image_size)
  signals = signal.measure_noise(name, config.seed, *size, **overrides)
  return [
    {key: _rounded(value) for key, value in vars(row).items()}
    for row in signals
  ]


def verdict(records: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
  """Whether each stage's last variance is within 5 % of what is expected."""
  found = {record['row']: record for record in records}
  if 'nf' not in found:
    return 'not run', 'The normalizer-free network is not measured.'
  ends = {row['stage']: row for row in found['nf']['signals']}  # the last wins
  ratios = {
    stage: row['variance'] / row['expected_variance']
    for stage, row in ends.items()
  }
  good = [abs(ratio - 1) <= 0.05 for ratio in ratios.values()]
  means = [
    row['squared_mean'] < 0.05 * row['variance'] for row in ends.values()
  ]
  word = 'borne out' if all(good + means) else 'mixed'
  told = ', '.join(f'{ratio:.2f}' for ratio in ratios.values())
  size = found['nf']['config']['image_size']
  return word if any(good + means) else 'not borne out', (
    f'At {size} pixels the variance at the end of the four stages is {told} '
    'times the expected one; the squared mean is '
    + ('below 5 % of it in all.' if all(means) else 'not small in all.')
  )


def report(records: Sequence[Mapping[str, Any]], folder: Any) -> str:
  """Draws `signals.png` in the folder and returns the report as markdown."""
  records = sorted(records, key=lambda r: [*RUNS, r['row']].index(r['row']))
  results = {record['row']: record['signals'] for record in records}
  _plot(results).savefig(folder / 'signals.png', dpi=110)
  sizes = sorted({record['config']['image_size'] for record in records})
  return (
    f'At the end of each stage, on unit-normal images of '
    f'{", ".join(map(str, sizes))} pixels. In '
    "brackets paper B's Figure 1, digitised, at 512 pixels. The 'expected' "
    'variance is 1 + 0.04 j after j blocks of a stage. Zero padding takes some '
    'variance at the borders of small maps: the last stages of a normalizer-'
    'free network fall short of it on small images, most where the map has '
    f'4 x 4 pixels. Without normalization the mean outgrows the variance, as '
    f'in the paper.\n\n{_table(results)}\n![signals](signals.png)'
  )


def _rounded(value: object) -> object:
  return float(f'{value:.5g}') if isinstance(value, float) else value


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
      expected = last['expected_variance'] if run != 'he' else None
      expected = '' if expected is None else f'{expected:.3g}'
      label = LABELS.get(run, run)
      rows.append((label, stage, len(inside), *cells, expected))
  return tables.markdown(header, rows)


def _with_paper(run: str, measure: str, stage: int, value: float) -> str:
  paper = PAPER.get(run, {}).get(measure)
  return f'{value:.3g}' + (f' ({paper[stage - 1]:g})' if paper else '')


def _plot(results: dict[str, list[dict]]) -> matplotlib.figure.Figure:
  figure = matplotlib.figure.Figure(figsize=(12, 4), layout='constrained')
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
  axes[1].plot([], [], 'k:', label='expected: 1 + 0.04 j')
  axes[1].plot([], [], 'kx', label="paper B's Figure 1")
  handles, labels = axes[1].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside lower center', ncols=6)
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
