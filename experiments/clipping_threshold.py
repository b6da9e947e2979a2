"""Plain gradient clipping over thresholds, at two learning rates. CIFAR-10.

The gradients of the normalizer-free ResNet-20, all but the head's, are clipped
to a common norm; batch 1,024 at scales full and short. Rows 'lr4' have four
times the learning rate of rows 'lr1'. The threshold matters if the five rows
are further apart than five equal rows would be by chance (Tukey's studentized
range at 95 %).
"""

from scipy import stats

from experiments import _figures, _resnet20
from experiments.study import Experiment, Rows

RATES = {'lr1': 1.0, 'lr4': 4.0}
THRESHOLDS = {'t0.03': 0.03, 't0.1': 0.1, 't0.3': 0.3, 't1': 1.0, 't3': 3.0}
EXPERIMENT = Experiment(
  title='Plain gradient clipping: how much the threshold matters',
  claim='What plain gradient clipping gives a normalizer-free ResNet-20 '
  'depends on the threshold, and the best threshold on the learning rate.',
  rows={
    f'{rate}_{threshold}': {
      'learning_rate_factor': RATES[rate],
      'optimizer.clip': 'norm',
      'optimizer.clipping': norm,
    }
    for rate in RATES
    for threshold, norm in THRESHOLDS.items()
  }
  | {f'{rate}_none': {'learning_rate_factor': RATES[rate]} for rate in RATES},
  checks={
    'at rate x 1 the threshold matters': lambda rows: matters('lr1', rows),
    'at rate x 4 the threshold matters': lambda rows: matters('lr4', rows),
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


def matters(rate: str, rows: Rows) -> bool | None:
  """Whether thresholds differ by more than chance makes of equal ones."""
  found = [rows[f'{rate}_{threshold}'] for threshold in THRESHOLDS]
  if len({bool(row.diverged) for row in found}) == 2:
    return True
  deviation, freedom = _resnet20.SPREAD
  means = [row.mean for row in found]
  clear = stats.studentized_range.ppf(0.95, len(means), freedom) * deviation
  return True if max(means) - min(means) > clear else None


def depends(rows: Rows) -> bool | None:
  """Whether no threshold may be the best at both rates.

  It is undecided if one may be, unless it alone is, within those tried.
  """
  a, b = (
    {name.removeprefix(f'{rate}_') for name in rows.best(tried)}
    for rate in RATES
    for tried in [[f'{rate}_{threshold}' for threshold in THRESHOLDS]]
  )
  if not a & b:
    return True
  least, *_, most = THRESHOLDS
  inside = len(a | b) == 1 and not a & {least, most}
  return False if inside else None
