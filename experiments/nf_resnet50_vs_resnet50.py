r"""NF-ResNet-50 and ResNet-50 on CIFAR-10, both from scratch.

  python -m scripts.sweep --experiment=nf_resnet50_vs_resnet50 \
    [--scale=cpu] -- --config.data.data_dir=DATA
  python -m scripts.report --experiment=nf_resnet50_vs_resnet50

ImageNet's networks on 32-pixel images, of which their stem, of stride 4, leaves
8 x 8. All arms: learning rate 0.1 x batch / 128 after a linear warm-up over 5 %
of the steps, cosine to 0, Nesterov momentum 0.9, weight decay 5e-4 on weights;
AGC's lambda is 20.48 / batch: 0.08 at 256, 0.16 at 128. The claim is what the
report's curves show; the better of the two normalizer-free rows is judged.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import nf_resnet_50, resnet_50
from experiments import _cifar, _compare, _plots, _study

TITLE = 'NF-ResNet-50 and ResNet-50 on CIFAR-10'
CLAIM = 'Trained from scratch, NF-ResNet-50 beats ResNet-50 by about 15 points.'
PAPER = {}  # the report's curves are not at hand as numbers
SEEDS = (0,)
RUNS = {
  'resnet_50': {'model.name': 'resnet_50'},
  'nf_resnet_50': {'model.name': 'nf_resnet_50'},
  'nf_resnet_50_agc': {
    'model.name': 'nf_resnet_50',
    'optimizer.clip': 'agc',
  },
}
LABELS = {
  'resnet_50': 'ResNet-50, batch normalization',
  'nf_resnet_50': 'NF-ResNet-50',
  'nf_resnet_50_agc': 'NF-ResNet-50, AGC',
}
SCALES = _cifar.scales(more={'optimizer.clipping': 0.16})


def get_config(run: str) -> ConfigDict:
  """Batch 256 for 100 epochs, or less of both: see `SCALES`."""
  row, _ = _study.split(run)
  base = nf_resnet_50 if row.startswith('nf') else resnet_50
  config = _cifar.resnet20(batch_size=256)
  with config.unlocked():
    config.model = base.get_config().model
  config.model.drop_rate = 0.0
  config.model.stochdepth_rate = 0.0
  config.optimizer.clipping = 0.08
  return _study.configure(config, RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws `curves.png` for each scale; returns the report as markdown."""

  def section(found: Sequence, note: str, suffix: str) -> str:

    made = _plots.figure(8, 4.2, TITLE, note)
    axes = made.subplots(1, 2)
    for ax, key, factor, name in (
      (axes[0], 'eval/top_1', 100, 'test top-1 (%)'),
      (axes[1], 'train/loss', 1, 'training loss'),
    ):
      _plots.curves(ax, found, list(RUNS), LABELS, key, factor)
      _plots.finish(ax, 'update', name)
    _plots.legend(made, axes[0])
    caption = f'{TITLE}: {note}'
    picture = _plots.save(made, folder, f'curves{suffix}', caption)
    return f'{_plots.table(found, RUNS, LABELS)}\n{picture}'

  return _cifar.with_source(_plots.sections(records, SCALES, section))


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """The better of the normalizer-free arms against the batch-normalized."""

  def of_scale(rows: Mapping[str, _study.Row]) -> _study.Judgement:
    if missing := _study.missing(RUNS, rows):
      return 'not run', missing
    batch = rows['resnet_50']
    arms = (rows['nf_resnet_50'], rows['nf_resnet_50_agc'])
    best = max(arms, key=lambda row: row.worth)
    margin = best.worth - batch.worth
    word, why = _study.weigh(
      {
        f'NF-ResNet-50 is better ({margin:+.1f} points)': (
          _compare.below(batch, best)
        ),
        'by 10 to 20 points': _compare.both(
          _compare.below(batch, best, 10), _compare.no_worse(batch, best, 20)
        ),
      }
    )
    return word, f'{why} {_compare.BORROWED}'

  return _study.judge(records, SCALES, of_scale)
