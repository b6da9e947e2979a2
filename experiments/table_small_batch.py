"""NF-ResNet-50 and ResNet-50 at batches of 4 and 8 (paper B, Table 2).

Both arms train for 15 epochs (from memory, not verified) on one device, with
learning rate 0.1 x batch / 256, 5 epochs of warm-up, cosine decay to 0 and no
clipping. The chip-hours assume a utilization that 4 images can't reach.
"""

from configs import nf_resnet_50, resnet_50
from experiments import _papers
from experiments.study import Above, Experiment

RECIPES = {'bn': resnet_50, 'nf': nf_resnet_50}
ROWS = {
  f'{arm}_bs{batch}': {'batch_size': batch, 'num_epochs': 15.0}
  for batch in (4, 8)
  for arm in RECIPES
}
EXPERIMENT = Experiment(
  title="Small batches (paper B's Table 2)",
  claim='Trained four images at a time a batch-normalized ResNet-50 loses much '
  'of its accuracy; a normalizer-free one does not.',
  rows=ROWS,
  checks={
    'at batch 4 NF is more than 5 points above BN': Above(
      'nf_bs4', 'bn_bs4', by=5
    ),
    'BN loses more than 5 from batch 8 to 4': Above('bn_bs8', 'bn_bs4', by=5),
    'NF loses at most 1 from batch 8 to 4': Above('nf_bs4', 'nf_bs8', by=-1),
  },
  published={'nf_bs4': (69.9, 'S'), 'bn_bs4': (55.7, 'S')},
  scales=_papers.scales(ROWS, batch=1, epochs=2.0),
  seeds=(0, 1, 2, 3, 4),
  config=lambda row: RECIPES[row.partition('_')[0]].get_config(),
)
get_config = EXPERIMENT.get_config
