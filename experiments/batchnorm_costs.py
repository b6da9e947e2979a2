r"""What batch normalization costs beside accuracy; nothing is trained.

  python -m scripts.measure --experiment=batchnorm_costs --data_dir=DATA
  python -m scripts.report --experiment=batchnorm_costs

ResNet-20 with batch normalization and normalizer-free, both untrained, on the
first 1,024 test images of CIFAR-10. One row for each drawback that is held
against batch normalization. The normalizer-free network's skip gains are 1: at
0, where its recipe starts them, its branches would add nothing to the logits.
The time and memory of a step are measured with the recipe's 0, on random
pixels, neither of which changes what is computed. This shows whether a network
has a drawback, not how large it is after training.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _plots, _study, figure_latency
from nfnets import records as recording
from nfnets.analysis import tables

TITLE = 'What batch normalization costs'
CLAIM = (
  'Batch normalization takes time and memory, lets predictions depend on batch '
  'mates, differs between training and inference, and depends on the number '
  'of devices; a normalizer-free network has none of these.'
)
GAIN = {'model.skipinit_gain': 1.0}
RUNS = {
  'step_cost': {'drawback': 'step_cost'},
  'batch_mates': {'drawback': 'batch_mates', **GAIN},
  'train_eval_gap': {'drawback': 'train_eval_gap', **GAIN},
  'device_count': {'drawback': 'device_count', **GAIN},
}
NETWORK = (
  "An untrained ResNet-20 with skip gains of 1, on CIFAR-10's first 1,024 test "
  'images'
)
OF_IMAGES = NETWORK[0].lower() + NETWORK[1:]
SCALES = {
  'full': {
    'note': f'{NETWORK}; 32 pixels, float32',
    'overrides': {'data.eval_split': 'test[:1024]'},
  },
}
NAMES = {'batch': 'batch normalization', 'nf': 'normalizer-free'}
MEMORY = 0.01  # relative; closer amounts are taken as equal
ROUNDING = 1e-4  # relative; below it nothing but the order of sums differs


def get_config(run: str) -> ConfigDict:
  """The study's ResNet-20, and which drawback a row measures."""
  config = _cifar.resnet20()
  with config.unlocked():
    config.drawback = ''
  return _study.configure(config, RUNS, SCALES, run)


def measure(config: ConfigDict) -> dict[str, Any]:
  """Measures one drawback of both networks on this machine."""
  from nfnets.analysis import batchnorm

  return batchnorm.measure(config, config.drawback)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws `costs.png`; returns the report as markdown."""
  found = {record['row']: record['measured'] for record in records}
  told = [TABLES[row](found[row]) for row in RUNS if row in found]
  if 'step_cost' in found:
    told.insert(
      1,
      f"This is on {_device(records)}, with the recipe's skip gains of 0 and "
      f'random pixels. {_other_times(folder.parent)}',
    )
  drawn = [row for row in PLOTS if row in found]
  if drawn:
    title = f'{TITLE}\n{NETWORK[3:]}'
    made = _plots.figure(4.6 * len(drawn), 3.8, title, None)
    for ax, row in zip(made.subplots(1, len(drawn), squeeze=False)[0], drawn):
      _draw(ax, found[row], *PLOTS[row])
    _plots.legend(made, made.axes[0])
    caption = f'{TITLE}; {NETWORK[3:]}'
    told.append(_plots.save(made, folder, 'costs', caption))
  missing = [f'`{row}`' for row in RUNS if row not in found]
  if missing:
    told.append(f'Not measured yet: {", ".join(missing)}.')
  return f'{SCALES["full"]["note"]}.\n\n' + '\n\n'.join(told)


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """Each drawback: batch normalization has it, normalizer-free has not."""
  found = {record['row']: record['measured'] for record in records}
  if not found:
    return 'not run', 'No drawback is measured yet.'
  findings, device = {}, _device(records)
  if 'step_cost' in found:
    batch, nf = found['step_cost']['batch'], found['step_cost']['nf']
    low, ratio, high = batch['ratio']
    memory = batch['temporary'] / nf['temporary']
    findings |= {
      f'batch normalization takes more time on {device} ({ratio:.2f} x; '
      f'quartiles {low:.2f} and {high:.2f})': _above(1, low, high),
      f'takes more memory there ({memory:.2f} x)': _above(
        1, memory - MEMORY, memory + MEMORY
      ),
    }
  if 'batch_mates' in found:
    changes = {n: v['logits'] for n, v in found['batch_mates'].items()}
    share = 100 * found['batch_mates']['batch']['changed']
    findings[f'batch mates change {share:.0f} % of predictions'] = _only_batch(
      changes
    )
  if 'train_eval_gap' in found:
    gaps = {
      n: max(v['logits'].values()) for n, v in found['train_eval_gap'].items()
    }
    findings['training and inference differ'] = _only_batch(gaps)
  if 'device_count' in found:
    gaps = {
      n: max(v['gradient'].values()) for n, v in found['device_count'].items()
    }
    findings['the gradient depends on the device count'] = _only_batch(gaps)
  word, why = _study.weigh(findings)
  if 'step_cost' in found:
    why += (
      f' Time and memory are of ResNet-20 on {device} alone, with skip gains '
      'of 0 and random pixels.'
    )
  if set(found) - {'step_cost'}:
    why += f' Measurements on images are of {OF_IMAGES}.'
  if left := _study.missing(RUNS, found):
    return 'not run', f'{left} So far: {why}'
  return word, why


def _above(one: float, low: float, high: float) -> bool | str:
  """Whether what lies from low to high does; undecided if it straddles."""
  return True if low > one else False if high < one else 'undecided'


def _device(records: Sequence[Mapping[str, Any]]) -> str:
  """What the times are of."""
  return ' and '.join(
    dict.fromkeys(
      figure_latency.device(record)
      for record in records
      if record['row'] == 'step_cost'
    )
  )


def _only_batch(changes: Mapping[str, float]) -> bool:
  return changes['batch'] > ROUNDING > changes['nf']


def _step_cost(found: Mapping[str, Any]) -> str:
  rows = [
    (
      NAMES[name],
      ' / '.join(f'{1000 * s:.0f}' for s in values['seconds']),
      ' / '.join(f'{ratio:.2f}' for ratio in values['ratio']),
      f'{values["temporary"] / 2**20:.0f}',
    )
    for name, values in found.items()
  ]
  header = (
    'training step at batch 128',
    'ms: quartiles',
    'of normalizer-free: quartiles',
    'memory beside state and batch, MiB',
  )
  return '### Time and memory\n\n' + tables.markdown(header, rows)


def _other_times(root: pathlib.Path) -> str:
  """What the other experiment's records say, as a sentence."""
  others = recording.read_all(root, 'figure_latency')
  told = 'see `results/figure_latency`'
  for scale, group in _study.by_scale(others, figure_latency.SCALES).items():
    found = {r['row']: r['measured']['seconds']['median'] for r in group}
    faster = [
      found[batch] < found[nf]
      for batch, nf in figure_latency.PAIRS.items()
      if batch in found and nf in found
    ]
    if faster:
      told = (
        f'in `results/figure_latency`, scale {scale}, batch normalization is '
        f'the faster one in {sum(faster)} of {len(faster)} pairs'
      )
      break
  return f'Which one is faster depends on device and network: {told}.'


