r"""SAM's rho and the share of the batch that its ascent uses. CIFAR-10.

  python -m scripts.sweep --experiment=sam_cifar [--scale=cpu] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=sam_cifar

The normalizer-free ResNet-20 with AGC (lambda 20.48 / batch). All arms:
learning rate 0.1 x batch / 128 after a linear warm-up over 5 % of the
steps, cosine to 0, Nesterov momentum 0.9, weight decay 5e-4 on weights.
Paper A trains F5 and F6 with rho 0.05 and an ascent on 20 % of the batch.

A difference counts if it exceeds two standard errors, of single runs 4.5
points: over seeds a row is taken to spread by 1.6 points, that of ResNet-20 at
scale cpu, or by its own if that is more.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _compare, _plots, _study

TITLE = 'Sharpness-aware minimization: rho and ascent fraction'
CLAIM = (
  'SAM with rho 0.05 raises the accuracy of a normalizer-free ResNet-20 with '
  'AGC, and an ascent on a fifth of the batch does as well as on all of it.'
)
PAPER = {}  # paper C has no ResNet-20
SEEDS = (0,)
RHOS = (0.02, 0.05, 0.2)
FRACTIONS = (0.2, 1.0)
RUNS = {'none': {}} | {
  f'rho{rho:g}_of{100 * fraction:g}': {
    'sam.rho': rho,
    'sam.ascent_fraction': fraction,
  }
  for rho in RHOS
  for fraction in FRACTIONS
}
LABELS = {'none': 'no SAM'} | {
  f'rho{rho:g}_of{100 * fraction:g}': (
    f'rho {rho:g}, ascent on {100 * fraction:g} %'
  )
  for rho in RHOS
  for fraction in FRACTIONS
}
SCALES = _cifar.scales(more={'optimizer.clipping': 0.16})


def get_config(run: str) -> ConfigDict:
  """Batch 1024 for 100 epochs, or less of both: see `SCALES`."""
  config = _cifar.resnet20('nf', batch_size=1024)
  config.optimizer.clip = 'agc'
  config.optimizer.clipping = 0.02
  return _study.configure(config, RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws `sam.png` for each scale; returns the report as markdown."""

  def section(found: Sequence, note: str, suffix: str) -> str:

    made = _plots.figure(7, 4.2, TITLE, note)
    ax = made.subplots()
    series = {
      f'ascent on {100 * fraction:g} %': {
        rho: f'rho{rho:g}_of{100 * fraction:g}' for rho in RHOS
      }
      for fraction in FRACTIONS
    }
    rows, first = _study.gather(found), next(iter(series))
    _plots.lines(ax, rows, series, {first: 'none'}, 'no SAM')
    _plots.finish(ax, 'rho', 'test top-1 (%)')
    _plots.legend(made, ax, columns=3)
    caption = f'{TITLE}: {note}'
    picture = _plots.save(made, folder, f'sam{suffix}', caption)
    return f'{_plots.table(found, RUNS, LABELS)}\n{picture}'

  return _plots.sections(records, SCALES, section)


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """Rho 0.05 against none, and a fifth of the batch against all of it."""

  part, whole = 'rho0.05_of20', 'rho0.05_of100'
  parts = {
    'SAM with rho 0.05 is better than none': (
      (whole, 'none'),
      lambda sam, none: _compare.below(none, sam),
    ),
    'its ascent on a fifth of the batch does as well as on all of it': (
      (part, whole),
      _compare.no_worse,
    ),
  }

  def of_scale(rows: Mapping[str, _study.Row]) -> _study.Judgement:
    return _study.weigh_parts(parts, rows)

  return _study.judge(records, SCALES, of_scale)
