"""Scales of the papers' experiments: full size, and a smoke test on CIFAR-10.

At full size a row is an ImageNet recipe, ready to launch. At scale 'cifar' it
trains a smaller network on 10,000 CIFAR-10 images, which decides nothing.
"""

import math
from collections.abc import Iterable

from ml_collections import ConfigDict

from configs import cifar_resnet20
from experiments import _resnet20
from experiments.study import FULL, Check, Rows, Scale

# Keys of `data` that scale 'cifar' copies from CIFAR-10's recipe.
CIFAR10 = (
  'name', 'num_classes', 'train_image_size', 'eval_image_size', 'crop', 'flip',
  'eval_preprocessing', 'mean', 'std',
)  # fmt: skip
SMALL = {
  **_resnet20.TEN_THOUSAND,
  'precision': 'float32',
  'label_smoothing': 0.0,
  'data.on_device': True,
  'augment.pad': 4,
  'augment.randaugment_layers': 0,  # it shifts by pixels of large images
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
    rows: the rows of 'cifar'.
    batch: divides the batch size; its square root divides the learning rate.
    width: divides the widths of the stages.
    depth: divides the depths of the stages, rounded up.
    clipping: multiplies lambda, because a unit can grow by learning rate x
      lambda / (1 - momentum) of itself per update: with 0.01, the 1,015 updates
      of 6.5 epochs at batch 64 reach 25 % accuracy.
    epochs: the number of passes over the 10,000 images.
  """

  def shrink(config: ConfigDict) -> None:
    batch_size, rate = config.batch_size, config.learning_rate
    model, cifar10 = config.model, cifar_resnet20.get_config().data
    model.widths = tuple(each // width for each in model.widths)
    model.depths = tuple(math.ceil(each / depth) for each in model.depths)
    if 'exact_width' in model:
      model.exact_width = True
    config.data.update({key: cifar10[key] for key in CIFAR10})
    config.update_from_flattened_dict(SMALL)
    config.num_epochs = epochs
    config.batch_size = max(1, batch_size // batch)
    config.learning_rate = rate / math.sqrt(batch)
    if config.optimizer.clip == 'agc':
      config.optimizer.clipping *= clipping
    config.schedule.warmup_steps = config.num_steps // 20
    config.eval_every = config.checkpoint_every = config.num_steps // 4 + 1
    config.log_every = config.num_steps // 40 + 1
    config.observe_every = config.num_steps // 20 + 1

  note = (
    f'the first 10,000 images of CIFAR-10 at 32 pixels, {epochs:g} epochs, 5 % '
    f'of them warm-up, widths / {width}, '
    + ('a block a stage' if depth == 99 else f'depths / {depth}')
    + (f', batch sizes / {batch}, rates / {math.sqrt(batch):g}' * (batch > 1))
    + f', lambda x {clipping}' * (clipping > 1)
    + ', no RandAugment'
  )
  return {
    FULL: Scale('ImageNet, as published'),
    'cifar': Scale(note, rows=list(rows), shrink=shrink, smoke=True),
  }


def every(*checks: Check) -> Check:
  """A check that holds if all of these do, and doesn't if any one doesn't."""

  def check(rows: Rows) -> bool | None:
    found = {holds(rows) for holds in checks}
    return False if False in found else None if None in found else True

  return check
