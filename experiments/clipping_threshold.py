r"""Plain gradient clipping over thresholds, at two learning rates. CIFAR-10.

  python -m scripts.sweep --experiment=clipping_threshold [--scale=cpu] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=clipping_threshold

The normalizer-free ResNet-20, all gradients but the head's clipped to a common
norm. Rows 'lr1': learning rate 0.1 x batch / 128 after a linear warm-up over
5 % of the steps, cosine to 0, Nesterov momentum 0.9, weight decay
5e-4 on weights. Rows 'lr4': four times the rate. A threshold is among the best
unless it is worse by more than seeds explain, 4.5 points of single runs. The
threshold matters if the five are further apart than five equal rows would be by
chance, 6.2 points. Both take the spread over seeds of ResNet-20 at scale cpu.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _compare, _plots, _study

TITLE = 'Plain gradient clipping: how much the threshold matters'
CLAIM = (
  'What plain gradient clipping gives a normalizer-free ResNet-20 depends on '
  'the threshold, and the best threshold on the learning rate.'
)
PAPER = {}
SEEDS = (0,)
RATES = (1, 4)
THRESHOLDS = (0.03, 0.1, 0.3, 1.0, 3.0)
EDGES = {
  'below the smallest': min(THRESHOLDS),
  'above the largest': max(THRESHOLDS),
}
RUNS = {
  f'lr{rate}_t{threshold:g}': {
    'learning_rate_factor': float(rate),
    'optimizer.clip': 'norm',
    'optimizer.clipping': threshold,
  }
  for rate in RATES
  for threshold in THRESHOLDS
} | {f'lr{rate}_none': {'learning_rate_factor': float(rate)} for rate in RATES}
LABELS = {
  f'lr{rate}_t{threshold:g}': f'rate x {rate}, norm at most {threshold:g}'
  for rate in RATES
  for threshold in THRESHOLDS
} | {f'lr{rate}_none': f'rate x {rate}, not clipped' for rate in RATES}
SCALES = _cifar.scales()


def get_config(run: str) -> ConfigDict:
  """Batch 1024 for 100 epochs, or less of both: see `SCALES`."""
  config = _cifar.resnet20('nf', batch_size=1024)
  return _study.configure(config, RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws `threshold.png` for each scale; returns the report as markdown."""

  def section(found: Sequence, note: str, suffix: str) -> str:

    rows = _study.gather(found)
    made = _plots.figure(7, 4.2, TITLE, note)
    ax = made.subplots()
    series = {
      f'learning rate x {rate}': {t: f'lr{rate}_t{t:g}' for t in THRESHOLDS}
      for rate in RATES
    }
    _plots.lines(
      ax,
      rows,
      series,
      {label: f'lr{rate}_none' for label, rate in zip(series, RATES)},
      'not clipped',
    )
    _plots.finish(ax, 'threshold of the norm', 'test top-1 (%)')
    _plots.legend(made, ax, columns=3)
    caption = f'{TITLE}: {note}'
    picture = _plots.save(made, folder, f'threshold{suffix}', caption)
    return f'{_plots.table(found, RUNS, LABELS)}\n{picture}'

  return _plots.sections(records, SCALES, section)


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """Whether the threshold matters, and another one at another rate."""

  def of_scale(rows: Mapping[str, _study.Row]) -> _study.Judgement:
    if missing := _study.missing(RUNS, rows):
      return 'not run', missing
    findings, best, edges = {}, {}, ''
    for rate in RATES:
      mine = {t: rows[f'lr{rate}_t{t:g}'] for t in THRESHOLDS}
      best[rate] = _compare.contenders(mine)
      low, *_, high = sorted(mine.values(), key=lambda row: row.worth)
      findings[
        f'at rate x {rate} the threshold matters ({low.text} to {high.text})'
      ] = _compare.spans(mine.values())
      plain = rows[f'lr{rate}_none'].text
      edges += ''.join(
        f' At rate x {rate} the best may lie {beyond} tried, {edge:g} '
        f'({mine[edge].text}; not clipped {plain}).'
        for beyond, edge in EDGES.items()
        if edge in best[rate]
      )
    text = '; '.join(
      f'{_compare.either(values)} at rate x {rate}'
      for rate, values in best.items()
    )
    findings[f'the best threshold depends on the rate ({text})'] = _depends(
      *map(set, best.values())
    )
    word, why = _study.weigh(findings)
    return word, why + edges

  return _study.judge(records, SCALES, of_scale, updates=0)


def _depends(a: set[float], b: set[float]) -> bool | str:
  """Whether the best of two sets differ; undecided if they may be the same.

  At one end of what was tried, both may go on beyond it, apart.
  """
  if not a & b:
    return True
  inside = len(a | b) == 1 and not a & set(EDGES.values())
  return False if inside else _compare.UNDECIDED
