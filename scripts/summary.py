"""Prints the sizes of networks, or the parameter groups of a recipe.

  python -m scripts.summary --model=NAME [--image_size=PIXELS]
  python -m scripts.summary --config=FILE [--image_size=PIXELS]
  python -m scripts.summary --all [--out=results/models.md]
  python -m scripts.summary --config=FILE --optimizer

The first form counts parameters and multiply-adds stage by stage, without
allocating a weight; the second does so for a recipe's network, with its own
arguments and classes. The third prints one row for each model, beside the
papers' figures. The last shows which of a recipe's parameters are decayed and
clipped, and with which learning rates. Exit codes: 0 printed, 2 refused or
failed.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from scripts import common

MODEL = flags.DEFINE_string('model', None, 'The model, such as nfnet_f3.')
ALL = flags.DEFINE_bool('all', False, 'Print one row for every model.')
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size',
  None,
  "The images' side in pixels. By default the variant's own training and "
  "evaluation sizes, or the recipe's.",
  lower_bound=1,
  upper_bound=4096,
)
CONFIG = common.config_flag()
OPTIMIZER = flags.DEFINE_bool(
  'optimizer', False, 'Print the parameter groups of --config instead.'
)
OUT = flags.DEFINE_string(
  'out', None, 'A Markdown file to write the output to as well.'
)

TITLE = """# Every model

Written by `python -m scripts.summary --all --out=results/models.md`.
Multiply-adds are what both papers call FLOPs. The published formula allows
fractional side lengths; the other two columns count what is computed. Published
figures are the papers' or, if marked (code), the released code's. Top-1 is the
accuracy on ImageNet's validation set at the evaluation size, measured by the
source, not by us. `nfnets.load` takes the names of weights.

"""


def main() -> None:
  from nfnets import variants

  sections = []
  if MODEL.value and OPTIMIZER.value:
    sections += of_model(MODEL.value, {}, variants.find(MODEL.value))
  elif MODEL.value or (CONFIG.value is not None and not OPTIMIZER.value):
    name, arguments, config = common.network_of(MODEL, CONFIG)
    sizes = variants.find(name) if config is None else config.data
    sections += of_model(name, arguments, sizes)
  if ALL.value:
    sections.append(TITLE + of_all())
  if OPTIMIZER.value:
    sections.append(of_optimizer())
  if not sections:
    raise ValueError('set --model=NAME, --config=FILE or --all')
  text = '\n\n'.join(sections) + '\n'
  print(text, end='')
  if OUT.value:
    pathlib.Path(OUT.value).write_text(text)


def of_model(
  name: str, arguments: Mapping[str, Any], sizes: Mapping[str, Any]
) -> list[str]:
  """A network's table by stages, at --image_size or at both of `sizes`."""
  from nfnets.analysis import counts
  from nfnets.bench import report

  sections, given = [], IMAGE_SIZE.value
  own = (sizes['train_image_size'], sizes['eval_image_size'])
  for size in dict.fromkeys([given] if given else own):
    parts = counts.parts(name, size, **arguments)
    rows = [
      {
        'part': part.name,
        'blocks': part.blocks or '',
        'output': ' x '.join(map(str, part.output)),
        'parameters': f'{part.params:,}',
        'multiply-adds': f'{part.macs / 1e9:.3f} G',
      }
      for part in parts
    ]
    params = sum(part.params for part in parts)
    macs = sum(part.macs for part in parts) / 1e9
    total = ('total', '', '', f'{params:,}', f'{macs:.3f} G')
    rows.append(dict(zip(rows[0], total)))
    sections.append(f'{name} at {size} x {size} pixels\n\n{report.table(rows)}')
  return sections


def of_all() -> str:
  """The table of all models, one row each."""
  from experiments._published import SIZES
  from nfnets import variants
  from nfnets.analysis import counts
  from nfnets.bench import report

  rows = []
  for name, row in variants.ALL.items():
    train, evaluation = row['train_image_size'], row['eval_image_size']
    parts = counts.parts(name, evaluation)
    macs = sum(part.macs for part in parts)
    training = parts if train == evaluation else counts.parts(name, train)
    train_macs = sum(part.macs for part in training)
    params, published_macs, tag = SIZES.get(name, ('', '', ''))
    source = ' (code)' if tag == 'K' else ''
    weights, found = _weights_of(name)
    rows.append(
      {
        'model': name,
        'parameters, M': f'{sum(part.params for part in parts) / 1e6:.2f}',
        'multiply-adds, G (px), training': f'{train_macs / 1e9:.3f} ({train})',
        'evaluation': f'{macs / 1e9:.3f} ({evaluation})',
        'by the published formula': (
          f'{sum(part.published_macs for part in parts) / 1e9:.3f}'
        ),
        'published: M / G': (
          f'{params} / {published_macs}{source}' if params else ''
        ),
        'weights': weights,
        'top-1, % (source)': (
          f'{found.top_1} ({found.source})' if found and found.top_1 else ''
        ),
        'licence': found.licence if found else '',
      }
    )
  return report.table(rows)


def _weights_of(model: str) -> tuple[str, Any]:
  """The first published weights of a model: their name, and what is known."""
  from nfnets.weights import names

  every = names.PUBLISHED.items()
  return next((x for x in every if x[1].model == model), ('', None))


def of_optimizer() -> str:
  """The recipe's parameter groups, from the parameters' shapes only."""
  from nfnets import optim, step

  config = common.recipe(CONFIG)
  params = step.state_shapes(config).params
  settings = optim.Settings(**config.optimizer)
  return optim.table(params, config.learning_rate, settings)


if __name__ == '__main__':
  common.run(main)
