"""Five networks at batch 128, each at its own learning rate. CIFAR-10.

Each arm has the learning rate that `pilot` chose on held-out training images
(`--config.learning_rate_factor=ITS_OWN`); AGC's lambda is 0.16. In two more
rows AGC clips skip gains too, as in the paper; in the second of them, skip
gains start at 1 instead of 0. The comparisons were planned before the runs. Row
`none_agc_slow` was added after the first seed: without normalization, the rate
that the pilot's short runs chose with AGC is eight times the one without.
"""

from experiments import _figures, _resnet20
from experiments.records import Record
from experiments.study import FULL, Above, Experiment, Numbered, Row, Rows

GAIN1 = {'model.skipinit_gain': 1.0}
SLOW = {'learning_rate_factor': 1 / 16}  # what the pilot chose for 'none'
BEHIND = Above('batch', 'none')
EXPERIMENT = Experiment(
  title='ResNet-20 on CIFAR-10, each at its own learning rate',
  claim='Without normalization a ResNet-20 loses accuracy at any learning '
  'rate, AGC restores part of it, and a normalizer-free network all of it.',
  rows={
    **_resnet20.ARMS,
    'none_agc_slow': _resnet20.ARMS['none_agc'] | SLOW,
    'nf_agc_gain1': _resnet20.ARMS['nf_agc_clipped'] | GAIN1,
  },
  checks={
    'no normalization is worse than BN': Above('batch', 'none'),
    'AGC improves on no normalization': Above('none_agc', 'none'),
    'AGC without normalization is worse than BN': Above('batch', 'none_agc'),
    'NF is at most 1 point below BN': Above('nf', 'batch', by=-1),
    'AGC costs NF at most 1 point': Above('nf_agc', 'nf', by=-1),
  },
  explored={
    'no normalization is behind BN after a quarter of the run': Numbered(
      lambda rows: BEHIND(at_a_quarter(rows)),
      lambda rows: BEHIND.numbers(at_a_quarter(rows)),
    ),
    'AGC adds at most 1 point to NF': Above('nf', 'nf_agc', by=-1),
    'AGC improves on no normalization at the same rate': Above(
      'none_agc_slow', 'none'
    ),
  },
  labels={
    **_resnet20.LABELS,
    'none_agc_slow': 'no normalization, AGC, at the rate of no normalization',
    'nf_agc_gain1': 'normalizer-free, AGC on skip gains too, which start at 1',
  },
  scales={FULL: _resnet20.epochs(164), 'short': _resnet20.epochs(20)},
  seeds=(0, 1, 2),
  config=lambda row: _resnet20.recipe(),
  plot=_figures.curves(_figures.TOP_1, _figures.LOSS, _figures.CLIPPED),
)
get_config = EXPERIMENT.get_config


def at_a_quarter(rows: Rows) -> Rows:
  """The rows as they were at their first evaluation, if they reached it."""

  def cut(record: Record) -> Record:
    if not record['curve']:
      return record
    return record | {'summary': record['curve'][0], 'status': 'finished'}

  first = {n: Row(n, [*map(cut, row.records)]) for n, row in rows.items()}
  return Rows(first)
