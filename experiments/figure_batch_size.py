"""Accuracy against batch size: BN, NF, NF + AGC (paper A, Figure 2a).

ResNet-50 and -200, trained for 90 epochs in every arm, with learning rate 0.1 x
batch / 256, 5 epochs of warm-up and cosine decay to 0. Lambda is 0.01, which
paper A recommends for batches of 1,024 to 4,096; the lambda behind its figure
at smaller batches isn't known here. The paper shows the mean of the best 4 of 5
runs, this table the mean of all. The figure can be read to ± 0.05 points; some
markers are hidden behind others.
"""

from configs import nf_resnet_50, nf_resnet_50_agc, resnet_50
from experiments import _figures, _papers
from experiments.study import Above, Experiment

BATCHES = (256, 512, 1024, 2048, 4096)
ARMS = {'bn': resnet_50, 'nf': nf_resnet_50, 'nf_agc': nf_resnet_50_agc}
FIGURE = {
  'bn_50': (76.9, 76.8, 76.4, 76.8, 76.8),
  'nf_50': (76.6, 76.7, 76.9, 76.9, 'below 70'),
  'nf_agc_50': (76.8, 76.9, 77.0, 76.9, 76.7),
  'bn_200': (78.7, 79.0, 78.9, 79.0, 78.9),
  'nf_200': (79.3, 79.5, 79.5, 79.6, 'below 70'),
  'nf_agc_200': (79.2, 79.4, 79.6, 79.5, 79.2),
}
EXPERIMENT = Experiment(
  title="Batch size: NF-ResNets with and without AGC (paper A's Figure 2a)",
  claim='Without AGC a normalizer-free ResNet matches batch normalization at '
  'small batches and collapses at 4,096; with AGC it keeps its accuracy there.',
  rows={
    f'{arm}_{depth}_bs{batch}': {
      'batch_size': batch,
      'model.name': f'{"resnet" if arm == "bn" else "nf_resnet"}_{depth}',
    }
    for depth in (50, 200)
    for arm in ARMS
    for batch in BATCHES
  },
  checks={
    'at batch 256 NF-ResNet-50 is at most half a point below BN': Above(
      'nf_50_bs256', 'bn_50_bs256', by=-0.5
    ),
    'at batch 4,096 NF-ResNet-50 is 5 points below BN or diverges': Above(
      'bn_50_bs4096', 'nf_50_bs4096', by=5
    ),
    'with AGC it is at most half a point below': Above(
      'nf_agc_50_bs4096', 'bn_50_bs4096', by=-0.5
    ),
    'at batch 4,096 NF-ResNet-200 is 5 points below BN or diverges': Above(
      'bn_200_bs4096', 'nf_200_bs4096', by=5
    ),
    'with AGC NF-ResNet-200 is at most half a point below': Above(
      'nf_agc_200_bs4096', 'bn_200_bs4096', by=-0.5
    ),
  },
  published={
    f'{network}_bs{batch}': (number, 'D')
    for network, numbers in FIGURE.items()
    for batch, number in zip(BATCHES, numbers)
  },
  scales=_papers.scales(
    [f'{arm}_50_bs{batch}' for batch in (4096, 1024, 2048) for arm in ARMS],
    clipping=16,
  ),
  labels={
    f'{arm}_{depth}': f'{name}{depth}{agc}'
    for depth in (50, 200)
    for arm, name, agc in (
      ('bn', 'ResNet-', ', batch normalization'),
      ('nf', 'NF-ResNet-', ''),
      ('nf_agc', 'NF-ResNet-', ', AGC'),
    )
  },
  seeds=(0, 1, 2, 3, 4),
  config=lambda row: ARMS[row.rsplit('_', 2)[0]].get_config(),
  plot=_figures.lines('batch size at full size', r'_bs(\d+)'),
)
get_config = EXPERIMENT.get_config
