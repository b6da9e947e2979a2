"""SAM's rho and the share of the batch that its ascent uses. CIFAR-10.

The normalizer-free ResNet-20 with AGC, lambda 20.48 / batch; batch 1,024 at
scales full and short. Paper A trains F5 and F6 with rho 0.05 and an ascent on
20 % of the batch.
"""

from experiments import _figures, _resnet20, where_to_clip
from experiments.study import Above, Experiment

RHOS = (0.02, 0.05, 0.2)
FRACTIONS = (0.2, 1.0)


def name(rho: float, fraction: float) -> str:
  return f'rho{rho:g}_of{100 * fraction:g}'


EXPERIMENT = Experiment(
  title='Sharpness-aware minimization: rho and ascent fraction',
  claim='SAM with rho 0.05 raises the accuracy of a normalizer-free ResNet-20 '
  'with AGC, and an ascent on a fifth of the batch does as well as on all of '
  'it.',
  rows={'none': {}}
  | {
    name(rho, fraction): {'sam.rho': rho, 'sam.ascent_fraction': fraction}
    for rho in RHOS
    for fraction in FRACTIONS
  },
  checks=[
    ('SAM with rho 0.05 is better than none', Above('rho0.05_of100', 'none')),
    (
      'its ascent on a fifth of the batch costs at most 1 point',
      Above('rho0.05_of20', 'rho0.05_of100', by=-1),
    ),
  ],
  scales=_resnet20.scales(more={'optimizer.clipping': 0.16}),
  config=lambda row: where_to_clip.recipe(),
  plot=_figures.lines(
    'rho',
    {
      '': {
        f'ascent on {100 * fraction:g} %': {
          rho: name(rho, fraction) for rho in RHOS
        }
        for fraction in FRACTIONS
      }
    },
    {'ascent on 20 %': 'none'},
    'no SAM',
  ),
  spread=_resnet20.SPREAD,
  cost=_resnet20.cost,
)
get_config = EXPERIMENT.get_config
