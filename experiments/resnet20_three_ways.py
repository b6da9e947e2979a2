r"""ResNet-20 with batch normalization, without, and normalizer-free. CIFAR-10.

  python -m scripts.sweep --experiment=resnet20_three_ways [--scale=cpu] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=resnet20_three_ways

All six networks train alike: learning rate 0.1 x batch / 128 after a linear
warm-up over 5 % of the steps, cosine to 0, Nesterov momentum 0.9, weight decay
5e-4 on weights, pad-crop-flip.

The report that this redoes found AGC, at batch 1024 with lambda 0.01, no better
than nothing, and suspected that 0.01 is too tight; the share of units that AGC
clips is recorded, so that one can see. On the normalizer-free network a few of
them matter most: a skip gain starts at 0, and as long as it is below epsilon =
0.001 AGC lets its gradient be 0.00001 at most, which moves it by 0.00001 an
update at scale cpu (rate 0.1, momentum 0.9). A short run ends before its
residual branches open.

A difference counts if it exceeds two standard errors, of single runs 4.5
points: over seeds a row is taken to spread by 1.6 points, that of ResNet-20 at
scale cpu, or by its own if that is more.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _compare, _plots, _study

TITLE = 'ResNet-20 on CIFAR-10, three ways'
CLAIM = (
  'Without batch normalization a ResNet-20 loses accuracy, AGC with lambda '
  '0.01 does not bring it back, and a normalizer-free network does.'
)
PAPER = {'batch': (91.25, 'R', 'He et al., Table 6: batch 128, 164 epochs')}
SEEDS = (0, 1, 2)
AGC = {'optimizer.clip': 'agc', 'optimizer.clipping': 0.01}
RUNS = {
  'batch': {'model.normalizer': 'batch'},
  'none': {'model.normalizer': 'none'},
  'none_agc': {'model.normalizer': 'none', **AGC},
  'nf': {'model.normalizer': 'nf'},
  'nf_agc': {'model.normalizer': 'nf', **AGC},
  'nf_norm': {
    'model.normalizer': 'nf',
    'optimizer.clip': 'norm',
    'optimizer.clipping': 1.0,
  },
}
LABELS = {
  'batch': 'batch normalization',
  'none': 'no normalization',
  'none_agc': 'no normalization, AGC 0.01',
  'nf': 'normalizer-free',
  'nf_agc': 'normalizer-free, AGC 0.01',
  'nf_norm': 'normalizer-free, norm clipping 1.0',
}
SCALES = _cifar.scales()


def get_config(run: str) -> ConfigDict:
  """Batch 1024 for 100 epochs, or less of both: see `SCALES`."""
  config = _cifar.resnet20(batch_size=1024)
  return _study.configure(config, RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws `curves.png` for each scale; returns the report as markdown."""

  def section(found: Sequence, note: str, suffix: str) -> str:
    made = _plots.figure(11, 4.2, TITLE, note)
    axes = made.subplots(1, 3)
    for ax, (key, factor, name) in zip(
      axes,
      (
        ('eval/top_1', 100, 'test top-1 (%)'),
        ('train/loss', 1, 'training loss'),
        ('agc/clipped_fraction', 100, 'units above lambda (%)'),
      ),
    ):
      rows = [r for r in RUNS if 'agc' in r] if 'agc' in key else list(RUNS)
      _plots.curves(ax, found, list(RUNS), LABELS, key, factor, only=rows)
      _plots.finish(ax, 'update', name)
    _plots.legend(made, axes[0])
    picture = _plots.save(made, folder, f'curves{suffix}', f'{TITLE}: {note}')
    table = _plots.table(found, RUNS, LABELS, PAPER)
    return f'{table}\n{picture}'

  return _cifar.with_source(_plots.sections(records, SCALES, section))


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """Each sentence of the claim against batch normalization, then the rest."""

  below = _compare.below
  parts = {
    'without normalization it is worse than with batch normalization': (
      ('none', 'batch'),
      below,
    ),
    'with AGC in its place it still is': (('none_agc', 'batch'), below),
    'normalizer-free it is at most 1 point below batch normalization': (
      ('nf', 'batch'),
      lambda nf, batch: _compare.no_worse(nf, batch, 1.0),
    ),
  }
  more = {
    'without normalization AGC is better than nothing': (
      ('none_agc', 'none'),
      lambda agc, none: below(none, agc),
    ),
    'normalizer-free AGC costs accuracy': (('nf_agc', 'nf'), _cost_of_agc),
    'normalizer-free norm clipping costs accuracy': (('nf_norm', 'nf'), below),
  }

  def of_scale(rows: Mapping[str, _study.Row]) -> _study.Judgement:
    word, why = _study.weigh_parts(parts, rows)
    return word, why + _study.beside(more, rows)

  return _study.judge(records, SCALES, of_scale)


def _cost_of_agc(agc: _study.Row, plain: _study.Row) -> bool | str:
  worse = _compare.below(agc, plain)
  limit = _cifar.gain_limit(agc.images, AGC['optimizer.clipping'])
  if worse is True and limit < 1:
    return (
      'yes, in a run too short for its residual branches to open (a skip gain '
      f'ends at about {limit:.2f} at most)'
    )
  return worse
