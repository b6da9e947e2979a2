r"""Does a normalizer-free ResNet-20 with AGC train at all? CIFAR-10, 3 epochs.

  python -m scripts.sweep --experiment=cifar10_first_runs -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=cifar10_first_runs

Scaled down: He et al. train for 164 epochs, one seed here. It shows that both
arms learn, not which is better. Both: all 50,000 images, batch 128, learning
rate 0.1 after 100 updates of linear warm-up, cosine to 0, Nesterov momentum.
"""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from ml_collections import ConfigDict

from configs import cifar_resnet20
from experiments import _trust

TITLE = 'First runs on CIFAR-10'
CLAIM = (
  'A ResNet-20 without normalization layers, with scaled weight '
  'standardization and AGC, trains beside its batch-normalized twin.'
)
PAPER = {'batch': (91.25, 'R', 'He et al., Table 6, 164 epochs')}
SEEDS = (0,)
RUNS = {
  'batch': {'model.normalizer': 'batch'},
  'nf_agc': {
    'model.normalizer': 'nf',
    'optimizer.clip': 'agc',
    'optimizer.clipping': 0.16,  # batch 128 wants a large one (paper A, 4.1)
  },
}


def get_config(run: str) -> ConfigDict:
  """3 epochs at batch 128, peak 0.1, 100 steps of warm-up, cosine to 0."""
  config = cifar_resnet20.get_config()
  config.num_epochs = 3
  config.schedule.name = 'warmup_cosine'
  config.schedule.warmup_steps = 100
  config.optimizer.nesterov = True
  config.eval_every = 130
  config.update_from_flattened_dict(RUNS[run])
  return config


def verdict(records: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
  """Whether both arms end far above chance (10 %)."""
  top_1 = {
    record['row']: 100 * record['summary'].get('eval/top_1', nan)
    for record in records
  }
  if set(top_1) != set(RUNS):
    return 'not run', 'Both arms are not there.'
  told = ', '.join(f'{row} {value:.2f} %' for row, value in top_1.items())
  learns = all(value > 50 for value in top_1.values())
  return 'borne out' if learns else 'not borne out', (
    f'Both arms learn in 3 epochs: {told}.'
    if learns
    else f'Not both arms learn in 3 epochs: {told}.'
  )


def report(records: Sequence[Mapping[str, Any]], folder: Any) -> str:
  """Draws `curves.png` in the folder and returns the report as markdown."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(10, 3.6), layout='constrained')
  figure.suptitle(
    'ResNet-20 on CIFAR-10: batch-normalized, and normalizer-free with AGC\n'
    'all 50,000 images, 3 epochs',
    fontsize=11,
  )
  loss, accuracy = figure.subplots(1, 2)
  lines = [
    '| run | test top-1 % | updates | status | published |',
    '|---|---:|---:|---|---|',
  ]
  for record in records:
    curve, row = record['curve'], record['row']
    epochs = [point['step'] * 3 / record['updates'] for point in curve]
    loss.plot(epochs, [p['train/loss'] for p in curve], 'o-', label=row)
    top_1 = [100 * point['eval/top_1'] for point in curve]
    accuracy.plot(epochs, top_1, 'o-', label=row)
    source = f' {PAPER[row][2]}' if row in PAPER else ''
    lines.append(
      f'| {row} | {100 * record["summary"].get("eval/top_1", nan):.2f} | '
      f'{record["updates"]} | {record["status"]} | '
      f'{_trust.shown(PAPER.get(row))}{source} |'
    )
  for axis, label in ((loss, 'training loss'), (accuracy, 'test top-1 (%)')):
    axis.set_xlabel('epoch')
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
    axis.legend()
  figure.savefig(folder / 'curves.png', dpi=110)
  return '\n'.join(
    [
      *lines,
      '',
      _trust.tags(PAPER, RUNS),
      '',
      '![curves: all 50,000 images, 3 epochs](curves.png)',
    ]
  )
