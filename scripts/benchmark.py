r"""Measures what things cost, on the first device that JAX finds.

  python -m scripts.benchmark --model=nfnet_f0,nfnet_f1 --batch_size=32 \
    --precision=bfloat16 --mode=train,eval,folded --json=FILE
  python -m scripts.benchmark --model=nfnet_f0 --against=timm
  python -m scripts.benchmark --against=published --published=FOLDER --model=...
  python -m scripts.benchmark --latency --json=FILE
  python -m scripts.benchmark --loop | --input --config=FILE

Steps of a model: the whole training step, its data on the device already, or
inference, plain and folded. `--against=timm` times PyTorch's side of the same
network in turn with ours, here or in `--timm_python`'s interpreter;
`--against=published` the published training step: FOLDER is `nfnets` of a
checkout of google-deepmind/deepmind-research, whose base.py and nfnet.py run.
What a file of `--json` holds already isn't measured again. `--latency` is paper
A's protocol (Table 3): training steps of 32 images at each variant's training
size, bfloat16 on accelerators.

`--loop`: the loop beside its bare step.
`--input`: the host's stages and pipeline, the augmentation on the device and
the train step, on the recipe's own data, and which of them is the bottleneck.
With TensorFlow here, or in `--tensorflow_python`'s interpreter, tf.data and the
published recipe are measured in turn with ours.
"""

import importlib
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

MODELS = flags.DEFINE_list('model', [], 'Networks to time.')
BATCH_SIZES = flags.DEFINE_list('batch_size', [], 'Images of a step.')
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', 0, "Pixels a side; 0: the variant's.", lower_bound=0
)
PRECISIONS = flags.DEFINE_list('precision', [], 'float32, bfloat16.')
STEP_MODES = flags.DEFINE_list('mode', ['train'], 'train, eval, folded.')
CLIP = flags.DEFINE_string('clip', '', "'' for AGC where it is an NFNet.")
EMA = flags.DEFINE_bool('ema', False, 'Average parameters too.')
OVERRIDES = flags.DEFINE_string(
  'override', '{}', 'Of the networks, in JSON: \'{"normalizer": "batch"}\'.'
)
STEPS = flags.DEFINE_integer('steps', 100, 'At most so many.', lower_bound=3)
LATENCY = flags.DEFINE_bool('latency', False, "Paper A's protocol.")
PEERS = ['timm', 'published']
AGAINST = flags.DEFINE_enum('against', None, PEERS, 'Time it in turn.')
PUBLISHED = flags.DEFINE_string('published', '', 'Its folder nfnets.')
TIMM_PYTHON = flags.DEFINE_string(
  'timm_python', None, 'An interpreter that has timm and PyTorch.'
)
TORCH_COMPILE = flags.DEFINE_string(
  'torch_compile', 'auto', "torch.compile's mode, none, or auto: on CUDA."
)
LOOP = flags.DEFINE_bool('loop', False, 'The loop beside its bare step.')
INPUT = flags.DEFINE_bool('input', False, 'Measure the input of a recipe.')
CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/nfnet_f0.py.', lock_config=True
)
JSON = flags.DEFINE_string('json', None, 'Where to write the numbers.')
OUTPUT = flags.DEFINE_string(
  'output', None, 'A Markdown file that the report is added to.'
)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often.', lower_bound=1)
SECONDS = flags.DEFINE_float(
  'seconds', 1.0, 'Of each round, or of a step alone.', lower_bound=0.01
)
COUNT = flags.DEFINE_integer('count', 512, 'Held examples.', lower_bound=1)
WITH_STEP = flags.DEFINE_bool('train_step', True, 'Time the train step too.')
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
SCRIPTS = pathlib.Path(__file__).parent
PAPER_MODELS = tuple(f'nfnet_f{n}' for n in range(7))
PAPER_MODELS += ('nf_resnet_50', 'resnet_50', 'nf_regnet_b0')


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  try:
    if len(argv) > 1:
      raise ValueError(f'what is {argv[1]!r}?')
    if AGAINST.value and (EMA.value or OVERRIDES.value != '{}'):
      raise ValueError('--against compares plain steps: no --ema, --override')
    if (AGAINST.value == 'published') != bool(PUBLISHED.value):
      raise ValueError('--against=published and --published=FOLDER go together')
    from nfnets import finetune, host_memory

    host_memory.keep()
    if CONFIG.value is not None:
      finetune.complete(CONFIG.value)
    if INPUT.value and CONFIG.value is None:
      raise ValueError('name a recipe: --config=configs/nfnet_f0.py')
    if INPUT.value:
      return measure_input()
    if LOOP.value:
      return measure_ratios()
    if MODELS.value or LATENCY.value:
      return measure_steps()
    raise ValueError('say what to measure: --input, --model=nfnet_f0, ...')
  except (ValueError, OSError) as error:
    return refuse(' '.join(str(error).split()))


def measure_steps() -> int:
  if AGAINST.value == 'timm':  # two processes share the device's memory
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  import jax

  from nfnets.bench import report, speed

  command = report.command('scripts.benchmark', sys.argv[1:])
  where = {'command': command, **report.circumstances()}
  record = speed.Record(JSON.value, where)
  on_cpu = jax.default_backend() == 'cpu'
  batch_sizes = [int(size) for size in BATCH_SIZES.value] or [32]
  precision = 'float32' if on_cpu else 'bfloat16'
  questions = itertools.product(
    MODELS.value or PAPER_MODELS,
    STEP_MODES.value,
    PRECISIONS.value or [precision if LATENCY.value else 'float32'],
    batch_sizes,
  )
  asked, failed = [describe(*question) for question in questions], set()
  for question in asked:
    kind = tuple(question[key] for key in ('model', 'mode', 'precision'))
    if record.find(question) or kind in failed:
      continue
    try:
      result = question | answer(question)
    except jax.errors.JaxRuntimeError as error:
      failed.add(kind)  # a larger batch won't fit either
      result = question | {'error': str(error).partition('\n')[0]}
    record.add(result)
    print(speed.line(result), file=sys.stderr, flush=True)
  found = [result for question in asked if (result := record.find(question))]
  write(speed.page(', '.join(dict.fromkeys(q['model'] for q in asked)), found))
  return 0


