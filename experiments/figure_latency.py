"""A training step's time: NFNets, their BN twins, ResNets (paper A, Table 3).

Median and quartiles of many complete training steps on one device, with the
data already there and without parameter averaging. The published times are for
TPUv3 with 32 images a core in bfloat16, and for one V100 in float16. The
paper's F5 and F6 with SAM have no row here. Whether paper A clips the twins
that it times, and whether its steps average parameters, is not known. Which of
two twins is faster depends on the network, the image size and the device;
batchnorm_costs has ResNet-20 at batch 128.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments import _figures, _published
from experiments.study import FULL, Experiment, Row, Rows, Scale

BATCHNORM = {'model.normalizer': 'batch'}
ROWS = {
  'resnet_50': {'model.name': 'resnet_50'},
  'nf_resnet_50': {'model.name': 'nf_resnet_50'},
  **{f'f{k}': {'model.name': f'nfnet_f{k}'} for k in range(6)},
  **{
    f'f{k}_batchnorm': {'model.name': f'nfnet_f{k}', **BATCHNORM}
    for k in range(4)
  },
}
TWINS = {'nf_resnet_50': 'resnet_50'} | {
  f'f{k}': f'f{k}_batchnorm' for k in range(4)
}
EXPERIMENT = Experiment(
  title="Time of a training step (paper A's Tables 3 and 6, Figure 1)",
  claim='A normalizer-free network takes less time a step than its '
  'batch-normalized twin, which is 20 to 40 % slower as the text says [P], and '
  '16 to 63 % by its Table 6 [P].',
  rows=ROWS,
  checks={
    f'{nf} takes less time than {bn}': lambda rows, nf=nf, bn=bn: is_faster(
      rows[nf], rows[bn]
    )
    for nf, bn in TWINS.items()
  },
  published={
    row: (_published.step_times(row), 'P')
    for row in ROWS
    if row in _published.STEP_MS
  },
  scales={
    FULL: Scale('32 images in bfloat16 at the training size, an accelerator'),
    'cpu': Scale(
      '4 images in float32, at half the training size a side',
      {'batch_size': 4, 'precision': 'float32', 'shrink': 2},
    ),
  },
  columns={
    'ms a step (quartiles)': lambda row: '{:,.0f} ({:,.0f} to {:,.0f})'.format(
      *milliseconds(row)
    ),
    'clips': lambda row: {'agc': 'AGC'}.get(row.measured['clip'], '–'),
  },
  config=lambda row: ConfigDict(
    {'batch_size': 32, 'precision': 'bfloat16', 'shrink': 1, 'model': {}}
  ),
  measure=lambda config: measure(config),
  plot=lambda experiment, rows: panels(rows),
)
get_config = EXPERIMENT.get_config


def is_faster(nf: Row, bn: Row) -> bool | None:
  """Whether a step takes less time; undecided if the quartiles overlap."""
  a, b = nf.measured['seconds'], bn.measured['seconds']
  if b['low'] > a['high']:
    return True
  return False if a['low'] > b['high'] else None


def milliseconds(row: Row) -> tuple[float, ...]:
  """A step's median, lower and upper quartile."""
  found = row.measured['seconds']
  return tuple(1000 * found[key] for key in ('median', 'low', 'high'))


def measure(config: ConfigDict) -> dict[str, Any]:
  """Times the whole training step of one row on this machine's device."""
  from configs import nf_resnet_50, nfnet_f0, resnet_50
  from nfnets import variants
  from nfnets.bench import programs, step_time

  overrides = config.model.to_dict()
  name = overrides.pop('name')
  families = {'nfnet': nfnet_f0, 'nf_resnet': nf_resnet_50, 'resnet': resnet_50}
  plain = programs.plain(
    families[name.rpartition('_')[0]].get_config(),
    name,
    config.batch_size,
    variants.find(name)['train_image_size'] // config.shrink,
    config.precision,
    overrides=overrides,
  )
  return step_time.measure(plain, seconds=10.0)


def panels(rows: Rows) -> _figures.Panels:
  """Times of twins, and Figure 1 with them in place of the paper's."""
  times = {name: milliseconds(row)[0] for name, row in rows.items()}
  arms = {
    'normalizer-free': {nf: times.get(nf) for nf in [*TWINS, 'f4', 'f5']},
    'batch normalization': {nf: times.get(bn) for nf, bn in TWINS.items()},
  }
  found = [
    _figures.Curve(label, *zip(*((n, ms) for n, ms in arm.items() if ms)))
    for label, arm in arms.items()
    if any(arm.values())
  ]
  yield _figures.Panel('', 'ms a training step', found, log='y')
  figure = [
    _figures.Curve(name, [ms], [_published.TABLE_3[name][0]])
    for name, ms in times.items()
    if name in _published.TABLE_3
  ]
  y = 'published ImageNet top-1 (%) [P]'
  yield _figures.Panel('ms a training step', y, figure)
