"""AGC over batch sizes and lambdas, at each arm's own learning rate. CIFAR-10.

Like `agc_sweep`, except that skip gains are exempt from AGC and that each arm
has the learning rate that `pilot` chose
(`--config.learning_rate_factor=ITS_OWN`).
"""

from experiments import _grid, _resnet20
from experiments.study import FULL, Experiment, Scale

ARMS = {'nf': 'nf_agc', 'none': 'none_agc'}
GRIDS = [
  _grid.Grid(name, _resnet20.LABELS[arm], _resnet20.ARMS[arm])
  for name, arm in ARMS.items()
]
EXPERIMENT = Experiment(
  title="AGC: batch size and lambda, at each arm's own learning rate",
  claim='Test accuracy correlates negatively with the batch size and '
  'positively with lambda; the batch size matters more; small batches want a '
  'bigger lambda.',
  rows=_grid.rows(GRIDS, (128, 64, 32, 16)),
  checks=_grid.checks(GRIDS),
  scales={FULL: Scale(_resnet20.PART, _resnet20.CPU)},
  seeds=(0, 1, 2),
  config=lambda row: _resnet20.recipe(),
  plot=_grid.plot(GRIDS),
  spread=_resnet20.SPREAD,
)
get_config = EXPERIMENT.get_config