def measure_ratios() -> int:
  from configs import quickstart
  from nfnets.bench import loop, report

  where = report.circumstances()
  config = CONFIG.value or quickstart.get_config()
  result = loop.measure(config, ROUNDS.value)
  title, text = 'The loop beside its bare step', loop.line(result)
  command = report.command('scripts.benchmark', sys.argv[1:])
  heading = f'## {title}\n\n    {command}\n\n{report.describe(where)}'
  about = {'command': command, 'where': where}
  write(f'{heading}\n\n{text}\n', about | result)
  return 0


def describe(
  model: str, mode: str, precision: str, batch_size: int
) -> dict[str, Any]:
  """A question, whole, so that the same one is known again."""
  import jax

  from nfnets.bench import step_time, versus

  overrides = json.loads(OVERRIDES.value)
  if AGAINST.value == 'timm':
    overrides = versus.counterpart(model)[1]
  clip = CLIP.value or step_time.default_clip(model, overrides)
  if AGAINST.value == 'published':
    versus.check_published(model, mode, clip := CLIP.value or 'none')
  return {
    'model': model,
    'batch_size': batch_size,
    'image_size': IMAGE_SIZE.value or step_time.default_size(model, mode),
    'precision': precision,
    'mode': mode,
    'clip': clip if mode == 'train' else 'none',
    'ema': EMA.value,
    'overrides': overrides,
    'against': AGAINST.value,
    'device': jax.devices()[0].device_kind,
  }


def answer(question: dict[str, Any]) -> dict[str, Any]:
  from nfnets.bench import step_time, versus

  keys = ('model', 'batch_size', 'image_size', 'precision', 'mode', 'clip')
  arguments = {key: question[key] for key in keys}
  arguments['config'] = recipe_of(question['model'])
  if not AGAINST.value:
    return step_time.measure(
      **arguments,
      ema=question['ema'],
      overrides=question['overrides'],
      steps=STEPS.value,
      seconds=SECONDS.value,
    )
  arguments |= {'rounds': ROUNDS.value, 'seconds': SECONDS.value}
  if AGAINST.value == 'published':
    return versus.compare_published(**arguments, folder=PUBLISHED.value)
  auto = 'none' if question['device'] == 'cpu' else 'default'
  compiler = auto if TORCH_COMPILE.value == 'auto' else TORCH_COMPILE.value
  return versus.compare(**arguments, command=timm_command(), compiler=compiler)


def recipe_of(model: str) -> ConfigDict:
  """The family's base recipe (configs/), with this network in it."""
  from nfnets import variants

  bases = {
    'nfnet_f0': variants.NFNET,
    'nf_regnet_b0': variants.NF_REGNET,
    'nf_resnet_50': variants.NF_RESNET,
    'resnet_50': variants.RESNET,
    'skipinit_resnet_50': variants.SKIPINIT_RESNET,
    'fixup_resnet_50': variants.FIXUP_RESNET,
    'cifar_resnet20': variants.CIFAR_RESNET,
  }
  variants.find(model)
  base = next(name for name, rows in bases.items() if model in rows)
  return importlib.import_module(f'configs.{base}').get_config()


def timm_command() -> list[str]:
  from nfnets.bench import peer

  path = SCRIPTS / 'torch_step.py'
  command = peer.started_by(TIMM_PYTHON.value, path, 'torch', 'timm')
  if not command:
    raise ValueError(
      'no torch and timm here: install them, or pass --timm_python=PATH of an '
      'interpreter that has both'
    )
  return command


def write(page: str, content: dict[str, Any] | None = None) -> None:
  """Prints a page and adds it to --output; the content goes to --json."""
  print(page)
  if OUTPUT.value:
    path = pathlib.Path(OUTPUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
      file.write(page)
  if JSON.value and content is not None:
    pathlib.Path(JSON.value).write_text(json.dumps(content, indent=2) + '\n')


def measure_input() -> int:
  from nfnets.bench import input as benchmark
  from nfnets.bench import peer, report, verdict

  size = PHOTO_SIZE.value.split('x')
  if [side.isdigit() for side in size] != [True, True]:
    raise ValueError(f'--photo_size={PHOTO_SIZE.value}: such as 400x500')
  result = benchmark.measure(
    CONFIG.value.copy_and_resolve_references(),
    benchmark.Options(
      count=COUNT.value,
      rounds=ROUNDS.value,
      seconds=SECONDS.value,
      device_batch_size=DEVICE_BATCH_SIZE.value,
      model=WITH_STEP.value,
      photo_size=(int(size[0]), int(size[1])),
    ),
    peer.started_by(
      TENSORFLOW_PYTHON.value, SCRIPTS / 'tf_input.py', 'tensorflow'
    ),
  )
  command = report.command('scripts.benchmark', sys.argv[1:])
  write(verdict.page(result, command), {'command': command, **result})
  return 0


def refuse(why: str) -> int:
  print(f'benchmark: {why}', file=sys.stderr)
  return REFUSED


if __name__ == '__main__':
  app.run(main)
