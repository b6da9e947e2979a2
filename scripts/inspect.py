r"""Inspects a recipe's batch or a network without training.

  python -m scripts.inspect batch --config=FILE [--step=N]
  python -m scripts.inspect signal --model=NAME [--image_size=128]
  python -m scripts.inspect signal --config=FILE [--image_size=128]
  python -m scripts.inspect numerics --config=FILE [--workdir=RUN] [--noise]

batch     draws a training batch: each example as it leaves the host and as it
          enters the network, with its label, or with both labels and their
          shares where images are mixed.
signal    sends standard normal images through a network at initialization, a
          named one or a recipe's, and prints mean and variance after each block
          beside the expected variance (paper B, section 3). Skip gains are 1
          and nothing is dropped. For a normalizer-free network it checks that
          every block preserves the variance.
numerics  runs one batch in float32 and in bfloat16 from the same parameters and
          prints how much the outputs and gradients of each block differ, and
          where a NaN or an infinity first occurs. --workdir takes the newest
          checkpoint of a run; --noise takes noise instead of the recipe's data.

`batch` and `signal` draw a picture, --out. Exit codes: 0 done, 1 a block
changes the variance, 2 refused.
"""

import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tabulate import tabulate

from scripts import common

CONFIG = common.config_flag()
MODEL = flags.DEFINE_string(
  'model', None, 'signal: a network, such as nfnet_f0, instead of --config.'
)
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size',
  128,
  'signal: pixels a side.',
  lower_bound=1,
  upper_bound=4096,
)
WORKDIR = flags.DEFINE_string('workdir', None, "numerics: a run's folder.")
NOISE = flags.DEFINE_bool('noise', False, 'numerics: use noise as images.')
ALL = flags.DEFINE_bool(
  'all', False, 'numerics: also show modules inside blocks.'
)
EXAMPLES = flags.DEFINE_integer(
  'examples',
  None,
  'Default: 16 for batch, 4 for signal, 8 for numerics.',
  lower_bound=1,
)
STEP = flags.DEFINE_integer(
  'step', 0, 'batch: step of training.', lower_bound=0
)
OUT = flags.DEFINE_string(
  'out', None, 'Picture to write. Default: batch.png or signal.png.'
)

COLUMNS = 4  # pairs of before and after

Captioned = list[tuple[np.ndarray, str]]


def main(arguments: Sequence[str]) -> int:
  commands = {
    'batch': inspect_batch,
    'signal': inspect_signal,
    'numerics': inspect_numerics,
  }
  if len(arguments) != 1 or arguments[0] not in commands:
    raise ValueError(f'give one command: {", ".join(commands)}')
  return commands[arguments[0]]()


def inspect_batch() -> int:
  config = common.recipe(CONFIG)
  before, after = captioned(config, EXAMPLES.value or 16, STEP.value)
  path = pathlib.Path(OUT.value or 'batch.png')
  draw_batch(before, after, path)
  print(f'{path}: {len(after)} examples of {config.data.name}')
  return 0


def captioned(
  config: ConfigDict, count: int, step: int
) -> tuple[Captioned, Captioned]:
  """Returns captioned images, uint8 `[H, W, 3]`, before and after augmentation.

  Random numbers differ from training's, which depend on the device too.
  """
  import jax

  from nfnets.data import mixing

  batch, images, targets, names = _training_batch(config, count, step)
  images = images * np.float32(config.data.std) + np.float32(config.data.mean)
  images = np.clip(np.rint(images), 0, 255).astype(np.uint8)
  first, how = np.arange(len(images)), config.augment
  if how.mix != 'none':
    shape = batch['images'].shape  # which examples are mixed isn't random
    plan = mixing.plan(jax.random.key(0), shape, how.mix, pairs=how.pairs)
    first = np.asarray(plan.first)
  before = [(batch['images'][i], names[batch['labels'][i]]) for i in first]
  after = [(x, caption(t, names)) for x, t in zip(images, targets)]
  return before, after


def caption(target: np.ndarray, names: Sequence[str]) -> str:
  """Formats a soft label `[K]`: `cat 0.62 + dog 0.38`, or `cat`."""
  shares = [(float(target[i]), names[i]) for i in np.flatnonzero(target > 5e-3)]
  if len(shares) == 1:
    return shares[0][1]
  return ' + '.join(f'{name} {s:.2f}' for s, name in sorted(shares)[::-1])


def draw_batch(before: Captioned, after: Captioned, path: pathlib.Path) -> None:
  from matplotlib.figure import Figure

  rows = math.ceil(len(after) / COLUMNS)
  size = 3.2 * COLUMNS, 0.4 + 1.9 * rows
  figure = Figure(figsize=size, layout='constrained')
  figure.suptitle(
    'In each pair, left: the image from the host (grey label); right: what the '
    'network sees (black label)',
    fontsize=9,
  )
  axes = figure.subplots(rows, 2 * COLUMNS, squeeze=False)
  for axis in axes.flat:
    axis.axis('off')
  for column, examples, color in ((0, before, 'grey'), (1, after, 'black')):
    for axis, (image, text) in zip(axes[:, column::2].flat, examples):
      axis.imshow(image)
      title = text.replace(' + ', '\n').replace('$', r'\$')
      axis.set_title(title, fontsize=7, color=color)
  _save(figure, path)


