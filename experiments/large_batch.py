"""The report's setting: batch 1,024 and lambda 0.01. CIFAR-10.

Each row has the learning rate that `pilot` chose at this batch size
(`--config.learning_rate_factor=ITS_OWN`). `none_agc_own` has lambda 0.02, which
is 0.16 at batch 128 scaled by 128 / 1,024. The comparisons were planned
before the runs.
"""

from experiments import _figures, _resnet20
from experiments.study import FULL, Above, Experiment

ARMS = _resnet20.ARMS
ROWS = {
  'batch': ARMS['batch'],
  'none': ARMS['none'],
  'none_agc': {**ARMS['none_agc'], 'optimizer.clipping': 0.01},
  'none_agc_own': {**ARMS['none_agc'], 'optimizer.clipping': 0.02},
  'nf_agc': {**ARMS['nf_agc'], 'optimizer.clipping': 0.02},
}
LABELS = {
  'batch': 'batch normalization',
  'none': 'no normalization',
  'none_agc': 'no normalization, AGC 0.01',
  'none_agc_own': 'no normalization, AGC 0.02',
  'nf_agc': 'normalizer-free, AGC 0.02, skip gains exempt',
}
EXPERIMENT = Experiment(
  title="ResNet-20 on CIFAR-10 in the report's setting",
  claim='At batch 1,024, AGC with lambda 0.01 does not help a ResNet-20 '
  'without normalization.',
  rows=ROWS,
  checks={
    'AGC 0.01 adds at most 1 point': Above('none', 'none_agc', by=-1),
    'no normalization is worse than BN': Above('batch', 'none'),
    'AGC 0.01 is worse than BN': Above('batch', 'none_agc'),
    'AGC 0.02 is better than 0.01': Above('none_agc_own', 'none_agc'),
    'NF with AGC 0.02 is at most 1 point below BN': Above(
      'nf_agc', 'batch', by=-1
    ),
  },
  labels=LABELS,
  scales={FULL: _resnet20.epochs(164), 'short': _resnet20.epochs(30)},
  seeds=(0, 1),
  config=lambda row: _resnet20.recipe({'batch_size': 1024}),
  plot=_figures.curves(_figures.TOP_1, _figures.LOSS, _figures.CLIPPED),
)
get_config = EXPERIMENT.get_config
