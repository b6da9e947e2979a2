r"""The largest stable learning rate: BN, NF, NF with AGC. CIFAR-10.

  python -m scripts.sweep --experiment=learning_rate [--scale=cpu] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=learning_rate

Rows 'x4' and so on multiply the study's learning rate: 0.1 x batch / 128 after
a linear warm-up over 5 % of the steps, cosine to 0, Nesterov momentum 0.9,
weight decay 5e-4 on weights. AGC's lambda is 20.48 / batch: 0.16 at 128, 0.02
at 1024. A rate is stable if the run ends, at half of its network's best
accuracy at this batch or more, and at twice chance or more. Rates are tried in
steps of a factor of 4: that is how well the largest stable one is known. The 13
epochs of scale cpu's 10,000 images are 126 updates at 1024, too few to judge
AGC: what they show is told, not weighed.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _plots, _study

TITLE = 'The largest stable learning rate'
CLAIM = (
  'Batch normalization allows larger learning rates than a normalizer-free '
  'network, and AGC gives them back.'
)
PAPER = {}
SEEDS = (0,)
FACTORS = {128: (1, 4, 16, 64), 1024: (1 / 4, 1, 4, 16, 64)}
BATCH_SIZES = tuple(FACTORS)
NETWORKS = {
  'batch': {'model.normalizer': 'batch'},
  'nf': {'model.normalizer': 'nf'},
  'nf_agc': {'model.normalizer': 'nf', 'optimizer.clip': 'agc'},
}
NAMES = {
  'batch': 'batch normalization',
  'nf': 'normalizer-free',
  'nf_agc': 'normalizer-free, AGC',
}
RUNS = {
  f'{network}_b{size}_x{factor:g}': {
    'batch_size': size,
    'learning_rate_factor': float(factor),
    'optimizer.clipping': 20.48 / size,
    **overrides,
  }
  for size in BATCH_SIZES
  for factor in FACTORS[size]
  for network, overrides in NETWORKS.items()
}
LABELS = {
  f'{network}_b{size}_x{factor:g}': (
    f'{name}, batch {size}, rate {0.1 * size / 128 * factor:g}'
  )
  for size in BATCH_SIZES
  for factor in FACTORS[size]
  for network, name in NAMES.items()
}
SCALES = _cifar.scales(own_batch=True)


def get_config(run: str) -> ConfigDict:
  """One network, batch and learning rate, for 100 epochs."""
  return _study.configure(_cifar.resnet20(), RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws `learning_rate.png` for each scale; returns the markdown."""

  def section(found: Sequence, note: str, suffix: str) -> str:

    rows = _study.gather(found)
    sizes = [s for s in BATCH_SIZES if any(f'_b{s}_' in row for row in rows)]
    made = _plots.figure(max(7, 5 * len(sizes)), 4.2, TITLE, note)
    axes = made.subplots(1, len(sizes), squeeze=False)[0]
    for ax, size in zip(axes, sizes):
      series = {
        name: {
          0.1 * size / 128 * factor: f'{network}_b{size}_x{factor:g}'
          for factor in FACTORS[size]
        }
        for network, name in NAMES.items()
      }
      _plots.lines(ax, rows, series)
      title = f'batch {size}'
      _plots.finish(ax, 'peak learning rate', 'test top-1 (%)', title)
    _plots.legend(made, axes[0])
    caption = f'{TITLE}: {note}'
    picture = _plots.save(made, folder, f'learning_rate{suffix}', caption)
    lines = [
      f'- {NAMES[network]}, batch {size}: {_limit(rows, network, size)}'
      for size in sizes
      for network in NETWORKS
    ]
    runs = _study.runs_of(found, RUNS, SCALES)
    return (
      'Largest stable learning rate:\n\n' + '\n'.join(lines) + '\n\n'
      f'{_plots.table(found, runs, LABELS)}\n{picture}'
    )

  return _plots.sections(records, SCALES, section)


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """Compares the largest stable rates at every batch that was run."""

  def of_scale(rows: Mapping[str, _study.Row]) -> _study.Judgement:
    findings, told = {}, ''
    for size in BATCH_SIZES:
      mine = [run for run in RUNS if f'_b{size}_' in run]
      if not set(mine) <= set(rows):
        continue
      batch, nf, agc = (largest(rows, network, size) for network in NETWORKS)
      limits = {network: _limit(rows, network, size) for network in NETWORKS}
      if _study.too_short(rows[run] for run in mine):
        names = '; '.join(f'{NAMES[n]} {limits[n]}' for n in NETWORKS)
        told = (
          f' Batch {size}, {rows[mine[0]].updates} updates, is too short to '
          f'tell: {names}.'
        )
        continue
      findings[
        f'at batch {size} batch normalization allows more ({limits["batch"]}) '
        f'than the normalizer-free network ({limits["nf"]})'
      ] = _unless_at_one_edge(batch > nf, batch, nf, size)
      findings[f'with AGC that one takes as much ({limits["nf_agc"]})'] = (
        _unless_at_one_edge(agc >= batch, agc, batch, size)
      )
    if not findings:
      word = 'too short to tell' if told else 'not run'
      return word, told.strip() or 'no batch size has all its records yet.'
    word, why = _study.weigh(findings)
    return word, why + told

  return _study.judge(records, SCALES, of_scale, updates=0)


def largest(rows: Mapping[str, _study.Row], network: str, size: int) -> float:
  """The largest stable learning rate of those run; 0 if there is none."""
  worth = {
    factor: rows[f'{network}_b{size}_x{factor:g}'].worth
    for factor in FACTORS[size]
    if f'{network}_b{size}_x{factor:g}' in rows
  }
  floor = max(max(worth.values(), default=0) / 2, 2 * _study.CHANCE)
  stable = [factor for factor, value in worth.items() if value >= floor]
  return 0.1 * size / 128 * max(stable, default=0)


def _unless_at_one_edge(
  found: bool, a: float, b: float, size: int
) -> bool | str:
  """Undecided if both limits lie beyond one end of the rates tried."""
  edges = 0, 0.1 * size / 128 * max(FACTORS[size])
  return 'undecided' if a == b and a in edges else found


def _limit(rows: Mapping[str, _study.Row], network: str, size: int) -> str:
  """The largest stable rate in words; both ends of what was tried say so."""
  factors = [f for f in FACTORS[size] if f'{network}_b{size}_x{f:g}' in rows]
  if not factors:
    return 'not run'
  rate = largest(rows, network, size)
  unit = 0.1 * size / 128
  if not rate:
    return f'below {unit * min(factors):g}, the smallest tried'
  edge = ' or more' if rate == unit * max(factors) else ''
  return f'{rate:g}{edge}'
