"""What the papers' experiments share: times of a step, costs, scale 'cifar'.

Paper A is arXiv 2102.06171, paper B arXiv 2101.08692. A row at full size is a
recipe for ImageNet, ready to launch. At scale 'cifar' it trains a shrunken
network on 10,000 CIFAR-10 images: a smoke test, which decides nothing.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from configs import cifar_resnet20
from experiments import _figures, _resnet20
from experiments.study import FULL, Check, Experiment, Plot, Rows, Scale

# Paper A, Table 3: ImageNet top-1, ms a training step on TPUv3 (32 images a
# core, bfloat16) and on one V100 (float16), and multiply-adds, those of NFNets
# in table_family; None for a time that it doesn't print.
TABLE_3 = {
  'f0': (83.6, 73.3, 56.7, ''),
  'f1': (84.7, 158.5, 133.9, ''),
  'f2': (85.1, 295.8, 226.3, ''),
  'f3': (85.7, 532.2, 524.5, ''),
  'f4': (85.9, 1033.3, 1190.6, ''),
  'f5': (86.0, 1398.5, 2177.1, ''),
  'f5_sam': (86.3, 1958.0, None, ''),
  'f6_sam': (86.5, 2774.1, None, ''),
  'resnet_50': (78.6, 41.6, 35.3, '4.10 G'),
  'EffNet-B0': (77.1, 51.1, 44.8, '0.39 G'),
  'SENet-50': (79.4, 64.3, 59.4, '4.09 G'),
  'EffNet-B3': (81.6, 129.5, 116.6, '1.80 G'),
  'LambdaNet-152': (83.0, 138.3, 135.2, ''),
  'SENet-152': (83.1, 149.9, 151.2, '19.04 G'),
  'BoTNet-110': (82.8, 181.3, None, '10.90 G'),
  'EffNet-B4': (82.9, 245.9, 221.6, '4.20 G'),
  'BoTNet-128-T5': (83.5, 355.2, None, '19.30 G'),
  'SENet-350': (83.8, 593.6, None, '52.90 G'),
  'EffNet-B5': (83.7, 450.5, 458.9, '9.90 G'),
  'LambdaNet-350': (84.5, 471.4, None, ''),
  'BoTNet-77-T6': (84.0, 578.1, None, '23.30 G'),
  'LambdaNet-420': (84.8, 593.9, None, ''),
  'EffNet-B6': (84.0, 775.7, 868.2, '19.00 G'),
  'BoTNet-128-T7': (84.7, 804.5, None, '45.80 G'),
  'EffNet-B7': (84.7, 1397.0, 1753.3, '37.00 G'),
  'DeiT, 1,000 epochs': (85.2, None, None, ''),
  'EffNet-B8 + MaxUp': (85.8, None, None, '62.50 G'),
}
# TPUv3 ms a step by row, and those of Table 6.
STEP_MS = {row: cells[1] for row, cells in TABLE_3.items() if cells[1]} | {
  f'f{k}_{piece}': ms
  for piece, times in {
    'baseline': (58.0, 116.0, 211.7, 369.5),
    'width': (64.1, 133.9, 252.2, 441.5),
    'default_width': (65.9, 137.4, 248.8, 452.2),
    'batchnorm': (111.7, 258.0, 396.3, 617.7),
  }.items()
  for k, ms in enumerate(times)
}
# Multiply-adds of a ResNet at 224 pixels, in G, by the released code.
GMACS = {'50': 4.09, '101': 7.80, '152': 11.51, '200': 15.01, '288': 21.56}

IMAGENET = 1_281_167  # training images
CHIP_FLOPS = 123e12  # peak of a TPUv3 chip (two cores) in bfloat16
# The share of it that F0 reaches: 6 x 6.98 G x 1,024 images in 73.3 ms on 16
# chips (paper A, Table 3).
UTILIZATION = 0.3


def times(row: str) -> str:
  """A step on TPUv3 and on a V100 as published, '73.3 / 56.7 ms'."""
  both = STEP_MS.get(row), TABLE_3.get(row, (None, None, None))[2]
  return f'{" / ".join(f"{ms:,}" if ms else "–" for ms in both)} ms'


def hours_of_steps(row: str, num_steps: int = 112_602) -> float:
  """Chip-hours of a row's steps on 128 cores of TPUv3, two a chip."""
  return STEP_MS[row] / 1000 * num_steps * 64 / 3600


def hours_of_macs(gmacs: float, epochs: float, passes: int = 1) -> float:
  """Chip-hours on TPUv3, at `UTILIZATION` of the peak.

  Args:
    gmacs: multiply-adds of one image forward, in billions.
    epochs: of ImageNet.
    passes: forward and backward passes a step; SAM has two.
  """
  # A multiply-add is two operations; backward costs two forwards.
  flops = 6e9 * gmacs * epochs * IMAGENET * passes
  return flops / (CHIP_FLOPS * UTILIZATION) / 3600


def cost(hours: Callable[[str], float]) -> Callable[[str, ConfigDict], str]:
  """An experiment's `cost`, from a row's chip-hours at full size."""

  def told(row: str, config: ConfigDict) -> str:
    if config.data.name == 'cifar10':
      return 'minutes on two CPU cores'
    return f'{hours(row):,.0f} TPUv3 chip-hours'

  return told


def every(*checks: Check) -> Check:
  """Checks that all of them hold; it doesn't hold if one doesn't."""

  def check(rows: Rows) -> bool | None:
    found = {holds(rows) for holds in checks}
    return False if False in found else None if None in found else True

  return check


