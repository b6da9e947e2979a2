"""Measures what things cost: python -m scripts.benchmark --input --config=FILE.

`--input`: the host's stages and pipeline, the augmentation on the device and
the train step, on the recipe's own data, and which of them is the bottleneck.
With TensorFlow here, or in `--tensorflow_python`'s interpreter, tf.data and the
published recipe are measured in turn with ours.
"""

import importlib.util
import json
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

INPUT = flags.DEFINE_bool('input', False, 'Measure the input of a recipe.')
CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/nfnet_f0.py.', lock_config=True
)
JSON = flags.DEFINE_string('json', None, 'Where to write the numbers.')
OUTPUT = flags.DEFINE_string(
  'output', None, 'A Markdown file that the report is added to.'
)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often.', lower_bound=1)
SECONDS = flags.DEFINE_float('seconds', 1.0, 'Of each round.', lower_bound=0.01)
COUNT = flags.DEFINE_integer('count', 512, 'Held examples.', lower_bound=1)
MODEL = flags.DEFINE_bool('model', True, 'Time the train step too.')
DEVICE_BATCH_SIZE = flags.DEFINE_integer(
  'device_batch_size', 0, "0: the recipe's, 64 at most.", lower_bound=0
)
PHOTO_SIZE = flags.DEFINE_string(
  'photo_size', '0x0', 'Encode the pictures anew at HEIGHTxWIDTH first.'
)
TENSORFLOW_PYTHON = flags.DEFINE_string(
  'tensorflow_python', None, 'An interpreter that has TensorFlow.'
)

REFUSED = 2


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1 or not INPUT.value:
    return refuse('say what to measure: --input')
  if CONFIG.value is None:
    return refuse('name a recipe: --config=configs/nfnet_f0.py')
  try:
    return measure_input()
  except (ValueError, OSError) as error:
    return refuse(' '.join(str(error).split()))


def measure_input() -> int:
  from nfnets.bench import input as benchmark
  from nfnets.bench import report, verdict

  size = PHOTO_SIZE.value.split('x')
  if len(size) != 2 or not all(side.isdigit() for side in size):
    raise ValueError(f'--photo_size={PHOTO_SIZE.value}: such as 400x500')
  result = benchmark.measure(
    CONFIG.value.copy_and_resolve_references(),
    benchmark.Options(
      count=COUNT.value,
      rounds=ROUNDS.value,
      seconds=SECONDS.value,
      device_batch_size=DEVICE_BATCH_SIZE.value,
      model=MODEL.value,
      photo_size=(int(size[0]), int(size[1])),
    ),
    tensorflow_command(),
  )
  command = report.command('scripts.benchmark', sys.argv[1:])
  page = verdict.page(result, command)
  print(page)
  if OUTPUT.value:
    path = pathlib.Path(OUTPUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
      file.write(page)
  if JSON.value:
    text = json.dumps({'command': command, **result}, indent=2)
    pathlib.Path(JSON.value).write_text(text + '\n')
  return 0


def tensorflow_command() -> list[str]:
  """What starts tf.data's side; empty where there is no TensorFlow."""
  worker = str(pathlib.Path(__file__).with_name('tf_input.py'))
  if TENSORFLOW_PYTHON.value:
    return [TENSORFLOW_PYTHON.value, worker]
  if importlib.util.find_spec('tensorflow'):
    return [sys.executable, worker]
  return []


def refuse(why: str) -> int:
  print(f'benchmark: {why}', file=sys.stderr)
  return REFUSED


if __name__ == '__main__':
  app.run(main)
