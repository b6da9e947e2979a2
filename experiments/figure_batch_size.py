r"""Accuracy against batch size: BN, NF, NF + AGC (paper A, Figure 2a).

  python -m scripts.sweep --experiment=figure_batch_size [--scale=cifar] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=figure_batch_size

ResNet-50 and -200 for 90 epochs, learning rate 0.1 x batch / 256, 5 epochs of
warm-up, cosine to 0, in every arm. Lambda is 0.01, which paper A recommends for
1,024 to 4,096; which one its figure has at smaller batches isn't known here.
The paper shows the mean of the best 4 of 5 runs, this table that of all. Its
figure is read to ± 0.05 points; some markers lie hidden behind others.
"""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import nf_resnet_50, nf_resnet_50_agc, resnet_50
from experiments import _papers, _plots

TITLE = "Batch size: NF-ResNets with and without AGC (paper A's Figure 2a)"
CLAIM = (
  'Without AGC a normalizer-free ResNet matches batch normalization at small '
  'batches and collapses at 4,096; with AGC it keeps its accuracy there.'
)
BATCHES = (256, 512, 1024, 2048, 4096)
ARMS = {'bn': resnet_50, 'nf': nf_resnet_50, 'nf_agc': nf_resnet_50_agc}
LABELS = {'bn': 'BN', 'nf': 'NF', 'nf_agc': 'NF + AGC'}
SEEDS = (0, 1, 2, 3, 4)
RUNS = {
  f'{arm}_{depth}_bs{batch}': {
    'batch_size': batch,
    'model.name': f'{"resnet" if arm == "bn" else "nf_resnet"}_{depth}',
  }
  for depth in (50, 200)
  for arm in ARMS
  for batch in BATCHES
}
# Digitised; the markers of BN-50 and NF-50 at some batches lie hidden.
FIGURE = {
  'bn_50': (76.9, 76.8, 76.4, 76.8, 76.8),
  'nf_50': (76.6, 76.7, 76.9, 76.9, 'below 70'),
  'nf_agc_50': (76.8, 76.9, 77.0, 76.9, 76.7),
  'bn_200': (78.7, 79.0, 78.9, 79.0, 78.9),
  'nf_200': (79.3, 79.5, 79.5, 79.6, 'below 70'),
  'nf_agc_200': (79.2, 79.4, 79.6, 79.5, 79.2),
}
PAPER = {
  f'{arm}_bs{batch}': (number, 'D', 'Figure 2a')
  for arm, numbers in FIGURE.items()
  for batch, number in zip(BATCHES, numbers)
}
SCALES = _papers.scales(
  [f'{arm}_50_bs{batch}' for batch in (4096, 1024, 2048) for arm in ARMS],
  clipping=_papers.AGC_SCALE,
)
DIVISOR = SCALES['cifar']['batch']
GMACS = {'50': 4.09, '200': 15.01}  # at 224 pixels


def get_config(run: str) -> ConfigDict:
  """90 epochs of ImageNet in float32, or less: see `SCALES`."""
  row, _ = _papers.check(RUNS, SCALES, run)
  arm = row.partition('_50_')[0].partition('_200_')[0]
  return _papers.configure(ARMS[arm].get_config(), RUNS, SCALES, run)


def cost(row: str) -> float:
  """TPUv3 chip-hours of one seed."""
  return _papers.hours_of_macs(GMACS[row.split('_')[-2]], 90 * _papers.IMAGENET)


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """Both halves of the claim, at batch 4,096 and at 256."""
  return _papers.judge(records, _full, _scaled)


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Draws `figure.png` in the folder and returns the report as markdown."""
  records = list(records)
  _plot(_papers.rows_at(records, 'cifar'), folder)
  table = _papers.comparison(RUNS, PAPER, records, SCALES, cost)
  caption = (
    'test top-1 against batch size. Left: ImageNet, published [D]. Right, '
    f'scaled down: {SCALES["cifar"]["note"]}'
  )
  return f'{table}\n\n![{caption}](figure.png)'


def _plot(small: _papers.Rows, folder: Any) -> None:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(10, 4.6), layout='constrained')
  left, right = figure.subplots(1, 2)
  for index, (arm, label) in enumerate(LABELS.items()):
    for depth, line in (('50', '--'), ('200', '-')):
      numbers = FIGURE[f'{arm}_{depth}']
      points = [(b, n) for b, n in zip(BATCHES, numbers) if n != 'below 70']
      left.plot(
        *zip(*points), line, marker='o', color=f'C{index}',
        label=f'{label}, {depth} layers',
      )  # fmt: skip
      # Of two at one batch size, side by side, the hollow one has 50 layers.
      aside = 0.93 if depth == '50' else 1.07
      low = [aside * b for b, n in zip(BATCHES, numbers) if n == 'below 70']
      face = 'white' if depth == '50' else f'C{index}'
      _plots.lower_edge(left, low, 'v', color=f'C{index}', mfc=face, ms=9)
    rows = [(b, small.get(f'{arm}_50_bs{b}')) for b in BATCHES]
    points = [(b // DIVISOR, row.mean) for b, row in rows if row and row.values]
    if points:
      right.plot(*zip(*points), 'o-', color=f'C{index}', label=label)
    failed = [b // DIVISOR for b, row in rows if row and row.diverged]
    _plots.lower_edge(right, failed, 'x', color=f'C{index}', ms=9, mew=2)
  left.plot(
    [], [], 'v', color='0.4', ms=9, label='below 70 (hollow: 50 layers)'
  )
  right.plot([], [], 'x', color='0.4', ms=9, mew=2, label='diverged')
  left.set_title("ImageNet: paper A's Figure 2a, digitised [D]", fontsize=10)
  note = f'here, scaled down: {SCALES["cifar"]["note"]}'
  right.set_title(textwrap.fill(note, 72), fontsize=8)
  for axis, where in ((left, 'center left'), (right, 'best')):
    axis.set_xscale('log', base=2)
    axis.set_xlabel('batch size')
    axis.set_ylabel('test top-1 (%)')
    axis.grid(alpha=0.3)
    axis.legend(loc=where, fontsize=8)
  figure.savefig(folder / 'figure.png', dpi=110)


def _full(rows: _papers.Rows) -> tuple[str, str]:
  wanted = [f'{arm}_50_bs4096' for arm in ARMS]
  if not all(row in rows for row in wanted):
    return 'not run', 'The arms at batch 4,096 are not all there.'
  batch, plain, clipped = (rows[row] for row in wanted)
  collapses = bool(plain.diverged) or plain.mean < batch.mean - 5
  keeps = not clipped.diverged and clipped.mean > batch.mean - 0.5
  word = {2: 'borne out', 1: 'mixed', 0: 'not borne out'}[collapses + keeps]
  return word, (
    f'At batch 4,096 BN reaches {batch.text} %, NF {plain.text}, NF + AGC '
    f'{clipped.text}.'
  )


def _scaled(rows: _papers.Rows) -> str:
  at = {
    label: _papers.text_of(rows, f'{arm}_50_bs4096')
    for arm, label in LABELS.items()
  }
  numbers = ', '.join(f'{label} {text}' for label, text in at.items())
  return (
    f'at the largest batch ({4096 // DIVISOR} for 4,096): {numbers} (% top-1).'
  )
