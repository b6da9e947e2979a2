"""Plain gradient clipping over thresholds, at two learning rates. CIFAR-10.

The normalizer-free ResNet-20, all gradients but the head's clipped to a common
norm; batch 1,024 at scales full and short. Rows 'lr4' have four times the rate
of rows 'lr1'. The threshold matters if the five are further apart than five
equal rows would be by chance (Tukey's studentized range at 95 %).
"""

from scipy import stats

from experiments import _figures, _resnet20
from experiments.study import Experiment, Rows

RATES = (1, 4)
THRESHOLDS = (0.03, 0.1, 0.3, 1.0, 3.0)


def names(rate: int) -> dict[str, float]:
  """The rows of a rate, to their thresholds."""
  return {f'lr{rate}_t{value:g}': value for value in THRESHOLDS}


EXPERIMENT = Experiment(
  title='Plain gradient clipping: how much the threshold matters',
  claim='What plain gradient clipping gives a normalizer-free ResNet-20 '
  'depends on the threshold, and the best threshold on the learning rate.',
  rows={
    name: {
      'learning_rate_factor': float(rate),
      'optimizer.clip': 'norm',
      'optimizer.clipping': threshold,
    }
    for rate in RATES
    for name, threshold in names(rate).items()
  }
  | {f'lr{rate}_none': {'learning_rate_factor': float(rate)} for rate in RATES},
  checks=[
    ('at rate x 1 the threshold matters', lambda rows: matters(1, rows)),
    ('at rate x 4 the threshold matters', lambda rows: matters(4, rows)),
    ('the best threshold depends on the rate', lambda rows: depends(rows)),
  ],
  scales=_resnet20.scales(),
  config=lambda row: _resnet20.recipe('nf', batch_size=1024),
  plot=_figures.lines(
    'threshold of the norm',
    {
      '': {
        f'rate x {rate}': {value: name for name, value in names(rate).items()}
        for rate in RATES
      }
    },
    {f'rate x {rate}': f'lr{rate}_none' for rate in RATES},
    'not clipped',
  ),
  spread=_resnet20.SPREAD,
  cost=_resnet20.cost,
)
get_config = EXPERIMENT.get_config


def matters(rate: int, rows: Rows) -> bool | None:
  """Whether thresholds differ by more than chance makes of equal ones."""
  found = [rows[name] for name in names(rate)]
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
    {names(rate)[name] for name in rows.best(list(names(rate)))}
    for rate in RATES
  )
  if not a & b:
    return True
  inside = len(a | b) == 1 and not a & {THRESHOLDS[0], THRESHOLDS[-1]}
  return False if inside else None
