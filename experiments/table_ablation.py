r"""What NFNet's pieces add, and its batch-normalized twin (paper A, Table 2).

  python -m scripts.sweep --experiment=table_ablation [--scale=cifar] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=table_ablation

Rows add up: the baseline (SE-ResNeXt-D's widths, one grouped 3x3), the modified
widths, the second 3x3, MixUp, RandAugment, CutMix beside MixUp, which is NFNet;
then NFNet with default widths, and with batch normalization for scaled weight
standardization. 360 epochs at batch 4,096, learning rate 1.6, lambda 0.01, in
every row; the accuracy is the averaged parameters'.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import nfnet_f0
from experiments import _papers, _plots

TITLE = "NFNet's pieces and its BN twin (paper A's Tables 2 and 6)"
CLAIM = (
  'Each piece of NFNet adds accuracy at every size from F0 to F3, and the '
  'network is as good as its batch-normalized twin in less time a step.'
)
SEEDS = (0, 1, 2)
MODELS = ('f0', 'f1', 'f2', 'f3')
DEFAULT_WIDTHS = (256, 512, 1024, 2048)
PLAIN = {'augment.mix': 'none', 'augment.randaugment_layers': 0}
PIECES = {
  'baseline': {
    'model.widths': DEFAULT_WIDTHS,
    'model.use_two_convs': False,
    **PLAIN,
  },
  'width': {'model.use_two_convs': False, **PLAIN},
  'two_convs': PLAIN,
  'mixup': {'augment.mix': 'mixup', 'augment.randaugment_layers': 0},
  'randaugment': {'augment.mix': 'mixup'},
  'cutmix': {},
  'default_width': {'model.widths': DEFAULT_WIDTHS},
  'batchnorm': {'model.normalizer': 'batch'},
}
RUNS = {
  f'{model}_{piece}': {'model.name': f'nfnet_{model}', **overrides}
  for model in MODELS
  for piece, overrides in PIECES.items()
}
TABLE = {
  'baseline': (80.4, 81.7, 82.0, 82.3),
  'width': (80.9, 81.8, 82.0, 82.3),
  'two_convs': (81.3, 82.2, 82.4, 82.7),
  'mixup': (82.2, 82.9, 83.1, 83.5),
  'randaugment': (83.2, 84.6, 84.8, 85.0),
  'cutmix': (83.6, 84.7, 85.1, 85.7),
  'default_width': (83.1, 84.5, 85.0, 85.5),
  'batchnorm': (83.4, 84.4, 85.1, 85.5),
}
PAPER = {
  f'{model}_{piece}': (number, 'P', 'Table 2, Table 6')
  for piece, numbers in TABLE.items()
  for model, number in zip(MODELS, numbers)
}
MS = {  # a step of 32 images a core on TPUv3 (paper A, Table 6)
  'baseline': (58.0, 116.0, 211.7, 369.5),
  'width': (64.1, 133.9, 252.2, 441.5),
  'default_width': (65.9, 137.4, 248.8, 452.2),
  'batchnorm': (111.7, 258.0, 396.3, 617.7),
}
MS_NFNET = (73.3, 158.5, 295.8, 532.2)  # the other rows: augmentation is free
SCALES = _papers.scales(
  [f'f0_{piece}' for piece in PIECES if piece != 'randaugment'],
  width=8,
  depth=2,
  clipping=_papers.AGC_SCALE,
  note=' (its shifts are in pixels of large images)',
)


def get_config(run: str) -> ConfigDict:
  """NFNet's recipe less some pieces, or scaled down: see `SCALES`."""
  config = nfnet_f0.get_config()
  return _papers.configure(config, RUNS, SCALES, run)


