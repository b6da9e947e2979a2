"""What NFNet's pieces add, and its batch-normalized twin (paper A, Table 2).

Each row adds to the one before: the baseline (SE-ResNeXt-D's widths, one
grouped 3x3), the modified widths, the second 3x3, MixUp, RandAugment, and
CutMix beside MixUp, which gives NFNet. Then follow NFNet with default widths,
and NFNet with batch normalization instead of scaled weight standardization.
Every row trains for 360 epochs at batch 4,096 with learning rate 1.6 and lambda
0.01; the accuracy is that of the averaged parameters.
"""

from configs import nfnet_f0
from experiments import _figures, _papers
from experiments.study import Above, Experiment, Rows
from nfnets import variants

MODELS = ('f0', 'f1', 'f2', 'f3')
DEFAULT = {'model.widths': variants.NFNET_DEFAULT_WIDTHS}
ONE_CONV = {'model.use_two_convs': False}
PLAIN = {'augment.mix': 'none', 'augment.randaugment_layers': 0}
PIECES = {
  'baseline': {**DEFAULT, **ONE_CONV, **PLAIN},
  'width': {**ONE_CONV, **PLAIN},
  'two_convs': PLAIN,
  'mixup': {'augment.mix': 'mixup', 'augment.randaugment_layers': 0},
  'randaugment': {'augment.mix': 'mixup'},
  'cutmix': {},
  'default_width': DEFAULT,
  'batchnorm': {'model.normalizer': 'batch'},
}
LADDER = tuple(PIECES)[:6]
TABLE = {
  'baseline': (80.4, 81.7, 82.0, 82.3),
  'width': (80.9, 81.8, 82.0, 82.3),
  'two_convs': (81.3, 82.2, 82.4, 82.7),
  'mixup': (82.2, 82.9, 83.1, 83.5),
  'randaugment': (83.2, 84.6, 84.8, 85.0),
  'cutmix': (83.6, 84.7, 85.1, 85.7),
  'default_width': (83.1, 84.5, 85.0, 85.5),
  'batchnorm': (83.4, 84.4, 85.1, 85.5),
}
EXPERIMENT = Experiment(
  title="NFNet's pieces and its BN twin (paper A's Tables 2 and 6)",
  claim='Each piece of NFNet adds accuracy at every size from F0 to F3, and '
  'the network is as good as its batch-normalized twin in less time a step.',
  rows={
    f'{model}_{piece}': {'model.name': f'nfnet_{model}', **overrides}
    for model in MODELS
    for piece, overrides in PIECES.items()
  },
  checks={
    f'{model.upper()} is at most 0.3 points below its BN twin': Above(
      f'{model}_cutmix', f'{model}_batchnorm', by=-0.3
    )
    for model in MODELS
  }
  # The paper's own ladder has steps of 0.0 at F2 and F3.
  | {
    f'no step of the ladder loses {model.upper()} a tenth of a point': (
      lambda rows, model=model: climbs(rows, model)
    )
    for model in MODELS
  },
  published={
    f'{model}_{piece}': (number, 'P')
    for piece, numbers in TABLE.items()
    for model, number in zip(MODELS, numbers)
  },
  scales=_papers.scales(
    [f'f0_{piece}' for piece in PIECES if piece != 'randaugment'],
    width=8,
    depth=2,
    clipping=16,
  ),
  seeds=(0, 1, 2),
  config=lambda row: nfnet_f0.get_config(),
  plot=_figures.lines('rows add up to cutmix, which is NFNet', r'_(\w+)$'),
)
get_config = EXPERIMENT.get_config


def climbs(rows: Rows, model: str) -> bool:
  """Whether every piece adds accuracy, but for a tenth of a point."""
  means = [rows[f'{model}_{piece}'].mean for piece in LADDER]
  return all(after > before - 0.1 for before, after in zip(means, means[1:]))