def _batch_mates(found: Mapping[str, Any]) -> str:
  rows = [
    (
      NAMES[name],
      f'{100 * values["changed"]:.0f} %',
      f'{100 * values["logits"]:.2g} %',
    )
    for name, values in found.items()
  ]
  header = ('training mode, batches of 16', 'images whose class changes',
            'change of the logits')  # fmt: skip
  return (
    '### A prediction changes with its batch mates\n\n'
    'Each of 32 images among 8 random sets of 15 others; the change is '
    'relative to how far images are apart.\n\n' + tables.markdown(header, rows)
  )


def _train_eval_gap(found: Mapping[str, Any]) -> str:
  rows = [
    (
      NAMES[name],
      size,
      f'{100 * values["changed"][size]:.0f} %',
      f'{100 * values["logits"][size]:.2g} %',
    )
    for name, values in found.items()
    for size in sorted(values['changed'], key=int)
  ]
  header = ('', 'batch', 'images whose class differs', 'difference of logits')
  return (
    '### Training and inference are two networks\n\n'
    'Equal weights and images; averages over 50 batches of them. The '
    'difference is '
    'relative to how far images are apart.\n\n' + tables.markdown(header, rows)
  )


def _device_count(found: Mapping[str, Any]) -> str:
  counts = sorted(next(iter(found.values()))['gradient'], key=int)
  rows = [
    (NAMES[name], *[f'{100 * v["gradient"][c]:.2g} %' for c in counts])
    for name, v in found.items()
  ]
  return (
    '### The gradient depends on the device count\n\n'
    'A batch of 64, split among so many devices: difference from the gradient '
    'on one device, relative to it.\n\n'
    + tables.markdown(('devices', *counts), rows)
  )


def _draw(ax: Any, found: Mapping[str, Any], key: str, x: str, y: str) -> None:
  for color, (name, values) in zip(_plots.COLORS, found.items()):
    points = {
      x: 100 * values[key][str(x)] for x in sorted(map(int, values[key]))
    }
    ax.plot(
      list(points), list(points.values()), 'o-', color=color, label=NAMES[name]
    )
  ax.set_xscale('log', base=2)
  ax.set_xticks(list(points), list(map(str, points)))
  _plots.finish(ax, x, y)


TABLES = {
  'step_cost': _step_cost,
  'batch_mates': _batch_mates,
  'train_eval_gap': _train_eval_gap,
  'device_count': _device_count,
}
PLOTS = {
  'train_eval_gap': (
    'logits',
    'batch size',
    'training against inference: logits (%)',
  ),
  'device_count': ('gradient', 'devices', 'change of the gradient (%)'),
}
