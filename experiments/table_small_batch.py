r"""NF-ResNet-50 and ResNet-50 at batches of 4 and 8 (paper B, Table 2).

  python -m scripts.sweep --experiment=table_small_batch [--scale=cifar] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=table_small_batch

15 epochs (from memory, not verified) on one device, learning rate 0.1 x batch /
256, 5 epochs of warm-up, cosine to 0, no clipping, in both arms.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import nf_resnet_50, resnet_50
from experiments import _papers

TITLE = "Small batches (paper B's Table 2)"
CLAIM = (
  'Trained four images at a time a batch-normalized ResNet-50 loses much of '
  'its accuracy; a normalizer-free one does not.'
)
BASES = {'bn': resnet_50, 'nf': nf_resnet_50}
SEEDS = (0, 1, 2, 3, 4)
RUNS = {
  f'{arm}_bs{batch}': {'batch_size': batch, 'num_epochs': 15.0}
  for batch in (4, 8)
  for arm in BASES
}
PAPER = {
  'nf_bs4': (69.9, 'S', 'Table 2'),
  'bn_bs4': (55.7, 'S', 'Table 2'),
}
SCALES = _papers.scales(
  RUNS, batch=1, num_epochs=2.0, note=', learning rate 0.1 x batch / 256'
)


def get_config(run: str) -> ConfigDict:
  """15 epochs of ImageNet in float32, or less: see `SCALES`."""
  row, _ = _papers.check(RUNS, SCALES, run)
  config = BASES[row.partition('_')[0]].get_config()
  return _papers.configure(config, RUNS, SCALES, run)


def cost(row: str) -> float:
  """TPUv3 chip-hours of one seed, at a utilization that 4 images can't have."""
  del row
  return _papers.hours_of_macs(4.09, 15 * _papers.IMAGENET)


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """Whether NF beats BN by more than 5 points at batch 4."""
  return _papers.judge(records, _full, _scaled)


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Returns the report as markdown."""
  del folder
  return _papers.comparison(RUNS, PAPER, records, SCALES, cost)


def _full(rows: _papers.Rows) -> tuple[str, str]:
  if 'nf_bs4' not in rows or 'bn_bs4' not in rows:
    return 'not run', 'Both arms at batch 4 are not there.'
  nf, bn = rows['nf_bs4'], rows['bn_bs4']
  word = 'borne out' if bn.diverged or nf.mean > bn.mean + 5 else 'mixed'
  if nf.diverged or not (bn.diverged or nf.mean > bn.mean):
    word = 'not borne out'
  return word, f'At batch 4: NF {nf.text}, BN {bn.text} %.'


def _scaled(rows: _papers.Rows) -> str:
  told = [f'{row} {found.text}' for row, found in rows.items()]
  return f'{", ".join(told)} (% top-1).'
