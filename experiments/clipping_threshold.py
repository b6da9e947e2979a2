"""Plain gradient clipping over thresholds, at two learning rates. CIFAR-10.

The gradients of the normalizer-free ResNet-20, all but the head's, are clipped
to a common norm; batch 1,024 at scales full and short. Rows 'lr4' have four
times the learning rate of rows 'lr1'. The threshold matters if the five rows
are further apart than five equal rows would be by chance (Tukey's studentized
range at 95 %).
"""

from scipy import stats

from experiments import _figures, _resnet20
from experiments.study import Experiment, Numbered, Rows, fewest

THRESHOLDS = (0.03, 0.1, 0.3, 1.0, 3.0)
TRIED = {  # by rate, the rows and their thresholds
  rate: {f'lr{rate:g}_t{threshold:g}': threshold for threshold in THRESHOLDS}
  for rate in (1.0, 4.0)
}
# How far apart five equal rows may be.
CHANCE = _resnet20.SPREAD[0] * stats.studentized_range.ppf(
  0.95, len(THRESHOLDS), _resnet20.SPREAD[1]
)
EXPERIMENT = Experiment(
  title='Plain gradient clipping: how much the threshold matters',
  claim='What plain gradient clipping gives a normalizer-free ResNet-20 '
  'depends on the threshold, and the best threshold on the learning rate.',
  rows={
    name: {
      'learning_rate_factor': rate,
      'optimizer.clip': 'norm',
      'optimizer.clipping': threshold,
    }
    for rate, tried in TRIED.items()
    for name, threshold in tried.items()
  }
  | {f'lr{rate:g}_none': {'learning_rate_factor': rate} for rate in TRIED},
  checks={
    f'at rate x {rate:g} the threshold matters': Numbered(
      lambda rows, rate=rate: matters(rows, rate),
      lambda rows, rate=rate: apart(rows, rate),
    )
    for rate in TRIED
  }
  | {
    'the best threshold depends on the rate': lambda rows: depends(rows),
  },
  labels={
    'lr1': 'rate x 1',
    'lr4': 'rate x 4',
    'lr1_none': 'rate x 1, not clipped',
    'lr4_none': 'rate x 4, not clipped',
  },
  scales=_resnet20.scales(),
  config=lambda row: _resnet20.recipe(
    {'model.normalizer': 'nf', 'batch_size': 1024}
  ),
  plot=_figures.lines('threshold of the norm', r'_t([\d.]+)'),
  spread=_resnet20.SPREAD,
)
get_config = EXPERIMENT.get_config


def matters(rows: Rows, rate: float) -> bool | None:
  """Whether thresholds differ by more than chance makes of equal ones."""
  found = [rows[name] for name in TRIED[rate]]
  if len({bool(row.diverged) for row in found}) == 2:
    return True
  means = [row.mean for row in found]
  return True if max(means) - min(means) > CHANCE else None


def apart(rows: Rows, rate: float) -> str:
  """How far apart the finished rows are, and how far equal ones would be."""
  found = [rows[name] for name in TRIED[rate]]
  means = [row.mean for row in found if row.values]
  if not means:
    return 'all diverged'
  diverged = sum(bool(row.diverged) for row in found)
  ended = f'{diverged} of {len(found)} diverged; ' if diverged else ''
  return (
    f'{ended}best - worst = {max(means) - min(means):.1f} points, equal rows: '
    f'up to {CHANCE:.1f}, {fewest(found)}'
  )


def depends(rows: Rows) -> bool | None:
  """Whether no threshold may be the best at both rates.

  It is undecided if one may be, unless it alone is, within those tried.
  """
  a, b = (
    {tried[name] for name in rows.best(list(tried))} for tried in TRIED.values()
  )
  if not a & b:
    return True
  least, *_, most = THRESHOLDS
  inside = len(a | b) == 1 and not a & {least, most}
  return False if inside else None
