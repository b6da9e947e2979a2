"""The largest stable learning rate: BN, NF, NF with AGC. CIFAR-10.

Rows 'x4' and so on multiply the study's learning rate, 0.1 x batch / 128. AGC's
lambda is 20.48 / batch: 0.16 at 128, 0.02 at 1,024. A rate is stable if the run
ends at half of its network's best accuracy at this batch or more, and at twice
chance or more. Rates are tried in steps of a factor of 4: that is how well the
largest stable one is known.
"""

from experiments import _figures, _resnet20
from experiments.study import OPEN, Experiment, Rows

FACTORS = {128: (1, 4, 16, 64), 1024: (1 / 4, 1, 4, 16, 64)}
NETWORKS = {
  'batch': {'model.normalizer': 'batch'},
  'nf': {'model.normalizer': 'nf'},
  'nf_agc': {'model.normalizer': 'nf', 'optimizer.clip': 'agc'},
}
NAMES = {
  'batch': 'batch normalization',
  'nf': 'normalizer-free',
  'nf_agc': 'normalizer-free, AGC',
}


def rates(network: str, size: int) -> dict[float, str]:
  """Peak learning rates to rows."""
  return {
    0.1 * size / 128 * factor: f'{network}_b{size}_x{factor:g}'
    for factor in FACTORS[size]
  }


EXPERIMENT = Experiment(
  title='The largest stable learning rate',
  claim='Batch normalization allows larger learning rates than a '
  'normalizer-free network, and AGC gives them back.',
  rows={
    f'{network}_b{size}_x{factor:g}': {
      'batch_size': size,
      'learning_rate_factor': float(factor),
      'optimizer.clipping': 20.48 / size,
      **overrides,
    }
    for size, factors in FACTORS.items()
    for factor in factors
    for network, overrides in NETWORKS.items()
  },
  checks=[
    check
    for size in FACTORS
    for check in (
      (
        f'at batch {size} batch normalization allows a larger rate',
        lambda rows, size=size: allows(size, 'batch', 'nf', rows, True),
      ),
      (
        f'at batch {size} AGC allows as large a one as batch normalization',
        lambda rows, size=size: allows(size, 'nf_agc', 'batch', rows),
      ),
    )
  ],
  scales=_resnet20.scales(own_batch=True),
  config=lambda row: _resnet20.recipe(),
  plot=_figures.lines(
    'peak learning rate',
    {
      f'batch {size}': {
        name: rates(network, size) for network, name in NAMES.items()
      }
      for size in FACTORS
    },
  ),
  cost=_resnet20.cost,
)
get_config = EXPERIMENT.get_config


def allows(
  size: int, network: str, other: str, rows: Rows, strictly: bool = False
) -> bool | None:
  """Whether a network's largest stable rate is as large as another's.

  Undecided if both lie beyond one end of the rates tried, or if AGC can't have
  opened a skip gain.
  """
  a, b = (largest(rows, name, size) for name in (network, other))
  tried = [*rates(network, size).values(), *rates(other, size).values()]
  shut = any(rows[name].growth < OPEN for name in tried)
  if shut or (a == b and a in (0, max(rates(network, size)))):
    return None
  return a > b if strictly else a >= b


def largest(rows: Rows, network: str, size: int) -> float:
  """The largest stable rate; 0 if none is."""
  runs = {rate: rows[row] for rate, row in rates(network, size).items()}
  top_1 = {r: 0 if row.diverged else row.mean for r, row in runs.items()}
  floor = max(max(top_1.values()) / 2, 20)  # twice chance
  return max((r for r, value in top_1.items() if value >= floor), default=0)
