r"""Which layers AGC should clip: ResNet-20, normalizer-free. CIFAR-10.

  python -m scripts.sweep --experiment=where_to_clip [--scale=cpu] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=where_to_clip

All arms: learning rate 0.1 x batch / 128 after a linear warm-up over 5 % of the
steps, cosine to 0, Nesterov momentum 0.9, weight decay 5e-4 on weights.
Lambda is 20.48 / batch: 0.02 at 1024 and 0.16 at 128, for small batches want a
bigger one (paper A, section 4.1).

A difference counts if it exceeds two standard errors, of single runs 4.5
points: over seeds a row is taken to spread by 1.6 points, that of ResNet-20 at
scale cpu, or by its own if that is more.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _compare, _plots, _study

TITLE = 'Where to clip: ResNet-20'
CLAIM = (
  'Leaving the head unclipped is never worse than clipping everything; the '
  'stem may go unclipped; no stage alone does as well as all of them.'
)
PAPER = {}  # paper A, 4.1, says it of ResNets on ImageNet, without numbers
SEEDS = (0, 1, 2)
OTHERS = {1: (2, 3), 2: (1, 3), 3: (1, 2)}
RUNS = (
  {
    'all': {'optimizer.unclipped': ()},
    'not_head': {'optimizer.unclipped': ('head',)},
    'not_head_stem': {'optimizer.unclipped': ('head', 'stem')},
  }
  | {
    f'stage_{stage}': {
      'optimizer.unclipped': (
        'stem',
        'final',
        *(f'stage_{other}' for other in others),
      )
    }
    for stage, others in OTHERS.items()
  }
  | {'nothing': {'optimizer.clip': 'none'}}
)
LABELS = {
  'all': 'all layers',
  'not_head': 'all but the head',
  'not_head_stem': 'all but head and stem',
  'stage_1': 'stage 1 alone',
  'stage_2': 'stage 2 alone',
  'stage_3': 'stage 3 alone',
  'nothing': 'nothing',
}
SCALES = _cifar.scales(more={'optimizer.clipping': 0.16})


def get_config(run: str) -> ConfigDict:
  """Batch 1024 for 100 epochs, or less of both: see `SCALES`."""
  config = _cifar.resnet20('nf', batch_size=1024)
  config.optimizer.clip = 'agc'
  config.optimizer.clipping = 0.02
  return _study.configure(config, RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws `where.png` for each scale; returns the report as markdown."""

  def section(found: Sequence, note: str, suffix: str) -> str:

    made = _plots.figure(7, 3.6, TITLE, note)
    ax = made.subplots()
    _plots.bars(ax, _study.gather(found), RUNS, LABELS)
    _plots.finish(ax, 'test top-1 (%)', 'clipped')
    caption = f'{TITLE}: {note}'
    picture = _plots.save(made, folder, f'where{suffix}', caption)
    return f'{_plots.table(found, RUNS, LABELS)}\n{picture}'

  return _plots.sections(records, SCALES, section)


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """Each part of the claim, beyond what seeds explain."""

  below, no_worse = _compare.below, _compare.no_worse
  parts = {
    'all but the head is no worse than all layers': (
      ('not_head', 'all'),
      no_worse,
    ),
    'all but head and stem is no worse than all but the head': (
      ('not_head_stem', 'not_head'),
      no_worse,
    ),
  } | {
    f'stage {stage} alone is worse than all but the head': (
      (f'stage_{stage}', 'not_head'),
      below,
    )
    for stage in OTHERS
  }
  more = {
    'clipping nothing is worse than all but the head': (
      ('nothing', 'not_head'),
      below,
    )
  }

  def of_scale(rows: Mapping[str, _study.Row]) -> _study.Judgement:
    word, why = _study.weigh_parts(parts, rows)
    return word, why + _study.beside(more, rows)

  return _study.judge(records, SCALES, of_scale)
