"""What batch normalization costs besides accuracy; nothing is trained.

ResNet-20 with batch normalization and normalizer-free, both untrained, on the
first 1,024 test images of CIFAR-10, with one row for each drawback that has
been held against batch normalization. The normalizer-free network's skip gains
are 1: at 0, where its recipe starts them, its branches would add nothing to the
logits. Time and memory of a step are measured with the recipe's 0 and on random
pixels, neither of which changes what is computed. Differences of logits are
relative to how much they differ between images. This shows whether a network
has a drawback, not how large the drawback is after training. Which network is
faster depends on the network, the image size and the device: see
figure_latency.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import _batchnorm, _figures, _resnet20
from experiments.study import FULL, Experiment, Row, Rows, Scale

NAMES = {'batch': 'batch normalization', 'nf': 'normalizer-free'}
GAIN = {'model.skipinit_gain': 1.0}
ROUNDING = 1e-4  # relative; below it nothing but the order of sums differs
EXPERIMENT = Experiment(
  title='What batch normalization costs',
  claim='Batch normalization takes time and memory, lets predictions depend on '
  'batch mates, differs between training and inference, and depends on the '
  'number of devices; a normalizer-free network has none of these.',
  rows={
    'step_cost': {'drawback': 'step_cost'},
    'batch_mates': {'drawback': 'batch_mates', **GAIN},
    'train_eval_gap': {'drawback': 'train_eval_gap', **GAIN},
    'device_count': {'drawback': 'device_count', **GAIN},
  },
  checks={
    'a step of BN takes more time, by the quartiles': lambda rows: beyond(
      rows['step_cost'].measured['batch']['ratio']
    ),
    'a step of BN takes over 1 % more memory': lambda rows: (
      memory(rows, 'batch') > 1.01 * memory(rows, 'nf')
    ),
    'batch mates change the logits with BN only': lambda rows: only_batch(
      rows['batch_mates'], 'logits'
    ),
    'training and inference differ with BN only': lambda rows: only_batch(
      rows['train_eval_gap'], 'logits'
    ),
    'the device count changes the gradient with BN only': lambda rows: (
      only_batch(rows['device_count'], 'gradient')
    ),
  },
  labels={
    'step_cost': 'a training step at batch 128: quartiles of its time, and of '
    "its ratio to the normalizer-free one's; memory beside state and batch",
    'batch_mates': 'in training mode at batch 16, each of 32 images among 8 '
    'sets of 15 others: images whose class changes, change of the logits',
    'train_eval_gap': 'training against inference at batch 4, 16 and 64, '
    'averages over 50 batches: images whose class differs, logits',
    'device_count': "difference from one device's gradient of a batch of 64 "
    'that is split among 1, 2, 8 and 32',
  },
  scales={
    FULL: Scale(
      '32 pixels, float32, 1,024 images',
      {'data.eval_split': 'test[:1024]'},
    )
  },
  columns={
    label: lambda row, name=name: cell(row, row.measured[name])
    for name, label in NAMES.items()
  },
  config=lambda row: recipe(),
  measure=_batchnorm.measure,
  plot=_figures.plot_of(lambda experiment, rows: panels(rows)),
)
get_config = EXPERIMENT.get_config


def recipe() -> ConfigDict:
  """The study's ResNet-20, and which drawback a row measures."""
  config = _resnet20.recipe()
  with config.unlocked():
    config.drawback = ''
  return config


def beyond(ratio: tuple[float, float, float]) -> bool | None:
  """Whether a ratio's quartiles lie above 1; undecided if they straddle it."""
  low, _, high = ratio
  return True if low > 1 else False if high < 1 else None


def memory(rows: Rows, name: str) -> int:
  """Bytes of a step beside state and batch."""
  return rows['step_cost'].measured[name]['temporary']


def only_batch(row: Row, key: str) -> bool:
  """Whether something changes with batch normalization and not without it."""
  batch, nf = (numbers(row.measured[name][key]) for name in NAMES)
  return max(batch.values()) > ROUNDING > max(nf.values())


def cell(row: Row, found: Mapping[str, Any]) -> str:
  """A row's numbers of one network."""
  if row.name == 'step_cost':
    seconds = ' / '.join(f'{1000 * s:.0f}' for s in found['seconds'])
    ratios = ' / '.join(f'{ratio:.2f}' for ratio in found['ratio'])
    return f'{seconds} ms; {ratios}; {found["temporary"] / 2**20:.0f} MiB'
  keys = ('changed', 'logits', 'gradient')
  return '; '.join(percent(found[key]) for key in keys if key in found)


def numbers(found: float | Mapping[str, float]) -> dict[int, float]:
  """Shares by what is varied, in order; a single one by 0."""
  found = found if isinstance(found, Mapping) else {'0': found}
  return {count: found[str(count)] for count in sorted(map(int, found))}


def percent(found: float | Mapping[str, float]) -> str:
  """'59 %', or '41, 26, 13 %' by what is varied."""
  return ', '.join(f'{100 * x:.2g}' for x in numbers(found).values()) + ' %'


def panels(rows: Rows) -> _figures.Panels:
  """Two of the drawbacks over what they depend on."""
  for row, key, x, y in (
    ('train_eval_gap', 'logits', 'batch size', 'training - inference (%)'),
    ('device_count', 'gradient', 'devices', 'change of the gradient (%)'),
  ):
    found = []
    for name, label in NAMES.items() if row in rows else ():
      values = numbers(rows[row].measured[name][key])
      percents = [100 * value for value in values.values()]
      found.append(_figures.Curve(label, list(values), percents))
    yield _figures.Panel(x, y, found, log='x')
