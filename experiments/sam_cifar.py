"""SAM's rho and the share of the batch that its ascent uses. CIFAR-10.

The normalizer-free ResNet-20 with AGC, lambda 20.48 / batch; batch 1,024 at
scales full and short. Paper A trains F5 and F6 with an ascent on 20 % of the
batch; it gives rho, 0.05, only for fine-tuning.
"""

from experiments import _figures, _resnet20, where_to_clip
from experiments.study import Above, Experiment

EXPERIMENT = Experiment(
  title='Sharpness-aware minimization: rho and ascent fraction',
  claim='SAM with rho 0.05 raises the accuracy of a normalizer-free ResNet-20 '
  'with AGC, and an ascent on a fifth of the batch does as well as on all of '
  'it.',
  rows={'none': {}}
  | {
    f'rho{rho}_of{percent}': {
      'sam.rho': rho,
      'sam.ascent_fraction': percent / 100,
    }
    for rho in (0.02, 0.05, 0.2)
    for percent in (20, 100)
  },
  labels={'of20': 'ascent on 20 %', 'of100': 'ascent on 100 %'},
  checks={
    'SAM with rho 0.05 is better than none': Above('rho0.05_of100', 'none'),
    'its ascent on a fifth of the batch costs at most 1 point': Above(
      'rho0.05_of20', 'rho0.05_of100', by=-1
    ),
  },
  scales=_resnet20.scales(more={'optimizer.clipping': 0.16}),
  config=where_to_clip.EXPERIMENT.config,
  plot=_figures.lines('rho', r'rho([\d.]+)'),
  spread=_resnet20.SPREAD,
)
get_config = EXPERIMENT.get_config
