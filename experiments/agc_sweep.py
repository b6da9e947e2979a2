"""AGC over batch sizes and lambdas, with and without scaled weights. CIFAR-10.

Rows 'nf_…' are the normalizer-free ResNet-20: pre-activation blocks, with a
convolution on the shortcut of a transition. Rows 'none_…' are He et al.'s
network with biases instead of normalization; its blocks end with the
activation. AGC clips skip gains as well, so at scale cpu lambda 0.01 can't open
a skip gain that starts at 0 within 13 epochs; `agc_grid` exempts them. Scale
cpu tries batches of 16 to 128, the others 128 to 1,024.
"""

from experiments import _grid, _resnet20
from experiments.study import Experiment

NETWORKS = {'nf': 'normalizer-free', 'none': 'no normalization'}
SMALL, LARGE = (16, 32, 64, 128), (128, 256, 512, 1024)
GRIDS = [_grid.Grid(*named) for named in NETWORKS.items()]
ROWS = {
  f'{network}_b{size}_l{lambda_:g}': {
    'model.normalizer': network,
    'batch_size': size,
    'optimizer.clip': 'agc',
    'optimizer.clipping': lambda_,
  }
  for network in NETWORKS
  for size in (*SMALL, *LARGE[1:])
  for lambda_ in _grid.LAMBDAS
}
EXPERIMENT = Experiment(
  title='AGC: batch size and lambda',
  claim='With AGC, test accuracy correlates negatively with the batch size and '
  'positively with lambda; the batch size matters more; small batches want a '
  'bigger lambda; and 0.01 is too tight, as the report suspected.',
  rows=ROWS,
  checks=_grid.checks(*GRIDS),
  scales=_resnet20.scales(
    [row for row, at in ROWS.items() if at['batch_size'] in SMALL],
    own_batch=True,
    full=[row for row, at in ROWS.items() if at['batch_size'] in LARGE],
  ),
  config=lambda row: _resnet20.recipe(),
  plot=_grid.plot(*GRIDS),
  spread=_resnet20.SPREAD,
)
get_config = EXPERIMENT.get_config