def cost(row: str) -> float:
  """TPUv3 chip-hours of one seed, from the paper's time of a step."""
  model, _, piece = row.partition('_')
  ms = MS.get(piece, MS_NFNET)[MODELS.index(model)]
  return _papers.hours_of_steps(ms, 112_602)


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """By the sizes whose rows are all there."""
  return _papers.judge(records, _full, _scaled)


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Draws `ablation.png` in the folder and returns the report as markdown."""
  records = list(records)
  found, small = (_papers.rows_at(records, s) for s in ('full', 'cifar'))
  _plot(found, small, folder)
  table = _papers.comparison(RUNS, PAPER, records, SCALES, cost)
  caption = 'top-1 of each row. ImageNet, NFNet-F0 to F3: published [P]'
  caption += ' and here' if found else ''
  if small:
    caption += f'. NFNet-F0 scaled down: {SCALES["cifar"]["note"]}'
  return f'{table}\n\n![{caption}](ablation.png)'


def _plot(found: _papers.Rows, small: _papers.Rows, folder: Any) -> None:
  from matplotlib.figure import Figure

  columns = 2 if small else 1
  figure = Figure(figsize=(6 * columns, 4.4), layout='constrained')
  axes = figure.subplots(1, columns, squeeze=False)[0]
  axis = axes[0]
  for index, model in enumerate(MODELS):
    numbers = [TABLE[piece][index] for piece in PIECES]
    color, label = f'C{index}', f'{model.upper()}, published [P]'
    axis.plot(list(PIECES), numbers, 'o--', color=color, label=label)
    ours = [(p, found.get(f'{model}_{p}')) for p in PIECES]
    points = [(piece, row.mean) for piece, row in ours if row and row.values]
    if points:
      axis.plot(*zip(*points), 's', color=color, label=f'{model.upper()}, here')
  axis.set_title('NFNet-F0 to F3 on ImageNet, 360 epochs', fontsize=10)
  axis.set_ylabel('ImageNet top-1 (%)')
  axis.legend(loc='lower right', fontsize=8)
  if small:
    ours = {p: small.get(f'f0_{p}') for p in PIECES}
    done = {p: row.mean for p, row in ours.items() if row and row.values}
    gone = [p for p, row in ours.items() if row and row.diverged]
    axes[1].plot(list(PIECES), [math.nan] * len(PIECES))  # the order
    axes[1].plot(list(done), list(done.values()), 's', color='C0')
    _plots.lower_edge(axes[1], gone, 'x', color='C0', ms=9, mew=2)
    note = f'F0 here, scaled down: {SCALES["cifar"]["note"]}'
    counts = sorted({_papers.count_of(small, row) for row in small})
    note += f'; runs a row: {" or ".join(counts)}; x: diverged'
    axes[1].set_title(textwrap.fill(note, 80), fontsize=8)
    axes[1].set_ylabel('CIFAR-10 test top-1 (%)')
  for axis in axes:
    axis.grid(alpha=0.3)
    axis.tick_params(axis='x', rotation=30)
  figure.savefig(folder / 'ablation.png', dpi=110)


def _full(rows: _papers.Rows) -> tuple[str, str]:
  grows, told = [], []
  ladder = ('baseline', 'width', 'two_convs', 'mixup', 'randaugment', 'cutmix')
  for model in MODELS:
    steps = [rows.get(f'{model}_{piece}') for piece in ladder]
    twin = rows.get(f'{model}_batchnorm')
    if not all(steps) or not twin or any(row.diverged for row in steps):
      continue
    means = [row.mean for row in steps]
    pairs = zip(means, means[1:])
    # The paper's own ladder has steps of 0.0 at F2 and F3.
    grows.append(all(b > a - 0.1 for a, b in pairs))
    grows.append(bool(twin.diverged) or means[-1] > twin.mean - 0.3)
    told.append(f'{model}: {means[0]:.1f} to {means[-1]:.1f}, BN {twin.text}')
  if not grows:
    return 'not run', 'No size has all of its rows.'
  word = 'borne out' if all(grows) else 'mixed' if any(grows) else ''
  return word or 'not borne out', f'{"; ".join(told)} (% top-1).'


def _scaled(rows: _papers.Rows) -> str:
  told = [
    f'{row.removeprefix("f0_").replace("_", " ")} {found.text}'
    for row, found in rows.items()
  ]
  return f"F0's rows: {', '.join(told)} (% top-1)."