def beside(
  x: str, series: Mapping[str, Mapping[Any, str]], smoke: bool = True
) -> Plot:
  """Plots published top-1 with ours at full size, and a smoke test apart.

  Args:
    x: what varies.
    series: label to {its value, a number or a word: a row, or another name
      that has a published number}.
    smoke: whether scale 'cifar' has a panel.
  """

  def plot(experiment: Experiment, found: Mapping[str, Rows]) -> Figure:
    published = {
      name: math.nan if isinstance(number, str) else number
      for name, (number, *_) in experiment.published.items()
    }
    ours, small = (
      {name: row.mean for name, row in found.get(scale, {}).items()}
      for scale in (FULL, 'cifar')
    )
    panels = {'ImageNet: published; stars: here': published}
    if smoke and small:
      panels['a smoke test, at scale cifar'] = small
    made = Figure(figsize=(1.5 + 5.5 * len(panels), 4.6), layout='constrained')
    axes = made.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, values) in zip(axes, panels.items()):
      if values is published:
        draw(ax, series, ours, '*')
      draw(ax, series, values, 'o-')
      _figures.finish(ax, x, 'top-1 (%)', f'{title}; x: collapsed')
    _figures.legend(made, axes[0])
    return made

  return plot


def draw(
  ax: Axes,
  series: Mapping[str, Mapping[Any, str]],
  values: Mapping[str, float],
  line: str,
) -> None:
  """Draws names' values; one that isn't a number is a cross at the foot."""
  ticks = list(dict.fromkeys(at for places in series.values() for at in places))
  ax.plot(ticks, [math.nan] * len(ticks))  # words in their order
  for color, (label, places) in zip(_figures.COLORS, series.items()):
    there = {at: values[name] for at, name in places.items() if name in values}
    ax.plot(list(there), list(there.values()), line, color=color, label=label)
    low = [at for at, value in there.items() if math.isnan(value)]
    _figures.draw_at_foot(ax, low, 'x', color=color, ms=9, mew=2)
  if isinstance(ticks[0], str):
    ax.tick_params(axis='x', rotation=20)
  else:
    ax.set_xscale('log')
    if isinstance(ticks[0], int):
      ax.set_xticks(ticks, [f'{tick:,}' for tick in ticks])
    ax.minorticks_off()


# What scale 'cifar' takes from the recipe of CIFAR-10, and what else it sets.
CIFAR10 = (
  'name', 'num_classes', 'train_image_size', 'eval_image_size', 'crop', 'flip',
  'eval_preprocessing', 'mean', 'std',
)  # fmt: skip
SHRUNKEN = {
  **_resnet20.TEN_THOUSAND,
  'precision': 'float32',
  'label_smoothing': 0.0,
  'data.on_device': True,
  'augment.pad': 4,
  'augment.randaugment_layers': 0,  # its shifts are in pixels of large images
  'eval_batch_size': 1000,
  'keep_checkpoints': 1,
}


def scales(
  rows: Iterable[str],
  *,
  batch: int = 64,
  width: int = 4,
  depth: int = 99,
  clipping: int = 1,
  epochs: float = 6.5,
) -> dict[str, Scale]:
  """Full size, and 'cifar' for these rows.

  Args:
    rows: those that 'cifar' has.
    batch: divides the batch size, and its square root the learning rate.
    width: divides the stages' widths.
    depth: divides the stages' depths, rounded up.
    clipping: multiplies lambda. At 0.01 the 1,015 updates of 6.5 epochs at
      batch 64 reach 25 %: a unit may grow by learning rate x lambda / (1 -
      momentum) of itself an update.
    epochs: of 10,000 images.
  """
  note = (
    f'the first 10,000 images of CIFAR-10 at 32 pixels, {epochs:g} epochs, 5 % '
    f'of them warm-up, widths / {width}, '
    + ('a block a stage' if depth == 99 else f'depths / {depth}')
    + (f', batch sizes / {batch}, rates / {math.sqrt(batch):g}' * (batch > 1))
    + f', lambda x {clipping}' * (clipping > 1)
    + ', no RandAugment'
  )
  change = functools.partial(
    shrink,
    batch=batch,
    width=width,
    depth=depth,
    clipping=clipping,
    epochs=epochs,
  )
  return {
    FULL: Scale('ImageNet, as published'),
    'cifar': Scale(note, rows=list(rows), shrink=change, smoke=True),
  }


def shrink(
  config: ConfigDict,
  batch: int,
  width: int,
  depth: int,
  clipping: int,
  epochs: float,
) -> None:
  """Turns a recipe of ImageNet into one of CIFAR-10, see `scales`."""
  rate, batch_size = config.learning_rate, config.batch_size
  model = config.model
  model.widths = tuple(each // width for each in model.widths)
  model.depths = tuple(math.ceil(each / depth) for each in model.depths)
  if 'exact_width' in model:
    model.exact_width = True
  cifar10 = cifar_resnet20.get_config().data
  config.data.update({key: cifar10[key] for key in CIFAR10})
  config.update_from_flattened_dict(SHRUNKEN)
  config.num_epochs = epochs
  config.batch_size = max(1, batch_size // batch)
  config.learning_rate = rate / math.sqrt(batch)
  if config.optimizer.clip == 'agc':
    config.optimizer.clipping *= clipping
  config.schedule.warmup_steps = config.num_steps // 20
  config.eval_every = config.num_steps // 4 + 1
  config.checkpoint_every = config.num_steps // 4 + 1
  config.log_every = config.num_steps // 40 + 1
  config.observe_every = config.num_steps // 20 + 1
