"""NF-ResNet-50 and ResNet-50 on CIFAR-10, both from scratch.

These are ImageNet's networks on 32-pixel images, which their stem of stride 4
reduces to 8 x 8. All arms have learning rate 0.1 x batch / 128 after a linear
warm-up over 5 % of the steps, cosine decay to 0, Nesterov momentum 0.9, and
weight decay 5e-4 on weights; AGC's lambda is 20.48 / batch, 0.08 at 256 and
0.16 at 128. The claim is what the curves in Thakur's report show. Intervals use
the spread of ResNet-20 over seeds.
"""

from ml_collections import ConfigDict

from configs import nf_resnet_50, resnet_50
from experiments import _figures, _resnet20
from experiments.study import Above, Experiment

EXPERIMENT = Experiment(
  title='NF-ResNet-50 and ResNet-50 on CIFAR-10',
  claim='Trained from scratch, NF-ResNet-50 beats ResNet-50 by about 15 '
  'points.',
  rows={
    'resnet_50': {'model.name': 'resnet_50'},
    'nf_resnet_50': {'model.name': 'nf_resnet_50'},
    'nf_resnet_50_agc': {'model.name': 'nf_resnet_50', 'optimizer.clip': 'agc'},
  },
  checks={
    f'NF-ResNet-50{arm} is better{by}': Above(row, 'resnet_50', by=points)
    for row, arm in {
      'nf_resnet_50': '',
      'nf_resnet_50_agc': ' with AGC',
    }.items()
    for points, by in {0.0: '', 10.0: ' by more than 10 points'}.items()
  },
  labels={
    'resnet_50': 'ResNet-50, batch normalization',
    'nf_resnet_50': 'NF-ResNet-50',
    'nf_resnet_50_agc': 'NF-ResNet-50, AGC',
  },
  scales=_resnet20.scales(more={'optimizer.clipping': 0.16}),
  spread=_resnet20.SPREAD,
  image_seconds=1 / 128,  # as these records have it
  config=lambda row: recipe(row),
  plot=_figures.curves(_figures.TOP_1, _figures.LOSS),
)
get_config = EXPERIMENT.get_config


def recipe(row: str) -> ConfigDict:
  """The study's recipe at batch 256 for 100 epochs, of another network."""
  config = _resnet20.recipe({'batch_size': 256})
  base = nf_resnet_50 if row.startswith('nf') else resnet_50
  with config.unlocked():
    config.model = base.get_config().model
  config.model.drop_rate = 0.0
  config.model.stochdepth_rate = 0.0
  config.optimizer.clipping = 0.08
  return config
