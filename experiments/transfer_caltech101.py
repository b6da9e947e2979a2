r"""From CIFAR-10 to photographs of Caltech-101: probe, fine-tune, from scratch.

  python -m scripts.sweep --experiment=cifar10_first_runs --only=nf_agc -- \
    --config.data.data_dir=DATA
  python -m scripts.sweep --experiment=transfer_caltech101 [--scale=cpu] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=transfer_caltech101

Where it starts: row nf_agc of cifar10_first_runs, a normalizer-free ResNet-20
with AGC after 3 epochs of CIFAR-10 (68.35 % there), which has to be in
runs/cifar10_first_runs/nf_agc_seed0. Then 2,040 photographs of 102 classes,
resized to 32 x 32 pixels, train and 1,020 test (nfnets/data/
caltech101_split.json). All rows but the probe share one recipe, AGC included,
and the number of updates; they differ in where they start and in what stays
frozen. At scale cpu that budget is small: from scratch AGC has just let the
skip gains grow, and longer training would narrow the gap. No ImageNet weights
were at hand, so this shows that the machinery transfers, not how well NFNets
do. There is one pre-trained network; seeds are of the transfer alone: of the
new head, the order and augmentation, and for the probe of the draw that chooses
its penalty.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from configs import cifar_resnet20, lazy
from experiments import _compare, _plots, _study

TITLE = 'Transfer from CIFAR-10 to Caltech-101'
CLAIM = (
  'A normalizer-free network pre-trained on CIFAR-10 classifies photographs of '
  'Caltech-101 better than one trained on them from scratch: already by a '
  'linear probe, and more so when it is fine-tuned.'
)
PAPER = {}
PRETRAINED = 'runs/cifar10_first_runs/nf_agc_seed0'
BEFORE = (
  'python -m scripts.sweep --experiment=cifar10_first_runs --only=nf_agc -- '
  '--config.data.data_dir=DATA',
)
SEEDS = (0, 1, 2)
RUNS = {
  'scratch': {},
  'probe': {'weights': PRETRAINED},
  'finetune': {'weights': PRETRAINED},
  'finetune_stage_3': {
    'weights': PRETRAINED,
    'optimizer.frozen': ('stem', 'stage_1', 'stage_2'),
  },
}
SCRIPTS = {'probe': 'scripts.probe'}
LABELS = {
  'scratch': 'from scratch',
  'probe': 'linear probe',
  'finetune': 'fine-tuned',
  'finetune_stage_3': 'fine-tuned from stage 3 on',
}
SCALES = {
  'full': {'note': '100 epochs', 'overrides': {}},
  'cpu': {
    'note': '8 epochs, batch 16: 1,020 updates',
    'overrides': {
      'num_epochs': 8.0,
      'batch_size': 16,
      'learning_rate': 0.03,
    },
  },
}


def get_config(run: str) -> ConfigDict:
  """CIFAR's recipe on these photographs; 100 epochs at batch 32, or `SCALES`.

  Learning rate 0.05 at full scale, warm-up over 5 % of the steps, cosine to 0,
  Nesterov, weight decay 5e-4, AGC with the threshold of the pre-training.
  """
  config = cifar_resnet20.get_config()
  config.model.normalizer = 'nf'
  config.batch_size = 32
  config.num_epochs = 100.0
  config.learning_rate = 0.05
  config.schedule.name = 'warmup_cosine'
  num_steps = config.get_ref('num_steps')
  config.schedule.warmup_steps = lazy.share(num_steps, 0.05, 1)
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 5e-4
  config.optimizer.clip = 'agc'
  config.optimizer.clipping = 0.16
  config.data.name = 'caltech101'
  config.data.num_train = 2040
  config.data.num_classes = 102
  config.data.on_device = True
  config.eval_batch_size = 255
  config.eval_every = num_steps // 6
  config.log_every = num_steps // 30
  config.observe_every = 0
  return _study.configure(config, RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws `transfer.png` for each scale; returns the report as markdown."""

  def section(found: Sequence, note: str, suffix: str) -> str:
    rows = _study.gather(found)
    made = Figure(figsize=(10.5, 3.9), layout='constrained')
    made.suptitle(f'{TITLE}, 32 px: {note}', fontsize=11)
    left, right = made.subplots(1, 2, width_ratios=(1, 1.1))
    _plots.bars(left, rows, RUNS, LABELS)
    _plots.finish(left, 'test top-1 (%)', '')
    trained = [run for run in RUNS if run not in SCRIPTS]
    _plots.curves(right, found, trained, LABELS, 'eval/top_1', 100)
    if 'probe' in rows:
      right.axhline(
        rows['probe'].mean, color='0.3', ls='--', label=LABELS['probe']
      )
    _plots.finish(right, 'updates', 'test top-1 (%)')
    _plots.legend(made, right, columns=4)
    picture = _plots.save(made, folder, f'transfer{suffix}', TITLE)
    return f'{_plots.table(found, RUNS, LABELS)}\n{picture}'

  return _plots.sections(records, SCALES, section)


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """Whether probe beats scratch, and fine-tuning both."""

  def of_scale(rows: Mapping[str, _study.Row]) -> _study.Judgement:
    if missing := _study.missing(RUNS, rows):
      return 'not run', missing
    scratch, probe, tuned = (
      rows[row] for row in ('scratch', 'probe', 'finetune')
    )
    if short := _study.too_short((scratch, tuned)):
      return short
    word, why = _study.weigh(
      {
        f'the probe ({probe.text}) beats training from scratch '
        f'({scratch.text})': _compare.below(scratch, probe),
        f'fine-tuning ({tuned.text}) beats training from scratch': (
          _compare.below(scratch, tuned)
        ),
        'fine-tuning beats the probe': _compare.below(probe, tuned),
      }
    )
    return word, f'{why} {_compare.BORROWED}'

  # The probe's updates aren't steps: `of_scale` looks at the others'.
  return _study.judge(records, SCALES, of_scale, updates=0)
