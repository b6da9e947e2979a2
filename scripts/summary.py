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
  'image_size', None, "Pixels a side; default: the variant's own two sizes."
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
papers' own figures, or, marked (code), the released code's.

"""
# Parameters in millions and multiply-adds in billions at the evaluation size,
# with one more decimal where the source prints it. F0 to F6: paper A, Tables 1
# and 3. The rest was computed with the released code (its widths and its
# formula, which halves odd sides to fractions).
PUBLISHED = {
  'nfnet_f0': (71.5, 12.38),
  'nfnet_f1': (132.6, 35.54),
  'nfnet_f2': (193.8, 62.59),
  'nfnet_f3': (254.9, 114.76),
  'nfnet_f4': (316.1, 215.24),
  'nfnet_f5': (377.2, 289.76),
  'nfnet_f6': (438.4, 377.28),
}
RELEASED = {
  'nfnet_f7': (499.50, 478.78),
  'nfnet_f0_plus': (118.82, 19.52),
  'nfnet_f1_plus': (220.36, 55.45),
  'nfnet_f2_plus': (321.89, 97.28),
  'nfnet_f3_plus': (423.42, 177.99),
  'nfnet_f4_plus': (524.95, 333.39),
  'nfnet_f5_plus': (626.49, 448.43),
  'nfnet_f6_plus': (728.02, 583.52),
  'nfnet_f7_plus': (829.55, 740.16),
  'nf_regnet_b0': (8.60, 0.444),
  'nf_regnet_b1': (10.02, 0.734),
  'nf_regnet_b2': (13.79, 1.099),
  'nf_regnet_b3': (18.14, 1.999),
  'nf_regnet_b4': (29.32, 4.467),
  'nf_regnet_b5': (48.71, 10.56),
  'nf_regnet_b6': (70.05, 19.69),
  'nf_regnet_b7': (101.74, 37.45),
  'nf_regnet_b8': (142.31, 63.72),
  'nf_resnet_50': (25.56, 4.09),
  'nf_resnet_101': (44.55, 7.80),
  'nf_resnet_152': (60.19, 11.51),
  'nf_resnet_200': (64.67, 15.01),
  'nf_resnet_288': (146.46, 21.56),
  'nf_resnet_600': (300.65, 44.27),
  'resnet_50': (25.55, 4.09),
  'resnet_101': (44.54, 7.80),
  'resnet_152': (60.19, 11.51),
  'resnet_200': (64.67, 15.01),
  'resnet_288': (146.45, 21.56),
  'resnet_600': (300.64, 44.27),
}


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
  from nfnets import variants
  from nfnets.analysis import counts

  header = (
    'model',
    'parameters, M',
    'multiply-adds, G (px), training',
    'evaluation',
    'by the published formula',
    'published: M / G',
  )
  rows = []
  for name, row in variants.ALL.items():
    train, evaluation = row['train_image_size'], row['eval_image_size']
    parts = counts.parts(name, evaluation)
    macs = sum(part.macs for part in parts)
    train_macs = macs
    if train != evaluation:
      train_macs = counts.multiply_adds(name, train)
    figure = (PUBLISHED | RELEASED).get(name)
    source = '' if name in PUBLISHED else ' (code)'
    rows.append(
      (
        name,
        f'{sum(part.params for part in parts) / 1e6:.2f}',
        f'{train_macs / 1e9:.3f} ({train})',
        f'{macs / 1e9:.3f} ({evaluation})',
        f'{sum(part.published_macs for part in parts) / 1e9:.3f}',
        f'{figure[0]} / {figure[1]}{source}' if figure else '',
      )
    )
  return _table(header, rows)


def of_optimizer() -> str:
  """The recipe's parameter groups, from shapes alone."""
  import jax

  from nfnets import factory, finetune, optim, step

  config = common.needed(CONFIG, 'configs/nfnet_f0.py')
  finetune.complete(config)
  config = config.copy_and_resolve_references()
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
