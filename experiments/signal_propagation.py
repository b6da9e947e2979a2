"""Signal propagation at initialization (paper B, Figures 1 and 2).

  python -m scripts.signal_propagation --image_size=512
  python -m scripts.report --experiment=signal_propagation

Untrained networks on unit-normal images: the average squared channel mean, the
average channel variance and the residual branch's variance after every block.
The first command measures every row, in five minutes on two CPU cores;
`--model=NAME` measures any one model.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np
from ml_collections import ConfigDict

from experiments import _study, _trust
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
# Digitised from paper B's Figure 1 (600 layers at 512 pixels), at stage ends.
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
PIXELS = 512  # of that figure's images
CLOSE = 0.05  # relative; the figure's numbers are good to a few per cent
CHANNELS = (256, 512, 1024, 2048)
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
  config.image_size = image_size
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
  """By the normalizer-free network's formula and by its BN counterparts.

  Those are held against paper B's figure, see `_differences`.
  """
  found = {record['row']: record['signals'] for record in records}
  if missing := [run for run in ('nf', *PAPER) if run not in found]:
    return 'not run', f'{", ".join(missing)}: no record yet.'
  judged = [r for r in records if r['row'] in ('nf', *PAPER)]
  if {record['config']['image_size'] for record in judged} != {PIXELS}:
    return 'not run', f"Not all are at {PIXELS} pixels as paper B's figure."
  ends = _ends(found['nf'])
  ratios = [end['variance'] / end['expected_variance'] for end in ends]
  told = ', '.join(f'{ratio:.2f}' for ratio in ratios)
  steps = {run: _steps(found[run]) for run in ('nf', 'act_bn')}
  shown = {run: f'{np.mean(step):.2f}' for run, step in steps.items()}
  off = [each for run in PAPER for each in _differences(run, found[run])]
  beyond = [text for text, ratio, allowed in off if abs(ratio) > allowed]
  largest = max(off, key=lambda each: abs(each[1]))[0]
  return _study.weigh(
    {
      f'the variance at the end of the four stages is {told} times the '
      'expected one, within 5 %': all(abs(r - 1) <= CLOSE for r in ratios),
      'the squared mean is below 5 % of it': all(
        end['squared_mean'] < CLOSE * end['variance'] for end in ends
      ),
      f'it grows by a fixed step a block ({shown["nf"]}; {LABELS["act_bn"]}: '
      f'{shown["act_bn"]}) and starts again at every stage': all(
        all(each) for each in steps.values()
      ),
      "the batch-normalized networks have the numbers of paper B's figure, "
      'as far as reading and the draw of the weights let one tell '
      f'({"; ".join(beyond) or f"at most {largest}"})': not beyond,
    }
  )


def report(records: Sequence[Mapping[str, Any]], folder: Any) -> str:
  """Draws `signals.png` in the folder and returns the report as markdown."""
  records = sorted(records, key=lambda r: [*RUNS, r['row']].index(r['row']))
  results = {record['row']: record['signals'] for record in records}
  _plot(records).savefig(folder / 'signals.png', dpi=110)
  caption = _caption(records)
  off = [
    text
    for run in PAPER
    for text, ratio, _ in _differences(run, results.get(run, ()))
    if abs(ratio) > CLOSE
  ]
  scatter = ', '.join(f'{100 * math.sqrt(2 / c):.0f}' for c in CHANNELS)
  he = [r['squared_mean'] / r['variance'] for r in _ends(results.get('he', ()))]
  told = (
    f'With He init. the squared mean is {", ".join(f"{r:.1f}" for r in he)}'
  )
  two = ', '.join(f'{100 * 4 / math.sqrt(c):.0f}' for c in CHANNELS)
  return (
    f"At the end of each stage: {caption}. In brackets paper B's Figure 1 at "
    f"{PIXELS} pixels. The 'expected' variance is 1 + 0.04 j after j blocks of "
    'a stage. Zero padding takes some of it at the borders of small maps: the '
    'last stages of a normalizer-free network fall short of it on small '
    'images, most where the map has 4 x 4 pixels.'
    + (f' {told} times the variance.' if he else '')
    + f'\n\n{_table(results)}\n{_trust.legend("D")} Its numbers are taken as '
    f'good to 5 %. More than that apart: {"; ".join(off) or "none"}. Each row '
    'is one draw of weights. Over C channels a squared mean scatters by '
    f'sqrt(2 / C) between draws, {scatter} % in the four stages, so that two '
    f'draws may well be {two} % apart: beyond both is a difference for the '
    f'verdict.\n\n![signals: {caption}](signals.png)'
  )


def _differences(
  run: str, signals: Sequence[Mapping[str, Any]]
) -> list[tuple[str, float, float]]:
  """Measured against digitised: text, relative difference, what is allowed.

  A mean that is published as 0 is held against the variance.
  """
  found = []
  for measure, published in PAPER[run].items():
    for stage, (end, value) in enumerate(zip(_ends(signals), published), 1):
      scale = value or end['variance']
      ratio = (end[measure] - value) / scale
      drawn = measure == 'squared_mean' and value
      scatter = 4 / math.sqrt(CHANNELS[stage - 1]) if drawn else 0.0
      text = f'{LABELS[run]}, stage {stage}, {MEASURES[measure]} '
      text += f'{100 * ratio:+.1f} %'
      found.append((text, ratio, max(CLOSE, scatter)))
  return found


def _ends(signals: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  """The last row of each stage."""
  return list({row['stage']: row for row in signals}.values())


def _steps(signals: Sequence[Mapping[str, Any]]) -> list[float]:
  """A stage's growth of variance a block; 0 where it is no saw-tooth's.

  Within a stage it lies on a line to 5 %, and it starts at less than half of
  what the stage before ended with.
  """
  found, before = [], math.inf
  for stage in sorted({row['stage'] for row in signals}):
    values = [row['variance'] for row in signals if row['stage'] == stage]
    line = np.linspace(values[0], values[-1], len(values))
    straight = np.abs(values - line).max() <= CLOSE * values[-1]
    step = (values[-1] - values[0]) / max(1, len(values) - 1)
    found.append(step if straight and values[0] < before / 2 else 0.0)
    before = values[-1]
  return found


def _caption(records: Sequence[Mapping[str, Any]]) -> str:
  """Networks and data, by the records."""
  configs = [record['config'] for record in records]
  each = lambda values: ' and '.join(map(str, dict.fromkeys(values)))
  names = each(config['model']['name'] for config in configs)
  count = each(config['batch_size'] for config in configs)
  size = each(config['image_size'] for config in configs)
  return f'{names}, untrained, on {count} unit-normal images of {size} pixels'


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
  return f'{value:.3g}' + (f' ({paper[stage - 1]:g} [D])' if paper else '')


def _plot(records: Sequence[Mapping[str, Any]]) -> matplotlib.figure.Figure:
  results = {record['row']: record['signals'] for record in records}
  figure = matplotlib.figure.Figure(figsize=(12, 4.3), layout='constrained')
  figure.suptitle(_caption(records), fontsize=11)
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
  axes[1].plot([], [], 'kx', label="paper B's Figure 1 [D]")
  place = {'loc': 'outside lower center', 'ncols': 6, 'fontsize': 9}
  figure.legend(*axes[1].get_legend_handles_labels(), **place)
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
