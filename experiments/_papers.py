"""What the papers' experiments share: their scales, costs and tables.

A row at full size is a recipe for ImageNet, launchable as it is. At scale
'cifar' the same row trains a shrunken network on 10,000 CIFAR-10 images.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import _study, _trust, study

# Peak of a TPUv3 chip (two cores) in bfloat16, and the share of it that paper
# A's F0 reaches: 6 x 6.98 G x 1,024 images in 73.3 ms on 16 chips (Table 3).
CHIP_FLOPS = 123e12
UTILIZATION = 0.3
IMAGENET = 1_281_167  # training images
# Paper A, Table 3: ms a step on TPUv3, 32 images a core, bfloat16.
STEP_MS = {
  'f0': 73.3,
  'f1': 158.5,
  'f2': 295.8,
  'f3': 532.2,
  'f4': 1033.3,
  'f5': 1398.5,
  'f6_sam': 2774.1,
}
SHRUNKEN = {
  'precision': 'float32',
  'num_epochs': 6.5,  # 1,015 updates at batch 64: just enough to judge AGC
  'label_smoothing': 0.0,
  'data.name': 'cifar10',
  'data.train_split': 'train[:10000]',
  'data.num_train': 10000,
  'data.num_classes': 10,
  'data.train_image_size': 32,
  'data.eval_image_size': 32,
  'data.crop': 'none',
  'data.flip': False,
  'data.eval_preprocessing': 'none',
  'data.mean': (125.31, 122.95, 113.87),
  'data.std': (62.99, 62.09, 66.70),
  'data.on_device': True,
  'augment.pad': 4,
  'augment.randaugment_layers': 0,
  'eval_batch_size': 1000,
  'keep_checkpoints': 1,
}
# A clipped unit grows by at most learning rate x lambda / (1 - momentum) of
# itself an update: here 0.01 reaches 25 % of CIFAR-10. 16 makes it 0.16.
AGC_SCALE = 16
OUT_OF_REACH = (
  (
    'Paper A, Table 4: NF- and BN-ResNets pre-trained on JFT-300M',
    'JFT-300M is private to Google. The recipes are in `configs/jft_*.py`; '
    'fine-tuning from published weights is in reach, pre-training is not.',
  ),
  (
    'Paper A, Table 5: NFNet-F4+ at 89.2 % [P]',
    'It is pre-trained on JFT-300M, which is private.',
  ),
  (
    "Paper A, Table 3's other networks (EfficientNet, BoTNet, LambdaNet, "
    'SENet, DeiT)',
    'Other code bases: their published rows stand beside ours for comparison, '
    'and are not trained here.',
  ),
  (
    'NFNet-F5 and F6 on ImageNet',
    'Launchable, but at 2,800 to 5,600 TPUv3 chip-hours a seed by the '
    "paper's time of a step they are beyond the hardware at hand.",
  ),
)

Record = Mapping[str, Any]
Rows = Mapping[str, _study.Row]


def scales(
  rows: Iterable[str],
  *,
  batch: int = 64,
  width: int = 4,
  depth: int = 0,
  clipping: int = 1,
  note: str = '',
  **overrides: Any,
) -> dict[str, dict[str, Any]]:
  """'full', and 'cifar' for these rows.

  Args:
    rows: those that 'cifar' has.
    batch: divides the batch size, and its square root the learning rate.
    width: divides the stages' widths.
    depth: divides the stages' depths, rounded up; 0 for a block a stage.
    clipping: multiplies AGC's lambda, see `AGC_SCALE`.
    note: what else a caption says.
    **overrides: more of 'cifar', after `SHRUNKEN`; `__` stands for a point.
  """
  blocks = 'a block a stage' if not depth else f'depths / {depth}'
  epochs = overrides.get('num_epochs', SHRUNKEN['num_epochs'])
  batches = (
    f', batch sizes / {batch}, learning rates / {math.sqrt(batch):g}'
    if batch > 1
    else ''
  )
  agc = f', lambda x {clipping}' if clipping > 1 else ''
  return {
    _study.FULL: {'note': 'ImageNet, as published', 'overrides': {}},
    'cifar': {
      'note': f'the first 10,000 images of CIFAR-10 at 32 pixels, {epochs:g} '
      f'epochs, 5 % of them warm-up, {blocks}, widths / {width}{batches}{agc}, '
      f'no RandAugment{note}',
      'overrides': SHRUNKEN
      | {key.replace('__', '.'): value for key, value in overrides.items()},
      'rows': list(rows),
      'batch': batch,
      'width': width,
      'depth': depth,
      'clipping': clipping,
    },
  }


def sizes(
  rows: Iterable[str],
  *,
  batch: int = 64,
  width: int = 4,
  depth: int = 0,
  clipping: int = 1,
  note: str = '',
  **overrides: Any,
) -> dict[str, study.Scale]:
  """'full', and 'cifar', a smoke test, for these rows.

  Args:
    rows: those that 'cifar' has.
    batch: divides the batch size, and its square root the learning rate.
    width: divides the stages' widths.
    depth: divides the stages' depths, rounded up; 0 for a block a stage.
    clipping: multiplies AGC's lambda, see `AGC_SCALE`.
    note: what else a caption says.
    **overrides: more of 'cifar', after `SHRUNKEN`; `__` stands for a point.
  """
  more = {key.replace('__', '.'): value for key, value in overrides.items()}
  changed = SHRUNKEN | more

  def shrink(config: ConfigDict) -> None:
    rate, batch_size = config.learning_rate, config.batch_size
    model = config.model
    model.widths = tuple(value // width for value in model.widths)
    model.depths = tuple(
      math.ceil(value / depth) if depth else 1 for value in model.depths
    )
    if 'exact_width' in model:
      model.exact_width = True
    config.update_from_flattened_dict(changed)
    config.batch_size = max(1, batch_size // batch)
    config.learning_rate = rate / math.sqrt(batch)
    if config.optimizer.clip == 'agc':
      config.optimizer.clipping *= clipping
    config.schedule.warmup_steps = config.num_steps // 20
    config.eval_every = config.num_steps // 4 + 1
    config.checkpoint_every = config.num_steps // 4 + 1
    config.log_every = config.num_steps // 40 + 1
    config.observe_every = config.num_steps // 20 + 1

  told = [
    'the first 10,000 images of CIFAR-10 at 32 pixels',
    f'{changed["num_epochs"]:g} epochs, 5 % of them warm-up',
    'a block a stage' if not depth else f'depths / {depth}',
    f'widths / {width}',
  ]
  if batch > 1:
    root = math.sqrt(batch)
    told.append(f'batch sizes / {batch}, learning rates / {root:g}')
  if clipping > 1:
    told.append(f'lambda x {clipping}')
  told.append(f'no RandAugment{note}')
  return {
    study.FULL: study.Scale('ImageNet, as published'),
    'cifar': study.Scale(
      ', '.join(told), rows=tuple(rows), shrink=shrink, smoke=True
    ),
  }


def configure(
  config: ConfigDict,
  runs: Mapping[str, Mapping[str, Any]],
  scales: Mapping[str, Mapping[str, Any]],
  run: str,
) -> ConfigDict:
  """Applies a run's row, then its scale, to a recipe.

  Args:
    config: changed in place, and returned.
    runs, scales: the experiment's `RUNS` and `SCALES`.
    run: 'row' or 'row@scale'.
  """
  row, scale = check(runs, scales, run)
  config.update_from_flattened_dict(dict(runs[row]))
  spec = scales[scale]
  if scale == _study.FULL:
    return config
  rate, batch_size = config.learning_rate, config.batch_size
  model = config.model
  model.widths = tuple(width // spec['width'] for width in model.widths)
  model.depths = tuple(
    math.ceil(depth / spec['depth']) if spec['depth'] else 1
    for depth in model.depths
  )
  if 'exact_width' in model:
    model.exact_width = True
  config.update_from_flattened_dict(spec['overrides'])
  config.batch_size = max(1, batch_size // spec['batch'])
  config.learning_rate = rate / math.sqrt(spec['batch'])
  if config.optimizer.clip == 'agc':
    config.optimizer.clipping *= spec['clipping']
  config.schedule.warmup_steps = config.num_steps // 20
  config.eval_every = config.num_steps // 4 + 1
  config.checkpoint_every = config.num_steps // 4 + 1
  config.log_every = config.num_steps // 40 + 1
  config.observe_every = config.num_steps // 20 + 1
  return config


def check(
  runs: Mapping[str, Any], scales: Mapping[str, Any], run: str
) -> tuple[str, str]:
  """A run's row and scale.

  Raises:
    ValueError: for an unknown row, scale, or row of that scale.
  """
  row, scale = _study.known(runs, scales, run)
  rows = _study.rows_of(scale, runs, scales)
  if row not in rows:
    raise ValueError(
      f'scale {scale!r} has no row {row!r}: choose one of {", ".join(rows)}'
    )
  return row, scale


def hours_of_steps(ms: float, num_steps: int, cores: int = 128) -> float:
  """Chip-hours of so many steps on TPUv3, two cores a chip."""
  return ms / 1000 * num_steps * cores / 2 / 3600


def hours_of_macs(gmacs: float, images: float, passes: float = 1.0) -> float:
  """Chip-hours on TPUv3 from multiply-adds, at `UTILIZATION` of the peak.

  Args:
    gmacs: of one image forward, in billions.
    images: trained on.
    passes: forward and backward passes a step; SAM has more than one.
  """
  # A multiply-add is two operations; backward costs two forwards.
  flops = 6 * gmacs * 1e9 * images * passes
  return flops / (CHIP_FLOPS * UTILIZATION) / 3600


def chip_hours(hours: float) -> str:
  """What a seed costs at full size, in words."""
  return f'{hours:,.0f} TPUv3 chip-hours'


def averaged(records: Iterable[Record]) -> list[Record]:
  """The records with the averaged parameters' accuracy, where they have it."""
  return [
    {**record, 'summary': {**summary, 'eval/top_1': summary[key]}}
    if (key := 'eval_ema/top_1') in (summary := record['summary'])
    else record
    for record in records
  ]


