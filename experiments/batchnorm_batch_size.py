r"""A batch-normalized ResNet-20 over batch sizes, 16 to 4096. CIFAR-10.

  python -m scripts.sweep --experiment=batchnorm_batch_size [--scale=cpu] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=batchnorm_batch_size

Every row sees as many images: learning rate 0.1 x batch / 128 after a linear
warm-up over 5 % of the steps, cosine to 0, Nesterov momentum 0.9, weight
decay 5e-4 on weights. Rows 'b1024_of32' and the like compute batch
statistics over parts of the batch (of 32 images, here), as if each part were on
a device of its own; scale cpu has them of 256.

A difference counts if it exceeds two standard errors, of single runs 4.5
points: over seeds a row is taken to spread by 1.6 points, that of ResNet-20 at
scale cpu, or by its own if that is more.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import _cifar, _compare, _plots, _study

TITLE = 'Batch normalization and the batch size'
CLAIM = (
  'At a fixed number of epochs the accuracy of a batch-normalized ResNet-20 '
  'falls as the batch grows; and statistics of a small part of the batch, as '
  'many devices compute them, change what is learnt.'
)
PAPER = {}
SEEDS = (0,)
BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
# Batch size to the images of it that share their statistics.
PARTS = {1024: (16, 32, 128), 256: (16, 64)}
RUNS = {f'b{size}': {'batch_size': size} for size in BATCH_SIZES} | {
  f'b{batch}_of{size}': {'batch_size': batch, 'micro_batches': batch // size}
  for batch, sizes in PARTS.items()
  for size in sizes
}
LABELS = {f'b{size}': f'batch {size}' for size in BATCH_SIZES} | {
  f'b{batch}_of{size}': f'batch {batch}, statistics of {size}'
  for batch, sizes in PARTS.items()
  for size in sizes
}
SCALES = _cifar.scales(
  rows=(
    *(f'b{size}' for size in BATCH_SIZES),
    *(f'b256_of{size}' for size in PARTS[256]),
  ),
  own_batch=True,
)


def get_config(run: str) -> ConfigDict:
  """ResNet-20 with batch normalization, 100 epochs."""
  return _study.configure(_cifar.resnet20(), RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws `batch_size.png` for each scale; returns the report as markdown."""

  def section(found: Sequence, note: str, suffix: str) -> str:

    rows = _study.gather(found)
    made = _plots.figure(7, 4.2, TITLE, note)
    ax = made.subplots()
    series = {
      'statistics of the batch': {size: f'b{size}' for size in BATCH_SIZES},
      **{
        f'of parts of a batch of {batch}': {
          size: f'b{batch}_of{size}'
          for size in sizes
          if f'b{batch}_of{size}' in rows
        }
        for batch, sizes in PARTS.items()
      },
    }
    series = {label: places for label, places in series.items() if places}
    _plots.lines(ax, rows, series)
    _plots.finish(ax, 'images that share statistics', 'test top-1 (%)')
    _plots.legend(made, ax)
    caption = f'{TITLE}: {note}'
    picture = _plots.save(made, folder, f'batch_size{suffix}', caption)
    runs = _study.runs_of(found, RUNS, SCALES)
    return f'{_plots.table(found, runs, LABELS)}\n{picture}'

  return _plots.sections(records, SCALES, section)


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """Ranks accuracy against the batch; AGC has no part in it."""

  def of_scale(rows: Mapping[str, _study.Row]) -> _study.Judgement:
    whole = [size for size in BATCH_SIZES if f'b{size}' in rows]
    if len(whole) < 3:
      return 'not run', 'fewer than three batch sizes have a record.'
    findings = _falls(rows, whole)
    for batch, sizes in PARTS.items():
      for size in sizes:
        if {f'b{batch}', f'b{batch}_of{size}'} <= set(rows):
          part, all_ = rows[f'b{batch}_of{size}'], rows[f'b{batch}']
          side = 'better' if part.worth > all_.worth else 'worse'
          findings[
            f'statistics of {size} images change batch {batch} ({side}, '
            f'{part.text} against {all_.text})'
          ] = _compare.changed(part, all_)
    word, why = _study.weigh(findings)
    if not any('_of' in row for row in rows):
      return 'not run', f'no statistics of parts yet. So far: {why}'
    stuck = [f'b{s}' for s in whole if rows[f'b{s}'].worth < 2 * _study.CHANCE]
    return word, why + ''.join(
      _stuck(record)
      for row in stuck
      for record in records
      if record['row'] == row and _study.planned(record) == rows[row].updates
    )

  return _study.judge(records, SCALES, of_scale, updates=0)


def _falls(
  rows: Mapping[str, _study.Row], whole: Sequence[int]
) -> dict[str, bool | str]:
  """Whether accuracy falls with the batch; apart, where updates are enough."""
  first, last = rows[f'b{whole[0]}'], rows[f'b{whole[-1]}']
  found = {
    f'batch {whole[-1]} is worse than {whole[0]} ({last.text} against '
    f'{first.text})': _compare.below(last, first),
    **_by_rank(rows, whole),
  }
  enough = _study.ENOUGH_UPDATES
  trained = [s for s in whole if rows[f'b{s}'].updates >= enough]
  if 1 < len(trained) < len(whole):
    fewer = [rows[f'b{s}'].updates for s in whole if s not in trained]
    texts = '; '.join(f'{size}: {rows[f"b{size}"].text}' for size in trained)
    first, last = rows[f'b{trained[0]}'], rows[f'b{trained[-1]}']
    found[
      f'it falls among rows of {enough:,} updates or more ({texts}), and not '
      f'only in those of {min(fewer):,} to {max(fewer):,}'
    ] = _compare.below(last, first)
  return found


def _by_rank(
  rows: Mapping[str, _study.Row], whole: Sequence[int]
) -> dict[str, bool | str]:
  """Rank correlation; undecided if it is weak, or the rows hardly differ."""
  found = [rows[f'b{size}'] for size in whole]
  rank = _compare.rank_correlation(whole, [row.worth for row in found])
  falls = True if rank <= -0.7 else False if rank >= 0 else _compare.UNDECIDED
  return {
    f'accuracy falls with the batch (rank correlation {rank:+.2f})': (
      falls if _compare.spans(found) is True else _compare.UNDECIDED
    )
  }


def _stuck(record: Mapping[str, Any]) -> str:
  """What a run that ended near chance shows of why."""
  config, epochs = record['config'], record.get('epochs', ())
  name = f' Batch {RUNS[record["row"]]["batch_size"]:,}'
  updates = f'{_study.planned(record):,} updates'
  accuracies = [p['train/top_1'] for p in epochs if 'train/top_1' in p]
  losses = [p['train/loss'] for p in epochs if 'train/loss' in p]
  if not losses or 100 * max(accuracies, default=1) >= 2 * _study.CHANCE:
    return f'{name} ({updates}) ends near chance.'
  return (
    f'{name} does not train at its learning rate ({updates}, rate '
    f'{config["learning_rate"]:g} after {config["schedule"]["warmup_steps"]} '
    'of warm-up): it is near chance in every epoch, with a training loss of '
    f'{losses[0]:.2f} in the first and {losses[-1]:.2f} in the last.'
  )
