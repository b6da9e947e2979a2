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

from collections.abc import Callable, Mapping
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
    'batch normalization takes more time a step, by the quartiles': (
      lambda rows: beyond(rows['step_cost'].measured['batch']['ratio'])
    ),
    'and more than 1 % more memory': lambda rows: (
      memory(rows, 'batch') > 1.01 * memory(rows, 'nf')
    ),
    'with it alone batch mates change the logits': lambda rows: only_batch(
      rows['batch_mates'], lambda found: found['logits']
    ),
    'with it alone training and inference differ': lambda rows: only_batch(
      rows['train_eval_gap'], lambda found: max(found['logits'].values())
    ),
    'with it alone the gradient depends on the number of devices': (
      lambda rows: only_batch(
        rows['device_count'], lambda found: max(found['gradient'].values())
      )
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


def only_batch(row: Row, change: Callable[[Mapping], float]) -> bool:
  """Whether something changes with batch normalization alone."""
  batch, nf = (change(row.measured[name]) for name in NAMES)
  return batch > ROUNDING > nf


def cell(row: Row, found: Mapping[str, Any]) -> str:
  """A row's numbers of one network."""
  if row.name == 'step_cost':
    seconds = ' / '.join(f'{1000 * s:.0f}' for s in found['seconds'])
    ratios = ' / '.join(f'{ratio:.2f}' for ratio in found['ratio'])
    return f'{seconds} ms; {ratios}; {found["temporary"] / 2**20:.0f} MiB'
  keys = ('changed', 'logits', 'gradient')
  return '; '.join(percent(found[key]) for key in keys if key in found)


def percent(values: float | Mapping[str, float]) -> str:
  """'59 %', or '41, 26, 13 %' by what is varied."""
  if not isinstance(values, Mapping):
    values = {'0': values}
  told = ', '.join(f'{100 * values[k]:.2g}' for k in sorted(values, key=int))
  return f'{told} %'


def panels(rows: Rows) -> _figures.Panels:
  """Two of the drawbacks over what they depend on."""
  for row, key, x, y in (
    ('train_eval_gap', 'logits', 'batch size', 'training - inference (%)'),
    ('device_count', 'gradient', 'devices', 'change of the gradient (%)'),
  ):
    found = []
    for name, label in NAMES.items() if row in rows else ():
      values = rows[row].measured[name][key]
      ticks = sorted(map(int, values))
      percents = [100 * values[str(tick)] for tick in ticks]
      found.append(_figures.Curve(label, ticks, percents))
    yield _figures.Panel(x, y, found, log='x')
