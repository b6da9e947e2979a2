"""Does a normalizer-free ResNet-20 with AGC train at all? CIFAR-10, 3 epochs.

Both arms train on all 50,000 images at batch 128, with a learning rate of 0.1
after 100 updates of linear warm-up, cosine decay to 0 and Nesterov momentum. He
et al. train for 164 epochs; these runs show that both arms learn, not which is
better.
"""

from configs import cifar_resnet20
from experiments import _figures, _resnet20
from experiments.study import FULL, Experiment, Scale

EXPERIMENT = Experiment(
  title='First runs on CIFAR-10',
  claim='A ResNet-20 without normalization layers, with scaled weight '
  'standardization and AGC, trains beside its batch-normalized twin.',
  rows={
    'batch': {'model.normalizer': 'batch'},
    # Batch 128 wants a large lambda (paper A, 4.1).
    'nf_agc': {
      'model.normalizer': 'nf',
      'optimizer.unclipped': ('head',),
      **_resnet20.AGC,
    },
  },
  checks={
    f'{row} ends above 50 %': lambda rows, row=row: rows[row].mean > 50
    for row in ('batch', 'nf_agc')
  },
  published={'batch': (91.25, 'R', 'He et al., Table 6, 164 epochs')},
  labels={
    'batch': 'batch normalization',
    'nf_agc': 'normalizer-free, AGC 0.16 as published',
  },
  scales={
    FULL: Scale(
      'all 50,000 images, 3 epochs',
      {
        'num_epochs': 3,
        'schedule.name': 'warmup_cosine',
        'schedule.warmup_steps': 100,
        'optimizer.nesterov': True,
        'eval_every': 130,
      },
    )
  },
  config=lambda row: cifar_resnet20.get_config(),
  plot=_figures.curves(_figures.LOSS, _figures.TOP_1),
)
get_config = EXPERIMENT.get_config
