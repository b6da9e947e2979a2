"""Sizes of networks: python -m scripts.summary --model=nfnet_f3, or --all.

Parameters and multiply-adds, stage by stage, without allocating a weight. With
--config and --batch_size, the papers' rules for another batch size; with
--config and --optimizer, who is decayed and clipped at which learning rate.
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

MODEL = flags.DEFINE_string('model', None, 'A name, such as nfnet_f3.')
ALL = flags.DEFINE_bool('all', False, 'One row for every model.')
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', None, "Pixels a side; the variant's own two sizes if not given."
)
BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', None, 'Print what the rules give for this batch size.'
)
CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/nfnet_f0.py.', lock_config=True
)
OPTIMIZER = flags.DEFINE_bool(
  'optimizer', False, "Print the groups of the recipe's parameters."
)
OUTPUT = flags.DEFINE_string(
  'output', None, 'A Markdown file to write, such as results/models.md.'
)
GOLDEN = flags.DEFINE_string(
  'golden', None, 'A folder of golden numbers; --all measures against them.'
)

TITLE = """# Every model

Written by `python -m scripts.summary --all --golden=FOLDER --output=FILE`.
Multiply-adds are what both papers call FLOPs. The published formula lets sides
halve to fractions; the other columns count what is computed. Published: the
papers' own figures, or, marked (code), the released code's. The golden
difference is of the logits from the published reference's on the same
parameters and images, relative to their norm, in float32.

"""


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    return refuse(f'unexpected argument {argv[1]!r}; flags start with --')
  try:
    text = ''.join(sections())
  except (ValueError, OSError) as error:
    return refuse(str(error))
  if not text:
    return refuse(
      'choose --model=NAME, --all, or --config with --batch_size or --optimizer'
    )
  print(text, end='')
  if OUTPUT.value:
    with open(OUTPUT.value, 'w') as file:
      file.write(text)
  return 0


def sections() -> list[str]:
  """Returns what the flags ask for, in order."""
  from nfnets import variants
  from nfnets.analysis import counts, golden, tables

  result = []
  if MODEL.value:
    row = variants.find(MODEL.value)
    sizes = [row['train_image_size'], row['eval_image_size']]
    for size in (
      [IMAGE_SIZE.value] if IMAGE_SIZE.value else dict.fromkeys(sizes)
    ):
      parts = counts.parts(MODEL.value, size)
      result.append(tables.of_parts(MODEL.value, size, parts) + '\n')
  if ALL.value:
    measured = golden.differences(GOLDEN.value) if GOLDEN.value else {}
    result.append(TITLE + tables.of_family(measured))
  if BATCH_SIZE.value is not None:
    result.append(recipe(BATCH_SIZE.value))
  if OPTIMIZER.value:
    result.append(groups() + '\n')
  if CONFIG.value is not None and not result:
    raise ValueError('--config is read with --batch_size=B or --optimizer')
  return result


def groups() -> str:
  """The recipe's parameter groups, from shapes alone."""
  if CONFIG.value is None:
    raise ValueError('--optimizer wants a recipe: --config=configs/NAME.py')
  import jax

  from nfnets import factory as recipes
  from nfnets import finetune, step

  finetune.complete(CONFIG.value)
  config = CONFIG.value.copy_and_resolve_references()
  network = recipes.network_of(config)
  optimizer = recipes.optimizer_of(config)
  shapes = jax.eval_shape(
    lambda key: step.init_state(config, network, optimizer, key),
    jax.random.key(0),
  )
  return recipes.audit_of(config, shapes.params)


def recipe(batch_size: int) -> str:
  """The rules' numbers for a batch size."""
  if CONFIG.value is None:
    raise ValueError('--batch_size wants a recipe: --config=configs/NAME.py')
  from nfnets import finetune
  from nfnets.analysis import rules, tables

  config = CONFIG.value
  finetune.complete(config)
  name, num_train = config.model.name, config.data.num_train
  found = rules.for_batch_size(name, batch_size, num_train, config.num_epochs)
  rows = [(rule.quantity, rule.value, rule.rule) for rule in found]
  title = f'{name} at batch size {batch_size:,}\n\n'
  return title + tables.markdown(('quantity', 'value', 'rule'), rows)


def refuse(why: str) -> int:
  print(f'error: {" ".join(why.split())}', file=sys.stderr)
  return 2


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; what is wrong with them is one line, not a traceback."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    sys.exit(refuse(str(e.args[0] if e.args else e)))


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
