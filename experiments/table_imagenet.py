r"""NFNet-F0 to F6 on ImageNet (paper A, Table 3 and Figure 1).

  python -m scripts.sweep --experiment=table_imagenet [--scale=cifar] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=table_imagenet

360 epochs at batch 4,096, learning rate 1.6, lambda 0.01: configs/nfnet_f0.py
and its siblings; F5 and F6 also with SAM. The accuracy is the averaged
parameters'. Latency is measured by the experiment figure_latency.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import nfnet_f0
from experiments import _papers, _trust

TITLE = "NFNets on ImageNet (paper A's Table 3 and Figure 1)"
CLAIM = (
  'NFNets reach from 83.6 % [P] (F0) to 86.5 % [P] (F6 with SAM) top-1 on '
  'ImageNet without extra data.'
)
SEEDS = (0, 1, 2)
SAM = {'sam.rho': 0.05, 'sam.ascent_fraction': 0.2}  # A.5, A.4
RUNS = {
  **{f'f{k}': {'model.name': f'nfnet_f{k}'} for k in range(6)},
  'f5_sam': {'model.name': 'nfnet_f5', **SAM},
  'f6_sam': {'model.name': 'nfnet_f6', **SAM},
}
# (top-1, multiply-adds in G at the evaluation size, TPUv3 ms, V100 ms).
TABLE = {
  'f0': (83.6, 12.38, 73.3, 56.7),
  'f1': (84.7, 35.54, 158.5, 133.9),
  'f2': (85.1, 62.59, 295.8, 226.3),
  'f3': (85.7, 114.76, 532.2, 524.5),
  'f4': (85.9, 215.24, 1033.3, 1190.6),
  'f5': (86.0, 289.76, 1398.5, 2177.1),
  'f5_sam': (86.3, 289.76, 1958.0, None),
  'f6_sam': (86.5, 377.28, 2774.1, None),
}
OTHERS = {  # where the table has no number: None
  'ResNet-50': (78.6, 4.10, 41.6, 35.3),
  'EffNet-B0': (77.1, 0.39, 51.1, 44.8),
  'SENet-50': (79.4, 4.09, 64.3, 59.4),
  'EffNet-B3': (81.6, 1.80, 129.5, 116.6),
  'LambdaNet-152': (83.0, None, 138.3, 135.2),
  'SENet-152': (83.1, 19.04, 149.9, 151.2),
  'BoTNet-110': (82.8, 10.90, 181.3, None),
  'EffNet-B4': (82.9, 4.20, 245.9, 221.6),
  'BoTNet-128-T5': (83.5, 19.30, 355.2, None),
  'SENet-350': (83.8, 52.90, 593.6, None),
  'EffNet-B5': (83.7, 9.90, 450.5, 458.9),
  'LambdaNet-350': (84.5, None, 471.4, None),
  'BoTNet-77-T6': (84.0, 23.30, 578.1, None),
  'LambdaNet-420': (84.8, None, 593.9, None),
  'EffNet-B6': (84.0, 19.00, 775.7, 868.2),
  'BoTNet-128-T7': (84.7, 45.80, 804.5, None),
  'EffNet-B7': (84.7, 37.00, 1397.0, 1753.3),
  'DeiT, 1,000 epochs': (85.2, None, None, None),
  'EffNet-B8 + MaxUp': (85.8, 62.50, None, None),
}
PAPER = {row: (cells[0], 'P', 'Table 3') for row, cells in TABLE.items()}
# The published weights' accuracy as timm evaluates them: nothing is trained.
TIMM = (83.468, 84.700, 85.184, 85.676, 85.838, 86.102, 86.364)
SCALES = _papers.scales(
  ('f0', 'f1'), width=8, depth=2, clipping=_papers.AGC_SCALE
)


def get_config(run: str) -> ConfigDict:
  """A variant's whole recipe, or scaled down: see `SCALES`."""
  config = nfnet_f0.get_config()
  return _papers.configure(config, RUNS, SCALES, run)


def cost(row: str) -> float:
  """TPUv3 chip-hours of one seed, from the paper's time of a step."""
  return _papers.hours_of_steps(TABLE[row][2], 112_602)


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """Each row that was run, within half a point of the published number."""
  return _papers.judge(records, _full, _scaled)


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Draws `figure.png` in the folder and returns the report as markdown."""
  records = list(records)
  _plot(_papers.rows_at(records, 'full'), folder)
  table = _papers.comparison(RUNS, PAPER, records, SCALES, cost)
  others = _papers.table(
    (
      'published beside them', 'top-1 % [P]', 'multiply-adds, G [P]',
      'TPUv3 ms [P]',
    ),
    [
      (name, *('–' if cell is None else cell for cell in cells[:3]))
      for name, cells in OTHERS.items()
    ],
  )  # fmt: skip
  weights = ', '.join(f'{number:.2f}' for number in TIMM)
  return (
    f'{table}\n\nThe published weights of F0 to F6, evaluated by timm at their '
    f'evaluation sizes: {weights} [T]. {_trust.legend("T")}\n\n'
    '![Figure 1: published ImageNet top-1 against the time of a step]'
    f'(figure.png)\n\n{others}'
  )


def _plot(rows: _papers.Rows, folder: Any) -> None:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(8, 4.2), layout='constrained')
  axis = figure.subplots()
  for cells, label, line in (
    (TABLE, 'NFNet, published [P]', 'o-'),
    (_family('EffNet'), 'EfficientNet, published [P]', 's--'),
    (_family('LambdaNet'), 'LambdaNet, published [P]', 'v--'),
    (_family('BoTNet'), 'BoTNet, published [P]', '^--'),
  ):
    points = [(row[2], row[0]) for row in cells.values() if row[2]]
    axis.plot(*zip(*points), line, label=label)
  found = [(TABLE[row][2], run.mean) for row, run in rows.items() if run.values]
  if found:
    axis.plot(*zip(*found), 'k*', ms=12, label='NFNet, here')
  for row, cells in TABLE.items():
    name = row.upper().replace('_', '+')
    place = {'xytext': (0, -13), 'textcoords': 'offset points', 'fontsize': 8}
    axis.annotate(name, (cells[2], cells[0]), ha='center', **place)
  axis.set_xscale('log')
  axis.set_xlabel('ms a training step, TPUv3, 32 images a core (published)')
  axis.set_ylabel('ImageNet top-1 (%)')
  axis.grid(alpha=0.3)
  axis.legend(loc='lower right', fontsize=8)
  figure.savefig(folder / 'figure.png', dpi=110)


def _family(prefix: str) -> dict[str, tuple]:
  return {k: v for k, v in OTHERS.items() if k.startswith(prefix)}


def _full(rows: _papers.Rows) -> tuple[str, str]:
  near = [
    not run.diverged and abs(run.mean - TABLE[row][0]) <= 0.5
    for row, run in rows.items()
  ]
  word = 'borne out' if all(near) else 'mixed' if any(near) else 'not borne out'
  told = ', '.join(
    f'{row} {run.text} (published {TABLE[row][0]} [P])'
    for row, run in rows.items()
  )
  return word, f'{told}.'


def _scaled(rows: _papers.Rows) -> str:
  told = [f'{row} {found.text}' for row, found in rows.items()]
  return f'{", ".join(told)} (% top-1).'
