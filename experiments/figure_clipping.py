r"""AGC's threshold against batch size (paper A, Figure 2b).

  python -m scripts.sweep --experiment=figure_clipping [--scale=cifar] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=figure_clipping

NF-ResNet-50 for 90 epochs, learning rate 0.1 x batch / 256, 5 epochs of
warm-up, cosine to 0. The figure's numbers weren't found: what the paper's text
says of it is what is judged.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import nf_resnet_50_agc
from experiments import _compare, _papers, _plots, _study

TITLE = "AGC's threshold and the batch size (paper A's Figure 2b)"
CLAIM = (
  'The larger the batch, the smaller lambda must be: at batch 4,096 it takes '
  '0.01, while smaller batches train with any lambda up to 0.16.'
)
BATCHES = (256, 512, 1024, 2048, 4096)
CLIPPINGS = (0.01, 0.02, 0.04, 0.08, 0.16)
SEEDS = (0, 1, 2, 3, 4)
RUNS = {
  f'bs{batch}_clip{clipping}': {
    'batch_size': batch,
    'optimizer.clipping': clipping,
  }
  for batch in BATCHES
  for clipping in CLIPPINGS
}
PAPER: dict[str, tuple] = {}
SCALES = _papers.scales(
  [row for row in RUNS if row.startswith(('bs1024', 'bs4096'))],
  clipping=_papers.AGC_SCALE,
)
DIVISOR = SCALES['cifar']['batch']
AT_CHANCE = 2 * _study.CHANCE  # %: below it, nothing was learnt


def get_config(run: str) -> ConfigDict:
  """90 epochs of ImageNet in float32, or less: see `SCALES`."""
  config = nf_resnet_50_agc.get_config()
  return _papers.configure(config, RUNS, SCALES, run)


def cost(row: str) -> float:
  """TPUv3 chip-hours of one seed."""
  del row
  return _papers.hours_of_macs(4.09, 90 * _papers.IMAGENET)


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """Whether the best lambda falls from the smallest to the largest batch."""
  return _papers.judge(records, _full, _scaled)


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Draws `figure.png` in the folder, if there is anything to draw."""
  records = list(records)
  table = _papers.comparison(RUNS, PAPER, records, SCALES, cost)
  rows = _papers.rows_at(records, 'cifar')
  if not rows:
    return table
  _plot(rows, folder)
  note = SCALES['cifar']['note']
  return (
    f'{table}\n\n![accuracy against lambda. Scaled down: {note}](figure.png)'
  )


def _plot(rows: _papers.Rows, folder: Any) -> None:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7.5, 4.4), layout='constrained')
  axis = figure.subplots()
  for index, batch in enumerate(BATCHES):
    found = [(c, rows.get(f'bs{batch}_clip{c}')) for c in CLIPPINGS]
    points = [(c, row.mean) for c, row in found if row and row.values]
    if points:
      label = f'{batch} (here {batch // DIVISOR})'
      axis.plot(*zip(*points), '-', color=f'C{index}')
      axis.plot([], [], 'o-', color=f'C{index}', label=label)
      for clipping, top_1 in points:
        face = 'white' if top_1 < AT_CHANCE else f'C{index}'
        axis.plot(clipping, top_1, 'o', color=f'C{index}', mfc=face, ms=7)
    failed = [c for c, row in found if row and row.diverged]
    _plots.lower_edge(axis, failed, 'x', color=f'C{index}', ms=9, mew=2)
  gray = {'color': '0.4', 'ms': 8}
  axis.plot([], [], 'o', mfc='white', label='at chance', **gray)
  axis.plot([], [], 'x', mew=2, label='diverged', **gray)
  note = f'here, scaled down: {SCALES["cifar"]["note"]}'
  axis.set_title(textwrap.fill(note, 90), fontsize=8)
  axis.set_xscale('log', base=2)
  axis.set_xticks(CLIPPINGS, [f'{c:g}' for c in CLIPPINGS])
  axis.set_xlabel(f'lambda at full size (here x {_papers.AGC_SCALE})')
  axis.set_ylabel('test top-1 (%)')
  axis.grid(alpha=0.3)
  axis.legend(title='batch size', loc='lower left', fontsize=8)
  figure.savefig(folder / 'figure.png', dpi=110)


def _best(rows: _papers.Rows, batch: int) -> tuple[float, str]:
  """The best lambda among a batch size's finished rows, and by how much."""
  found = sorted(
    (
      (row.mean, clipping, len(row.values))
      for clipping in CLIPPINGS
      if (row := rows.get(f'bs{batch}_clip{clipping}')) and not row.diverged
    ),
    reverse=True,
  )
  if not found:
    return math.nan, ''
  mean, best, count = found[0]
  told = f'{mean:.2f} %'
  if not found[1:]:
    return best, f'{told}, {_runs(count)}'
  after, clipping, other = found[1]
  told += f', {mean - after:.2f} points above {clipping:g}, {_runs(count)}'
  return best, told + (f' against {other}' if other != count else ' each')


def _runs(count: int) -> str:
  return 'one run' if count == 1 else f'{count} runs'


def _full(rows: _papers.Rows) -> tuple[str, str]:
  (small, small_told), (large, large_told) = (
    _best(rows, batch) for batch in (256, 4096)
  )
  if math.isnan(small + large):
    return 'not run', 'Batches 256 and 4,096 are not both there.'
  word = 'borne out' if large < small and large == 0.01 else 'not borne out'
  return word, (
    f'The best lambda is {small:g} at batch 256 ({small_told}) and '
    f'{large:g} at 4,096 ({large_told}).'
  )


def _scaled(rows: _papers.Rows) -> str:
  found = {batch: _best(rows, batch) for batch in BATCHES}
  told = '; '.join(
    f'{best:g} at batch {batch // DIVISOR} for {batch:,} ({text})'
    for batch, (best, text) in found.items()
    if text
  )
  return (
    f'the best lambda among those run, as at full size (here x '
    f'{_papers.AGC_SCALE}), is {told}. Single runs less than '
    f'{_compare.ONE_RUN:.1f} points apart have no order. {_compare.BORROWED}'
  )
