"""ResNet-20 with batch normalization, without, and normalizer-free. CIFAR-10.

Batch 1,024 at scales full and short. All six networks train alike, with
learning rate 0.1 x batch / 128 after a linear warm-up over 5 % of the steps,
cosine decay to 0, Nesterov momentum 0.9, weight decay 5e-4 on weights, and
pad-crop-flip. The report that this repeats (Thakur, *Exploring Adaptive
Gradient Clipping and NFNets*, 2021) found AGC no better than nothing at batch
1,024 with lambda 0.01, and suspected that 0.01 is too tight.
"""

from experiments import _figures, _resnet20
from experiments.study import Above, Experiment

AGC = {'optimizer.clip': 'agc', 'optimizer.clipping': 0.01}
NORM = {'optimizer.clip': 'norm', 'optimizer.clipping': 1.0}
EXPERIMENT = Experiment(
  title='ResNet-20 on CIFAR-10, three ways',
  claim='Without batch normalization a ResNet-20 loses accuracy, AGC with '
  'lambda 0.01 does not bring it back, and a normalizer-free network does.',
  rows={
    'batch': {'model.normalizer': 'batch'},
    'none': {'model.normalizer': 'none'},
    'none_agc': {'model.normalizer': 'none', **AGC},
    'nf': {'model.normalizer': 'nf'},
    'nf_agc': {'model.normalizer': 'nf', **AGC},
    'nf_norm': {'model.normalizer': 'nf', **NORM},
  },
  checks={
    'no normalization is worse than BN': Above('batch', 'none'),
    'AGC without normalization is worse than BN': Above('batch', 'none_agc'),
    'NF is at most 1 point below BN': Above('nf', 'batch', by=-1),
  },
  explored={
    'AGC improves on no normalization': Above('none_agc', 'none'),
    'AGC costs NF accuracy': Above('nf', 'nf_agc'),
    'clipping the norm costs NF accuracy': Above('nf', 'nf_norm'),
  },
  published={'batch': (91.25, 'R', 'He et al., Table 6, batch 128')},
  labels=_resnet20.LABELS
  | {
    'none_agc': 'no normalization, AGC 0.01',
    'nf_agc': 'normalizer-free, AGC 0.01',
    'nf_norm': 'normalizer-free, norm clipping 1.0',
  },
  scales=_resnet20.scales(),
  seeds=(0, 1, 2),
  config=lambda row: _resnet20.recipe({'batch_size': 1024}),
  plot=_figures.curves(_figures.TOP_1, _figures.LOSS, _figures.CLIPPED),
)
get_config = EXPERIMENT.get_config
