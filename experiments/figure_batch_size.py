"""Accuracy against batch size: BN, NF, NF + AGC (paper A, Figure 2a).

ResNet-50 and -200 for 90 epochs, learning rate 0.1 x batch / 256, 5 epochs of
warm-up, cosine to 0, in every arm. Lambda is 0.01, which paper A recommends for
1,024 to 4,096; which one its figure has at smaller batches isn't known here.
The paper shows the mean of the best 4 of 5 runs, this table that of all. Its
figure is read to ± 0.05 points; some markers lie hidden behind others.
"""

from collections.abc import Mapping

from matplotlib.figure import Figure

from configs import nf_resnet_50, nf_resnet_50_agc, resnet_50
from experiments import _figures, _papers
from experiments.study import Above, Experiment, Rows

BATCHES = (256, 512, 1024, 2048, 4096)
ARMS = {'bn': 'BN', 'nf': 'NF', 'nf_agc': 'NF + AGC'}
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
  checks=[
    (
      'at batch 256 NF-ResNet-50 is at most half a point below BN',
      Above('nf_50_bs256', 'bn_50_bs256', by=-0.5),
    ),
    *(
      check
      for depth in (50, 200)
      for check in (
        (
          f'at batch 4,096 NF-ResNet-{depth} is 5 points below BN or diverges',
          Above(f'bn_{depth}_bs4096', f'nf_{depth}_bs4096', by=5),
        ),
        (
          'and with AGC at most half a point below',
          Above(f'nf_agc_{depth}_bs4096', f'bn_{depth}_bs4096', by=-0.5),
        ),
      )
    ),
  ],
  published={
    f'{network}_bs{batch}': (number, 'D', 'Figure 2a')
    for network, numbers in FIGURE.items()
    for batch, number in zip(BATCHES, numbers)
  },
  scales=_papers.scales(
    [f'{arm}_50_bs{batch}' for batch in (4096, 1024, 2048) for arm in ARMS],
    clipping=16,
  ),
  seeds=(0, 1, 2, 3, 4),
  config=lambda row: RECIPES[row.partition('_50')[0].partition('_200')[0]](),
  cost=_papers.cost(
    lambda row: _papers.hours_of_macs(_papers.GMACS[row.split('_')[-2]], 90)
  ),
  plot=lambda experiment, found: plot(found),
)
get_config = EXPERIMENT.get_config
RECIPES = {
  'bn': resnet_50.get_config,
  'nf': nf_resnet_50.get_config,
  'nf_agc': nf_resnet_50_agc.get_config,
}


def plot(found: Mapping[str, Rows]) -> Figure:
  """The figure's numbers, and ours of the fullest scale beside them."""
  made = Figure(figsize=(10, 4.6), layout='constrained')
  left, right = made.subplots(1, 2)
  for color, (arm, label) in zip(_figures.COLORS, ARMS.items()):
    for depth, line, aside in ((50, '--', 0.93), (200, '-', 1.07)):
      points = dict(zip(BATCHES, FIGURE[f'{arm}_{depth}']))
      low = [aside * b for b, top_1 in points.items() if top_1 == 'below 70']
      high = [(b, top_1) for b, top_1 in points.items() if top_1 != 'below 70']
      style = {'color': color, 'mfc': 'white' if depth == 50 else color}
      label_of = f'{label}, {depth} layers'
      left.plot(*zip(*high), line, marker='o', label=label_of, **style)
      _figures.draw_at_foot(left, low, 'v', ms=9, **style)
  left.plot([], [], 'v', color='0.4', ms=9, label='below 70')
  _figures.finish(left, 'batch size', 'top-1 (%)', 'ImageNet, published [D]')
  left.set_xscale('log')
  left.set_xticks(BATCHES, [f'{batch:,}' for batch in BATCHES])
  left.minorticks_off()
  left.legend(loc='center left', fontsize=8)
  for scale, rows in list(found.items())[:1]:
    divisor = 4096 // EXPERIMENT.get_config(f'bn_50_bs4096@{scale}').batch_size
    series = {
      label: {b // divisor: f'{arm}_50_bs{b}' for b in BATCHES}
      for arm, label in ARMS.items()
    }
    _figures.draw_lines(right, rows, series)
    smoke = 'a smoke test at ' if EXPERIMENT.scales[scale].smoke else ''
    title = f'50 layers here, {smoke}scale {scale} (x: diverged)'
    _figures.finish(right, 'batch size', 'test top-1 (%)', title)
  return made
