"""He et al.'s ResNet-20 recipe, run in full: 91.25 % on CIFAR-10.

configs/cifar_resnet20.py unchanged: 64,000 updates at batch 128, learning rate
0.1, divided by 10 at 32,000 and 48,000, no warm-up, weight decay 1e-4 on all
parameters.
"""

from configs import cifar_resnet20
from experiments import _figures
from experiments.study import FULL, Experiment, Scale

PUBLISHED = 91.25
EXPERIMENT = Experiment(
  title="He et al.'s ResNet-20",
  claim='The published recipe lands within 0.5 points of the published 91.25 % '
  '[R].',
  rows={'batch': {}},
  labels={'batch': 'batch normalization'},
  checks={
    f'within 0.5 points of {PUBLISHED} %': lambda rows: (
      abs(rows['batch'].mean - PUBLISHED) <= 0.5
    )
  },
  published={'batch': (PUBLISHED, 'R', 'He et al., Table 6')},
  scales={
    FULL: Scale(
      'all 50,000 images, 64,000 updates of 128', {'data.on_device': True}
    )
  },
  config=lambda row: cifar_resnet20.get_config(),
  plot=_figures.curves(
    _figures.TOP_1, level=lambda rows: (PUBLISHED, 'published [R]')
  ),
)
get_config = EXPERIMENT.get_config
