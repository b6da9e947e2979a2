"""From CIFAR-10 to photographs of Caltech-101: probe, fine-tune, from scratch.

Where it starts: a run of row nf_agc of cifar10_first_runs, which must be there,
a normalizer-free ResNet-20 with AGC after 3 epochs of CIFAR-10 (68.35 %). Then
2,040 photographs of 102 classes, resized to 32 x 32 pixels, train and 1,020
test (nfnets/data/caltech101_split.json). All rows but the probe share one
recipe, AGC included, and the number of updates; they differ in where they start
and in what stays frozen. No ImageNet weights were at hand, so this shows that
the machinery transfers, not how well NFNets do. There is one pre-trained
network; seeds are of the transfer alone: of the new head, the order and
augmentation, and for the probe of the draw that chooses its penalty.
"""

from ml_collections import ConfigDict

from configs import cifar_resnet20, lazy
from experiments import _figures, _resnet20
from experiments.study import FULL, Above, Experiment, Scale

PRETRAINED = {'weights': 'runs/cifar10_first_runs/nf_agc_seed0'}


EXPERIMENT = Experiment(
  title='Transfer from CIFAR-10 to Caltech-101',
  claim='A normalizer-free network pre-trained on CIFAR-10 classifies '
  'photographs of Caltech-101 better than one trained on them from scratch: '
  'already by a linear probe, and more so when it is fine-tuned.',
  rows={
    'scratch': {},
    'probe': {**PRETRAINED, 'probe': True},
    'finetune': PRETRAINED,
    'finetune_stage_3': {
      **PRETRAINED,
      'optimizer.frozen': ('stem', 'stage_1', 'stage_2'),
    },
  },
  labels={
    'scratch': 'from scratch',
    'probe': 'linear probe',
    'finetune': 'fine-tuned',
    'finetune_stage_3': 'fine-tuned from stage 3 on',
  },
  checks=[
    ('the probe beats training from scratch', Above('probe', 'scratch')),
    ('fine-tuning beats training from scratch', Above('finetune', 'scratch')),
    ('fine-tuning beats the probe', Above('finetune', 'probe')),
  ],
  scales={
    FULL: Scale('100 epochs'),
    'cpu': Scale(
      '8 epochs, batch 16: 1,020 updates',
      {'num_epochs': 8.0, 'batch_size': 16, 'learning_rate': 0.03},
    ),
  },
  seeds=(0, 1, 2),
  config=lambda row: recipe(),
  plot=_figures.curves(
    _figures.TOP_1, level=lambda rows: (rows['probe'].mean, 'linear probe')
  ),
  cost=_resnet20.cost,
)
get_config = EXPERIMENT.get_config


def recipe() -> ConfigDict:
  """CIFAR's recipe on these photographs; 100 epochs at batch 32.

  Learning rate 0.05, warm-up over 5 % of the steps, cosine to 0, Nesterov,
  weight decay 5e-4, AGC with the threshold of the pre-training.
  """
  config = cifar_resnet20.get_config()
  config.model.normalizer = 'nf'
  config.batch_size = 32
  config.num_epochs = 100.0
  config.learning_rate = 0.05
  config.schedule.name = 'warmup_cosine'
  num_steps = config.get_ref('num_steps')
  config.schedule.warmup_steps = lazy.share(num_steps, 0.05, 1)
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 5e-4
  config.optimizer.clip = 'agc'
  config.optimizer.clipping = 0.16
  config.data.name = 'caltech101'
  config.data.num_train = 2040
  config.data.num_classes = 102
  config.data.on_device = True
  config.eval_batch_size = 255
  config.eval_every = num_steps // 6
  config.log_every = num_steps // 30
  config.observe_every = 0
  return config
