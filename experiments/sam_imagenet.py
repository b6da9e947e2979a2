"""Sharpness-aware minimization on ImageNet (SAM's paper, and paper A's A.4).

The ResNets train at batch 4,096 with learning rate 1.0 (cosine), momentum 0.9,
weight decay 1e-4, label smoothing 0.1 and rho 0.05, and use the whole batch for
the ascent. They are this repository's pre-activation ResNets; whether those of
the SAM paper are is not known. NFNet-F5 uses a fifth of the batch for the
ascent, as in paper A. The SAM paper is arXiv 2010.01412; its Table 2 lists
errors, which are accuracies here.
"""

from configs import nfnet_f0, resnet_50
from experiments import _papers
from experiments.study import Above, Experiment, Rows

EPOCHS = (100, 200, 400)
# Errors in % without SAM and with it, after so many epochs.
ERRORS = {
  50: ((22.9, 22.5), (22.3, 21.4), (22.3, 20.9)),
  101: ((21.2, 20.2), (20.9, 19.4), (22.3, 19.0)),
  152: ((20.4, 19.2), (20.3, 18.5), (20.9, 18.4)),
}
RESNET = {
  'batch_size': 4096,
  'learning_rate': 1.0,
  'optimizer.nesterov': False,
  'optimizer.weight_decay': 1e-4,
}
ARMS = {'': {}, '_sam': {'sam.rho': 0.05, 'sam.ascent_fraction': 1.0}}
F5 = {'model.name': 'nfnet_f5'}
EXPERIMENT = Experiment(
  title='SAM on ImageNet',
  claim='SAM raises the accuracy of ResNets and of NFNet-F5, and the more the '
  'longer they train.',
  rows={
    f'resnet_{depth}_{epochs}{suffix}': {
      'model.name': f'resnet_{depth}',
      'num_epochs': float(epochs),
      **RESNET,
      **sam,
    }
    for depth in ERRORS
    for epochs in EPOCHS
    for suffix, sam in ARMS.items()
  }
  | {'f5': F5, 'f5_sam': {**F5, 'sam.rho': 0.05, 'sam.ascent_fraction': 0.2}},
  checks={
    **{
      f'after 400 epochs ResNet-{depth} is better with SAM': Above(
        f'resnet_{depth}_400_sam', f'resnet_{depth}_400'
      )
      for depth in ERRORS
    },
    'NFNet-F5 is better with SAM': Above('f5_sam', 'f5'),
    'ResNets gain more in 400 epochs than in 200, and more there than in 100': (
      lambda rows: all(gains_grow(rows, depth) for depth in ERRORS)
    ),
  },
  published={
    f'resnet_{depth}_{epochs}{suffix}': (round(100 - error, 1), 'R')
    for depth, table in ERRORS.items()
    for epochs, errors in zip(EPOCHS, table)
    for suffix, error in zip(ARMS, errors)
  }
  | {'f5': (86.0, 'P'), 'f5_sam': (86.3, 'P')},
  scales=_papers.scales(('resnet_50_100', 'resnet_50_100_sam')),
  seeds=(0, 1, 2),
  config=lambda row: (
    resnet_50 if row.startswith('resnet') else nfnet_f0
  ).get_config(),
)
get_config = EXPERIMENT.get_config


def gains_grow(rows: Rows, depth: int) -> bool:
  """Whether SAM adds more points to a ResNet, the longer it trains."""
  names = [f'resnet_{depth}_{epochs}' for epochs in EPOCHS]
  a, b, c = (rows[f'{name}_sam'].mean - rows[name].mean for name in names)
  return a < b < c
