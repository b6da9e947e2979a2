r"""Sharpness-aware minimization on ImageNet (SAM's paper, and paper A's A.4).

  python -m scripts.sweep --experiment=sam_imagenet [--scale=cifar] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=sam_imagenet

ResNets at batch 4,096, learning rate 1.0 (cosine), momentum 0.9, weight decay
1e-4, label smoothing 0.1, rho 0.05, with the whole batch for the ascent; the
networks are this repository's pre-activation ResNets, their paper's aren't
known to be. NFNet-F5 with paper A's ascent on a fifth of the batch. SAM's paper
is arXiv 2010.01412; its Table 2 has errors, here turned to accuracy.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import nfnet_f0, resnet_50
from experiments import _papers

TITLE = 'SAM on ImageNet'
CLAIM = (
  'SAM raises the accuracy of ResNets and of NFNet-F5, and the more the longer '
  'they train.'
)
SEEDS = (0, 1, 2)
RESNET = {
  'batch_size': 4096,
  'learning_rate': 1.0,
  'optimizer.nesterov': False,
  'optimizer.weight_decay': 1e-4,
}
SAM = {'sam.rho': 0.05, 'sam.ascent_fraction': 1.0}
# Errors in % without SAM and with it, after 100, 200 and 400 epochs.
ERRORS = {
  '50': ((22.9, 22.5), (22.3, 21.4), (22.3, 20.9)),
  '101': ((21.2, 20.2), (20.9, 19.4), (22.3, 19.0)),
  '152': ((20.4, 19.2), (20.3, 18.5), (20.9, 18.4)),
}
EPOCHS = (100, 200, 400)
RUNS = {
  f'resnet_{depth}_{epochs}{suffix}': {
    'model.name': f'resnet_{depth}',
    'num_epochs': float(epochs),
    **RESNET,
    **sam,
  }
  for depth in ERRORS
  for epochs in EPOCHS
  for suffix, sam in (('', {}), ('_sam', SAM))
} | {
  'f5': {'model.name': 'nfnet_f5'},
  'f5_sam': {
    'model.name': 'nfnet_f5',
    'sam.rho': 0.05,
    'sam.ascent_fraction': 0.2,
  },
}
PAPER = {
  f'resnet_{depth}_{epochs}{suffix}': (round(100 - error, 1), 'R', 'Table 2')
  for depth, table in ERRORS.items()
  for epochs, errors in zip(EPOCHS, table)
  for suffix, error in zip(('', '_sam'), errors)
} | {'f5': (86.0, 'P', 'Table 3'), 'f5_sam': (86.3, 'P', 'Table 3')}
SCALES = _papers.scales(('resnet_50_100', 'resnet_50_100_sam'))
GMACS = {'50': 4.09, '101': 7.80, '152': 11.51}
MS = {'f5': 1398.5, 'f5_sam': 1958.0}  # paper A, Table 3


def get_config(run: str) -> ConfigDict:
  """A ResNet's or F5's recipe, or scaled down: see `SCALES`."""
  row, _ = _papers.check(RUNS, SCALES, run)
  base = resnet_50 if row.startswith('resnet') else nfnet_f0
  return _papers.configure(base.get_config(), RUNS, SCALES, run)


def cost(row: str) -> float:
  """TPUv3 chip-hours of one seed: SAM's whole ascent is a second pass."""
  if row in MS:
    return _papers.hours_of_steps(MS[row], 112_602)
  _, depth, epochs = row.removesuffix('_sam').split('_')
  passes = 2 if row.endswith('_sam') else 1
  images = int(epochs) * _papers.IMAGENET
  return _papers.hours_of_macs(GMACS[depth], images, passes)


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """By the pairs, with and without SAM, that are there."""
  return _papers.judge(records, _full, _scaled)


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Returns the report as markdown."""
  del folder
  return _papers.comparison(RUNS, PAPER, records, SCALES, cost)


def _full(rows: _papers.Rows) -> tuple[str, str]:
  pairs = {row: (rows[row], rows[f'{row}_sam']) for row in _pairs(rows)}
  if not pairs:
    return 'not run', 'No row is there both with and without SAM.'
  better = [
    not sam.diverged and bool(plain.diverged or sam.mean > plain.mean)
    for plain, sam in pairs.values()
  ]
  told = '; '.join(
    f'{row} {plain.text}, with SAM {sam.text}'
    for row, (plain, sam) in pairs.items()
  )
  word = 'mixed' if any(better) else 'not borne out'
  return 'borne out' if all(better) else word, f'{told} (% top-1).'


def _scaled(rows: _papers.Rows) -> str:
  told = [
    f'{row} {rows[row].text}, with SAM {rows[f"{row}_sam"].text}'
    for row in _pairs(rows)
  ]
  return f'{"; ".join(told) or "no pair is complete"} (% top-1).'


def _pairs(rows: _papers.Rows) -> list[str]:
  return [row for row in rows if f'{row}_sam' in rows]
