"""The largest stable learning rate: BN, NF, NF with AGC. CIFAR-10.

Rows such as 'x4' multiply the study's learning rate, 0.1 x batch / 128. AGC's
lambda is 20.48 / batch: 0.16 at 128, 0.02 at 1,024. A rate is stable if the run
ends with at least half of its network's best accuracy at this batch size, and
with at least twice chance. Rates are tried in steps of a factor of 4, so the
largest stable one is known to that factor.
"""

from experiments import _figures, _resnet20
from experiments.study import (
  OPEN,
  Experiment,
  Numbered,
  Rows,
  Scale,
  fewest,
)

FACTORS = {128: (1, 4, 16, 64), 1024: (1 / 4, 1, 4, 16, 64)}
NETWORKS = {
  'batch': {'model.normalizer': 'batch'},
  'nf': {'model.normalizer': 'nf'},
  'nf_agc': {'model.normalizer': 'nf', 'optimizer.clip': 'agc'},
}
EXPERIMENT = Experiment(
  title='The largest stable learning rate',
  claim='Batch normalization allows larger learning rates than a '
  'normalizer-free network, and AGC makes them possible again.',
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
  checks={
    f'at batch {size} {sentence}': Numbered(
      check, lambda rows, size=size: stable(size, rows)
    )
    for size in FACTORS
    for sentence, check in {
      'BN allows a larger rate than NF': lambda rows, size=size: allows(
        size, 'batch', 'nf', rows, strictly=True
      ),
      'NF with AGC allows as large a rate as BN': lambda rows, size=size: (
        allows(size, 'nf_agc', 'batch', rows)
      ),
    }.items()
  },
  scales=_resnet20.scales() | {'cpu': Scale(_resnet20.PART, _resnet20.CPU)},
  labels={f'b{size}': f'batch {size:,}' for size in FACTORS}
  | {
    f'{network}_b{size}': label
    for size in FACTORS
    for network, label in {
      'batch': 'batch normalization',
      'nf': 'normalizer-free',
      'nf_agc': 'normalizer-free, AGC as published',
    }.items()
  },
  config=lambda row: _resnet20.recipe(),
  plot=_figures.lines(
    'learning rate, relative to the default', r'_x([\d.]+)', by=r'b\d+'
  ),
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
  shut = any(
    rows[f'{name}_b{size}_x{factor:g}'].growth < OPEN
    for name in (network, other)
    for factor in FACTORS[size]
  )
  if shut or (a == b and a in (0, max(FACTORS[size]))):
    return None
  return a > b if strictly else a >= b


def stable(size: int, rows: Rows) -> str:
  """The largest stable factor of each network."""
  found = (f'{name} {largest(rows, name, size):g}' for name in NETWORKS)
  tried = (row for name, row in rows.items() if f'_b{size}_' in name)
  return (
    f'largest stable factors of the rate: {", ".join(found)} (as published), '
    + fewest(tried)
  )


def largest(rows: Rows, network: str, size: int) -> float:
  """The largest stable factor; 0 if none is."""
  runs = {x: rows[f'{network}_b{size}_x{x:g}'] for x in FACTORS[size]}
  top_1 = {x: 0 if row.diverged else row.mean for x, row in runs.items()}
  floor = max(max(top_1.values()) / 2, 20)  # twice chance
  return max((x for x, value in top_1.items() if value >= floor), default=0)
