r"""NF-ResNets against FixUp, SkipInit and BN by depth (paper B, Table 1).

  python -m scripts.sweep --experiment=table_depth [--scale=cifar] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=table_depth

90 epochs at batch 1,024, learning rate 0.4, 5 epochs of warm-up, cosine to 0,
no clipping; weight decay 1e-4 as released (from memory, the paper has 5e-5).
'_reg' adds stochastic depth 0.1 and dropout 0.25.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import fixup_resnet_50, nf_resnet_50, resnet_50, skipinit_resnet_50
from experiments import _papers

TITLE = "Depth: FixUp, SkipInit, NF and BN (paper B's Table 1)"
CLAIM = (
  'At every depth from 50 to 288 layers a normalizer-free ResNet is better '
  'than FixUp and SkipInit, and with regularization about as good as batch '
  'normalization.'
)
BASES = {
  'fixup': fixup_resnet_50,
  'skipinit': skipinit_resnet_50,
  'nf': nf_resnet_50,
  'bn': resnet_50,
}
PREFIX = {
  'fixup': 'fixup_resnet',
  'skipinit': 'skipinit_resnet',
  'nf': 'nf_resnet',
  'bn': 'resnet',
}
DEPTHS = (50, 101, 152, 200, 288)
RATES = {
  '': {'model.drop_rate': 0.0, 'model.stochdepth_rate': 0.0},
  '_reg': {'model.drop_rate': 0.25, 'model.stochdepth_rate': 0.1},
}
SEEDS = (0, 1, 2, 3, 4)
RUNS = {
  f'{arm}_{depth}{suffix}': {
    'model.name': f'{PREFIX[arm]}_{depth}',
    **rates,
  }
  for depth in DEPTHS
  for suffix, rates in RATES.items()
  for arm in BASES
}
# (without, with regularization); all from memory but NF-288's second.
TABLE = {
  'fixup': (
    (74.0, 75.9), (75.4, 77.6), (75.8, 78.4), (76.2, 78.7), (76.2, 78.4),
  ),
  'skipinit': (
    (73.7, 75.8), (75.1, 77.3), (75.7, 78.0), (75.9, 78.2), (76.3, 78.7),
  ),
  'nf': ((75.8, 76.8), (77.1, 78.4), (77.6, 79.1), (77.9, 79.6), (78.1, 79.5)),
  'bn': ((76.8, 76.4), (78.0, 78.1), (78.6, 78.8), (79.0, 79.2), (78.8, 79.5)),
}  # fmt: skip
PAPER = {
  f'{arm}_{depth}{suffix}': (number, 'M', 'Table 1')
  for arm, table in TABLE.items()
  for depth, numbers in zip(DEPTHS, table)
  for suffix, number in zip(RATES, numbers)
} | {'nf_288_reg': (79.5, 'S', 'Table 1')}
SCALES = _papers.scales(
  [f'{arm}_50{suffix}' for suffix in RATES for arm in BASES], batch=16
)
GMACS = {'50': 4.09, '101': 7.80, '152': 11.51, '200': 15.01, '288': 21.56}


def get_config(run: str) -> ConfigDict:
  """90 epochs of ImageNet in float32, or less: see `SCALES`."""
  row, _ = _papers.check(RUNS, SCALES, run)
  config = BASES[row.split('_')[0]].get_config()
  return _papers.configure(config, RUNS, SCALES, run)


def cost(row: str) -> float:
  """TPUv3 chip-hours of one seed."""
  return _papers.hours_of_macs(GMACS[row.split('_')[1]], 90 * _papers.IMAGENET)


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """By the depths whose four regularized arms are all there."""
  return _papers.judge(records, _full, _scaled)


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Returns the report as markdown."""
  del folder
  return _papers.comparison(RUNS, PAPER, records, SCALES, cost)


def _full(rows: _papers.Rows) -> tuple[str, str]:
  wins, told = [], []
  for depth in DEPTHS:
    found = {arm: rows.get(f'{arm}_{depth}_reg') for arm in BASES}
    if not all(found.values()):
      continue
    told.append(
      f'{depth} layers: '
      + ', '.join(f'{arm} {row.text}' for arm, row in found.items())
    )
    wins.append(
      not found['nf'].diverged
      and _above(found, 'fixup')
      and _above(found, 'skipinit')
      and _above(found, 'bn', margin=0.5)
    )
  if not wins:
    return 'not run', 'No depth has its four regularized arms.'
  word = 'borne out' if all(wins) else 'mixed' if any(wins) else 'not borne out'
  return word, f'Regularized, {"; ".join(told)}.'


def _scaled(rows: _papers.Rows) -> str:
  told = [f'{row} {found.text}' for row, found in rows.items()]
  return f'a block a stage: {", ".join(told)} (% top-1).'


def _above(found: _papers.Rows, arm: str, margin: float = 0.0) -> bool:
  """Whether NF is better than an arm, or at most a margin worse."""
  other = found[arm]
  return bool(other.diverged) or found['nf'].mean > other.mean - margin
