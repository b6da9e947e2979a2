"""Draws a training batch: python -m scripts.show_batch --config=FILE --out=PNG.

Each example is shown as the host hands it over and as the network sees it, with
its label, or its labels and their shares where mixing blended two.
"""

import math
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/nfnet_f0.py.', lock_config=True
)
OUT = flags.DEFINE_string('out', 'batch.png', 'The picture to write.')
COUNT = flags.DEFINE_integer('count', 16, 'How many examples.', lower_bound=1)
STEP = flags.DEFINE_integer('step', 0, 'Which batch.', lower_bound=0)

COLUMNS = 4  # pairs of before and after
REFUSED = 2


def main(argv: Sequence[str]) -> int:
  try:
    if len(argv) > 1 or CONFIG.value is None:
      return refuse('name a recipe: --config=configs/nfnet_f0.py')
    from nfnets import finetune

    finetune.complete(CONFIG.value)
    config = CONFIG.value.copy_and_resolve_references()
    before, after = load(config, COUNT.value, STEP.value)
  except (ValueError, OSError) as error:
    return refuse(str(error))
  draw(before, after, pathlib.Path(OUT.value))
  print(f'{OUT.value}: {len(after)} examples of {config.data.name}')
  return 0


Captioned = list[tuple[np.ndarray, str]]


def load(
  config: ConfigDict, count: int, step_number: int
) -> tuple[Captioned, Captioned]:
  """Returns uint8 `[H, W, 3]` images with captions, before and after.

  The draws are of training's kind; training's own also depend on the device.
  """
  import jax

  from nfnets import factory, step
  from nfnets.data import pipeline

  source, _ = factory.sources_of(config)
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  batch = next(
    pipeline.train_batches(
      source,
      batch_size=count * fresh,
      image_size=config.data.train_image_size,
      crop=config.data.crop,
      flip=config.data.flip,
      seed=config.seed,
      start_step=step_number,
      num_threads=0,
      on_error=config.data.on_error,
    )
  )
  names = source.class_names
  key = jax.random.fold_in(jax.random.key(config.seed), step_number)
  augmented = jax.jit(lambda k, b: step.augment_batch(config, k, b))(
    key, {name: batch[name] for name in ('images', 'labels')}
  )
  images = np.asarray(augmented['images'], np.float32)
  images = images * np.float32(config.data.std) + np.float32(config.data.mean)
  images = np.clip(np.rint(images), 0, 255).astype(np.uint8)
  before = [
    (image, names[label])
    for image, label in zip(batch['images'], batch['labels'])
  ]
  after = [
    (image, caption(target, names))
    for image, target in zip(images, np.asarray(augmented['targets']))
  ]
  return before[:count], after


def caption(target: np.ndarray, names: Sequence[str]) -> str:
  """Says a soft label `[K]` in words: `cat 0.62 + dog 0.38`, or `cat`."""
  shares = [(float(target[i]), names[i]) for i in np.flatnonzero(target > 5e-3)]
  if len(shares) == 1:
    return shares[0][1]
  return ' + '.join(f'{name} {s:.2f}' for s, name in sorted(shares)[::-1])


def draw(before: Captioned, after: Captioned, path: pathlib.Path) -> None:
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  rows = math.ceil(len(after) / COLUMNS)
  figure, axes = pyplot.subplots(
    rows, 2 * COLUMNS, figsize=(3.2 * COLUMNS, 1.9 * rows), squeeze=False
  )
  for axis in axes.flat:
    axis.axis('off')
  for axis, (image, text) in zip(axes[:, 0::2].flat, before):
    axis.imshow(image)
    axis.set_title(text, fontsize=7, color='grey')
  for axis, (image, text) in zip(axes[:, 1::2].flat, after):
    axis.imshow(image)
    axis.set_title(text.replace(' + ', '\n'), fontsize=7)
  figure.tight_layout()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=150)
  pyplot.close(figure)


def refuse(reason: str) -> int:
  print(f'show_batch: {reason}', file=sys.stderr)
  return REFUSED


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; what is wrong with them is one line, not a traceback."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    sys.exit(refuse(str(e.args[0] if e.args else e)))


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
