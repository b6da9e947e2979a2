"""AGC over batch sizes and lambdas, with and without scaled weights. CIFAR-10.

Rows 'nf_…' are the normalizer-free ResNet-20: pre-activation blocks, with a
convolution on the shortcut of a transition. Rows 'none_…' are He et al.'s
network with biases instead of normalization; its blocks end with the
activation. AGC clips skip gains as well, so at scale cpu lambda 0.01 can't open
a skip gain that starts at 0 within 13 epochs; `agc_grid` exempts them. Scale
cpu tries batches of 16 to 128, the others 128 to 1,024.
"""

from experiments import _grid, _resnet20
from experiments.study import FULL, Experiment, Scale

GRIDS = [
  _grid.Grid('nf', 'normalizer-free', _resnet20.NF | _resnet20.AGC),
  _grid.Grid('none', 'no normalization, AGC', _resnet20.NONE | _resnet20.AGC),
]
SMALL = [*_grid.rows(GRIDS, (16, 32, 64, 128))]
LARGE = [*_grid.rows(GRIDS, (128, 256, 512, 1024))]
EXPERIMENT = Experiment(
  title='AGC: batch size and lambda',
  claim='With AGC, test accuracy correlates negatively with the batch size and '
  'positively with lambda; the batch size matters more; small batches want a '
  'bigger lambda; and 0.01 is too tight, as the report suspected.',
  rows=_grid.rows(GRIDS, _grid.SIZES),
  checks=_grid.checks(GRIDS),
  scales={
    FULL: _resnet20.epochs(100, LARGE),
    'short': _resnet20.epochs(30, LARGE),
    'cpu': Scale(_resnet20.PART, _resnet20.CPU, SMALL),
  },
  config=lambda row: _resnet20.recipe(),
  plot=_grid.plot(GRIDS),
  spread=_resnet20.SPREAD,
)
get_config = EXPERIMENT.get_config