def rows_at(records: Iterable[Record], scale: str) -> dict[str, _study.Row]:
  """Each row's runs at a scale, see `_study.gather`."""
  return _study.gather(
    r for r in averaged(records) if r.get('scale', _study.FULL) == scale
  )


def judge(
  records: Iterable[Record],
  full: Callable[[Rows], tuple[str, str]],
  scaled: Callable[[Rows], str],
) -> tuple[str, str]:
  """The verdict at full size; scaled-down runs speak, but don't decide.

  Args:
    records: of the experiment.
    full: from full-size rows to a word and a sentence.
    scaled: from rows at scale 'cifar' to a sentence.
  """
  records = list(records)
  if rows := rows_at(records, _study.FULL):
    return full(rows)
  why = 'Not run on ImageNet.'
  if rows := rows_at(records, 'cifar'):
    why += f' Scaled down, {scaled(rows)}'
  return 'not run', why


def comparison(
  runs: Iterable[str],
  paper: Mapping[str, tuple],
  records: Iterable[Record],
  scales: Mapping[str, Mapping[str, Any]],
  cost: Callable[[str], float],
  measure: str = 'test top-1 %',
) -> str:
  """The table of an experiment: published beside got, as markdown.

  Args:
    runs: its rows.
    paper: row to (number, trust tag, ...), where there is one.
    records: of the experiment, perhaps none.
    scales: its `SCALES`.
    cost: from a row to the TPUv3 chip-hours of one seed at full size.
    measure: what the numbers are.
  """
  records = list(records)
  full, small = rows_at(records, _study.FULL), rows_at(records, 'cifar')
  header = ['row', f'published, {measure}', 'here']
  if full:
    header += ['runs']
  if small:
    header += ['scaled down (cifar)', 'runs', 'updates']
  header += ['TPUv3 chip-hours a seed']
  lines = []
  for row in runs:
    cells = [row, _trust.shown(paper.get(row)), text_of(full, row)]
    if full:
      cells += [count_of(full, row)]
    if small:
      updates = f'{small[row].updates:,}' if row in small else ''
      is_there = row in _study.rows_of('cifar', runs, scales)
      cells += [text_of(small, row) if is_there else '–']
      cells += [count_of(small, row), updates]
    lines.append([*cells, f'{cost(row):,.0f}'])
  notes = [text] if (text := _trust.tags(paper, runs)) else []
  notes.append('"not run": no record of the row at full size.')
  if small:
    notes.append(
      f'Scaled down: {scales["cifar"]["note"]}; "–": no row of that scale.'
    )
  return table(header, lines) + '\n' + ' '.join(notes)


def text_of(rows: Rows, row: str) -> str:
  """Mean and spread of a row's runs, 'diverged', or 'not run'."""
  return rows[row].text if row in rows else 'not run'


def count_of(rows: Rows, row: str) -> str:
  """How many runs a row's text is of, diverged ones too; '' for none."""
  if row not in rows:
    return ''
  return str(len(rows[row].values) + rows[row].diverged)


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
  """A markdown table; every column but the first to the right."""
  header = list(header)
  lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
  return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines) + '\n'
