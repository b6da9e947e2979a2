r"""He et al.'s ResNet-20 recipe, run in full: 91.25 % on CIFAR-10.

  python -m scripts.sweep --experiment=he_resnet20 -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=he_resnet20

configs/cifar_resnet20.py as it is: 64,000 updates at batch 128, learning rate
0.1, divided by 10 at 32,000 and 48,000, no warm-up, weight decay 1e-4 on all
parameters. At 0.16 s a step (results/speed.md) 3 hours on two CPU cores.
Published: [R] another paper's text or table, here He et al., Table 6.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import cifar_resnet20
from experiments import _plots, _study, _trust

TITLE = "He et al.'s ResNet-20"
CLAIM = (
  'The published recipe lands within 0.5 points of the published 91.25 % [R].'
)
PAPER = {'batch': (91.25, 'R', 'He et al., Table 6')}
SEEDS = (0,)
RUNS = {'batch': {}}
LABELS = {'batch': 'batch normalization'}
SCALES = {
  'full': {
    'note': 'all 50,000 images, 64,000 updates of 128',
    'overrides': {'data.on_device': True},
  },
}


def get_config(run: str) -> ConfigDict:
  """configs/cifar_resnet20.py, its images held on the device."""
  return _study.configure(cifar_resnet20.get_config(), RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws `curves.png`; returns the report as markdown."""

  def section(found: Sequence, note: str, suffix: str) -> str:
    made = _plots.figure(7, 4, TITLE, note)
    ax = made.subplots()
    _plots.curves(ax, found, list(RUNS), LABELS, 'eval/top_1', 100)
    published, line = _plots.published(PAPER, 'batch'), {'ls': '--', 'lw': 1}
    ax.axhline(PAPER['batch'][0], color='0.4', label=published, **line)
    _plots.finish(ax, 'update', 'test top-1 (%)')
    _plots.legend(made, ax)
    picture = _plots.save(made, folder, f'curves{suffix}', f'{TITLE}: {note}')
    return f'{_plots.table(found, RUNS, LABELS, PAPER)}\n{picture}'

  return _plots.sections(records, SCALES, section)


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """The mean over seeds against the published accuracy."""

  def of_scale(rows: Mapping[str, _study.Row]) -> _study.Judgement:
    row = rows['batch']
    off = row.worth - PAPER['batch'][0]
    published = _trust.shown(PAPER['batch'])
    told = f'{row.text} % ({off:+.2f} points from {published})'
    return _study.weigh({told: abs(off) <= 0.5})

  return _study.judge(records, SCALES, of_scale)
