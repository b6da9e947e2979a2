r"""Sizes of networks and the groups of a recipe's parameters.

  python -m scripts.summary --model=NAME [--image_size=PIXELS]
  python -m scripts.summary --all [--out=results/models.md]
  python -m scripts.summary --config=FILE --optimizer

The first counts parameters and multiply-adds stage by stage, without allocating
a weight; the second has one row for every model, beside the papers' figures;
the third prints which parameters are decayed and clipped, at which learning
rate. Exit codes: 0 printed, 2 refused.
"""

import pathlib

from absl import flags

from scripts import common

MODEL = flags.DEFINE_string('model', None, 'A name, such as nfnet_f3.')
ALL = flags.DEFINE_bool('all', False, 'One row for every model.')
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size',
  None,
  "Pixels a side; default: the variant's own two sizes.",
  lower_bound=1,
  upper_bound=4096,
)
CONFIG = common.config_flag()
OPTIMIZER = flags.DEFINE_bool(
  'optimizer', False, "Print the groups of the recipe's parameters."
)
OUT = flags.DEFINE_string('out', None, 'A Markdown file to write as well.')

TITLE = """# Every model

Written by `python -m scripts.summary --all --out=results/models.md`.
Multiply-adds are what both papers call FLOPs. The published formula lets sides
halve to fractions; the other columns count what is computed. Published: the
papers' own figures, or, marked (code), the released code's. Top-1 is
ImageNet's at the evaluation size, as the source measured it, none of it by us;
`nfnets.load` takes the names of weights.

"""


def main() -> None:
  sections = []
  if MODEL.value:
    sections += of_model(MODEL.value, IMAGE_SIZE.value)
  if ALL.value:
    sections.append(TITLE + of_all())
  if OPTIMIZER.value:
    sections.append(of_optimizer())
  if not sections:
    raise ValueError('name --model=NAME, --all, or --config=FILE --optimizer')
  text = '\n\n'.join(sections) + '\n'
  print(text, end='')
  if OUT.value:
    pathlib.Path(OUT.value).write_text(text)


def of_model(name: str, image_size: int | None) -> list[str]:
  """A network stage by stage, at one size or at its variant's own."""
  from nfnets import variants
  from nfnets.analysis import counts

  row = variants.find(name)
  sizes = [image_size] if image_size else [
    row['train_image_size'], row['eval_image_size']
  ]  # fmt: skip
  sections = []
  for size in dict.fromkeys(sizes):
    parts = counts.parts(name, size)
    rows = [
      (
        part.name,
        part.blocks or '',
        ' x '.join(map(str, part.output)),
        f'{part.params:,}',
        f'{part.macs / 1e9:.3f} G',
      )
      for part in parts
    ]
    params = sum(part.params for part in parts)
    macs = sum(part.macs for part in parts)
    rows.append(('total', '', '', f'{params:,}', f'{macs / 1e9:.3f} G'))
    header = ('part', 'blocks', 'output', 'parameters', 'multiply-adds')
    title = f'{name} at {size} x {size} pixels'
    sections.append(f'{title}\n\n{_table(header, rows)}')
  return sections


def of_all() -> str:
  """Every network, one row each."""
  from experiments._published import SIZES
  from nfnets import variants
  from nfnets.analysis import counts

  header = (
    'model',
    'parameters, M',
    'multiply-adds, G (px), training',
    'evaluation',
    'by the published formula',
    'published: M / G',
    'weights',
    'top-1, % (source)',
    'licence',
  )
  rows = []
  for name, row in variants.ALL.items():
    train, evaluation = row['train_image_size'], row['eval_image_size']
    parts = counts.parts(name, evaluation)
    macs = sum(part.macs for part in parts)
    train_macs = macs
    if train != evaluation:
      train_macs = counts.multiply_adds(name, train)
    figure = SIZES.get(name)
    source = ' (code)' if figure and figure[2] == 'K' else ''
    rows.append(
      (
        name,
        f'{sum(part.params for part in parts) / 1e6:.2f}',
        f'{train_macs / 1e9:.3f} ({train})',
        f'{macs / 1e9:.3f} ({evaluation})',
        f'{sum(part.published_macs for part in parts) / 1e9:.3f}',
        f'{figure[0]} / {figure[1]}{source}' if figure else '',
        *_weights_of(name),
      )
    )
  return _table(header, rows)


def _weights_of(model: str) -> tuple[str, str, str]:
  """The name of its published weights, their top-1, their licence."""
  from nfnets.weights import names

  for name, found in names.PUBLISHED.items():
    if found.model == model:
      top_1 = f'{found.top_1} ({found.source})' if found.top_1 else ''
      return name, top_1, found.licence
  return '', '', ''


def of_optimizer() -> str:
  """The recipe's parameter groups, from shapes alone."""
  import jax

  from nfnets import factory, optim, step

  config = common.recipe(CONFIG)
  network, optimizer = factory.network_of(config), factory.optimizer_of(config)
  shapes = jax.eval_shape(
    lambda key: step.init_state(config, network, optimizer, key),
    jax.random.key(0),
  )
  settings = optim.Settings(**config.optimizer)
  return optim.table(shapes.params, config.learning_rate, settings)


def _table(header: tuple[str, ...], rows: list[tuple]) -> str:
  from tabulate import tabulate

  return tabulate(rows, header, 'github', disable_numparse=True)


if __name__ == '__main__':
  common.run(main)