def inspect_signal() -> int:
  import jax
  from matplotlib.figure import Figure

  from nfnets.analysis import signal

  name, overrides, _ = common.network_of(MODEL, CONFIG)
  for key in ('drop_rate', 'stochdepth_rate', 'skipinit_gain'):
    overrides.pop(key, None)  # 0, 0 and 1 for a measurement
  size = EXAMPLES.value or 4, IMAGE_SIZE.value
  signals = signal.measure_noise(name, 0, *size, **overrides)
  columns = {
    'block': 'block',
    'squared_mean': 'squared mean',
    'variance': 'variance',
    'expected_variance': 'expected',
    'branch_variance': 'branch variance',
  }
  rows = [[getattr(row, field) for field in columns] for row in signals]
  print(tabulate(rows, list(columns.values()), floatfmt='.4g'))
  figure = Figure(figsize=(8, 4), layout='constrained')
  axis = figure.subplots()
  for title, *values in list(zip(columns.values(), *rows))[1:]:
    if None not in values:
      axis.plot(values, '--' if title == 'expected' else '-', label=title)
  axis.set(title=name, xlabel='block', yscale='symlog')
  axis.legend()
  path = pathlib.Path(OUT.value or 'signal.png')
  _save(figure, path)
  print(f'plot: {path}')
  if signals[0].expected_variance is None:
    print('not normalizer-free: its blocks have no expected variance')
    return 0
  try:
    signal.check_contract(name, jax.random.key(0), **overrides)
  except ValueError as error:
    print(error)
    return 1
  print('every block preserves the variance')
  return 0


def inspect_numerics() -> int:
  import jax

  from nfnets.analysis import numerics

  config = common.recipe(CONFIG, WORKDIR.value)
  count = EXAMPLES.value or 8
  network, params, state, source = _variables(config, WORKDIR.value)
  size, classes = config.data.train_image_size, config.data.num_classes
  if NOISE.value:
    key = jax.random.key(config.seed)
    images = jax.random.normal(key, (count, size, size, 3))
    labels = jax.nn.one_hot(np.arange(count) % classes, classes)
  else:
    _, images, labels, _ = _training_batch(config, count, 0)
  rows, found = numerics.drift(
    network, params, state, jax.random.key(1), images, labels
  )
  print(f'{config.model.name}, {count} examples, {source}')
  header = 'module', 'output, %', 'gradient, %', 'not finite'
  table = [
    (
      row.module,
      100 * row.forward,
      100 * row.gradient,
      ', '.join(n for n, finite in zip(found, row.finite) if not finite),
    )
    for row in (rows if ALL.value else numerics.blocks(rows))
  ]
  print(tabulate(table, header, floatfmt='.3f'))
  print('\n'.join(_first_nonfinite(rows, found)))
  return 0


def _variables(
  config: ConfigDict, workdir: str | None
) -> tuple[Any, Any, Any, str]:
  """Returns a network, its parameters and state, and where they are from."""
  import jax

  from nfnets import factory, step, weights

  read = None if workdir is None else weights.of_run(workdir, config)['eval']
  with config.unlocked():  # either would hide the modules inside blocks
    config.model.update(remat=False, scan=False)
  if 'cross_replica_axis' in config.model:
    config.model.cross_replica_axis = None  # there is no mapped axis
  network = factory.network_of(config)
  if read is not None:
    return network, read.params, read.state, f'parameters of {workdir}'
  # A program that doesn't return the optimizer's state doesn't make it either.
  init = jax.jit(lambda key: step.init_state(config, key)[1:3])
  params, state = init(jax.random.key(config.seed))
  return network, params, state, 'fresh parameters'


def _first_nonfinite(rows: Sequence[Any], found: dict[str, list]) -> list[str]:
  from nfnets.analysis import numerics

  first = 'the first NaN or infinity is in the'
  lines = [
    f'{name}: {first} output of {module}'
    for name, outputs in found.items()
    if (module := numerics.first_nonfinite(outputs))
  ]
  if lines:
    return lines
  for index, name in enumerate(found):
    if bad := [row.module for row in rows if not row.finite[index]]:
      lines.append(f'{name}: {first} gradient of {bad[-1]}')
  return lines or ['every output and gradient is finite']


def _training_batch(
  config: ConfigDict, count: int, number: int
) -> tuple[dict, np.ndarray, np.ndarray, Sequence[str]]:
  """The first examples of a step's batch, for `count` augmented ones.

  Returns:
    The host's batch, its augmented images and targets, class names.
  """
  import jax

  from nfnets import factory
  from nfnets.data import augment, pipeline

  with config.unlocked():
    config.precision = 'float32'
    config.data.num_threads = 0
  source, _ = factory.sources_of(config)
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  stream = pipeline.train_batches(
    source,
    config.data,
    batch_size=1,
    seed=config.seed,
    start_step=number * config.batch_size * fresh,
  )
  examples = list(itertools.islice(stream, count * fresh))
  batch = {
    name: np.concatenate([example[name] for example in examples])
    for name in ('images', 'labels')
  }
  key = jax.random.fold_in(jax.random.key(config.seed), number)
  run = jax.jit(lambda key, batch: augment.augment(config, key, batch))
  augmented = run(key, batch)
  images = np.asarray(augmented['images'], np.float32)
  return batch, images, np.asarray(augmented['targets']), source.class_names


def _save(figure: Any, path: pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=150)


if __name__ == '__main__':
  common.run(main, positional=True)
