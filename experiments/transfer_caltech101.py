"""Transfer to photographs of Caltech-101: probe, fine-tune, from scratch.

Scales full and cpu start from a run of row nf_agc of cifar10_first_runs, which
must exist (3 epochs of CIFAR-10, 68.35 %), and transfer to all 102 classes at
32 x 32 pixels, with 2,040 photographs for training and 1,020 for testing
(nfnets/data/caltech101_split.json). Scale px64 starts from a network trained on
every second class (row pretrain; `half` makes the folders) or from the study's
long run on CIFAR-10 (headline), and transfers to the other 51 classes at 64 x
64 pixels, with 1,020 and 510 photographs. Rows share one recipe, AGC included,
and the number of updates, except for the probe and for scratch_long, which also
gets the updates of pre-training. Seeds vary the transfer only: there is one
pre-trained network of each kind. No ImageNet weights were available, so this
shows that the machinery transfers, not how well NFNets do.
"""

import pathlib
import tarfile

from ml_collections import ConfigDict

from experiments import _figures, _resnet20
from experiments.study import FULL, Above, Experiment, Scale

PRETRAINED = {'weights': 'runs/cifar10_first_runs/nf_agc_seed0'}
HALF = 'runs/transfer_caltech101/pretrain@px64_seed0'
CIFAR10 = {'weights': 'runs/headline/nf_agc@short_seed0'}
ROWS = {
  'scratch': {},
  'probe': {**PRETRAINED, 'probe': True},
  'finetune': PRETRAINED,
  'finetune_stage_3': {
    **PRETRAINED,
    'optimizer.frozen': ('stem', 'stage_1', 'stage_2'),
  },
}
AT_64 = ('scratch', 'scratch_long', 'finetune', 'finetune_cifar10', 'probe')
EXPERIMENT = Experiment(
  title='Transfer to Caltech-101',
  claim='A pre-trained normalizer-free network classifies photographs of '
  'Caltech-101 better than one trained on them from scratch: already by a '
  'linear probe, and more so when it is fine-tuned.',
  rows={
    **ROWS,
    'pretrain': {'num_epochs': 100.0},
    'scratch_long': {'num_epochs': 160.0},
    'finetune_cifar10': CIFAR10,
  },
  checks={
    'the probe beats training from scratch': Above('probe', 'scratch'),
    'fine-tuning beats training from scratch': Above('finetune', 'scratch'),
    'fine-tuning beats the probe': Above('finetune', 'probe'),
    'fine-tuning beats scratch with the updates of pre-training as well': Above(
      'finetune', 'scratch_long'
    ),
    'fine-tuning from CIFAR-10 beats training from scratch': Above(
      'finetune_cifar10', 'scratch'
    ),
  },
  labels={
    'scratch': 'from scratch',
    'probe': 'linear probe',
    'finetune': 'fine-tuned',
    'finetune_stage_3': 'fine-tuned from stage 3 on',
    'pretrain': 'on the other classes',
    'scratch_long': 'from scratch, with the updates of pre-training',
    'finetune_cifar10': 'fine-tuned from CIFAR-10',
  },
  scales={
    FULL: Scale('100 epochs', rows=list(ROWS)),
    'px64': Scale(
      '51 classes at 64 pixels, 60 epochs of batch 16: 3,825 updates',
      {
        'num_epochs': 60.0,
        'batch_size': 16,
        'learning_rate': 0.03,
        'data.name': 'folder',
        'data.num_train': 1020,
        'data.num_classes': 51,
        'data.train_image_size': 64,
        'data.eval_image_size': 64,
        'augment.pad': 8,
      },
      ('pretrain', *AT_64),
      lambda config: from_half(config),
    ),
    'cpu': Scale(
      '8 epochs, batch 16: 1,020 updates',
      {'num_epochs': 8.0, 'batch_size': 16, 'learning_rate': 0.03},
      list(ROWS),
    ),
  },
  seeds=(0, 1, 2),
  config=lambda row: recipe(),
  plot=_figures.curves(
    _figures.TOP_1, level=lambda rows: (rows['probe'].mean, 'linear probe')
  ),
)
get_config = EXPERIMENT.get_config


def from_half(config: ConfigDict) -> None:
  """Starts from the other classes what else would from the first runs."""
  if config.weights == PRETRAINED['weights']:
    config.weights = HALF


def half(archive: str, folder: pathlib.Path, is_first: bool) -> pathlib.Path:
  """Every second class of a tar of SPLIT/CLASS/FILE, as an image folder.

  Args:
    archive: Caltech-101, split (nfnets/data/caltech101_split.json).
    folder: holds both halves.
    is_first: which one: that of row pretrain.
  """
  place = folder / ('first' if is_first else 'second')
  if place.exists():
    return place
  partial = place.with_suffix('.partial')
  with tarfile.open(archive) as tar:
    files = {tuple(m.name.split('/')[-3:]): m for m in tar if m.isfile()}
    names = sorted({name for _, name, _ in files})[not is_first :: 2]
    for (split, name, file), member in files.items():
      if name in names:
        path = partial / split / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar.extractfile(member).read())
  return partial.rename(place)


def recipe() -> ConfigDict:
  """The study's recipe for these photographs: 100 epochs at batch 32.

  Learning rate 0.05, AGC with the threshold of the pre-training.
  """
  overrides = {
    **_resnet20.NF,
    **_resnet20.AGC,
    'batch_size': 32,
    'learning_rate_factor': 2.0,
    'data.name': 'caltech101',
    'data.num_train': 2040,
    'data.num_classes': 102,
    'eval_batch_size': 255,
    'observe_every': 0,
  }
  config = _resnet20.recipe(overrides)
  num_steps = config.get_ref('num_steps')
  config.eval_every = num_steps // 6
  config.log_every = num_steps // 30
  return config
