r"""Benchmarks on the first device that JAX finds.

  python -m scripts.benchmark --model=nfnet_f0,nfnet_f1 --batch_size=32 \
    --precision=bfloat16 --mode=train,eval,folded
  python -m scripts.benchmark --model=nfnet_f0 --against=timm \
    --timm_python=PYTHON
  python -m scripts.benchmark --pieces --config=FILE
  python -m scripts.benchmark --input --config=FILE

The steps of a model are the whole training step, plain inference and inference
of the folded network, with the data on the device already. `--against=timm`
times the same network in PyTorch in turn with ours, in this interpreter or that
of --timm_python: timm's network, or for CIFAR a ResNet that comes with this
script. Results that the --json file already has aren't measured again.

`--pieces` measures what AGC, SAM, parameter averages, the recipe's augmentation
and other features each add to a plain step. `--input` measures the stages of
the input pipeline, the augmentation on the device and the training step on the
recipe's own data, and names the bottleneck.

Markdown tables go to stdout, progress to stderr.
"""

import importlib
import itertools
import json
import os
import pathlib
import sys
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from scripts import common

MODELS = flags.DEFINE_list('model', [], 'Networks to time.')
BATCH_SIZES = flags.DEFINE_list('batch_size', ['32'], 'Images per step.')
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', 0, "Pixels a side; 0 means the variant's.", lower_bound=0
)
PRECISIONS = flags.DEFINE_list(
  'precision', ['float32'], 'float32 and/or bfloat16.'
)
MODES = flags.DEFINE_list('mode', ['train'], 'Any of train, eval, folded.')
CLIP = flags.DEFINE_enum(
  'clip', '', ['', 'agc', 'none'], "'' means the recipe's: AGC for NFNets."
)
EMA = flags.DEFINE_bool('ema', False, 'Also average parameters.')
OVERRIDES = flags.DEFINE_string(
  'override', '{}', 'Model arguments as JSON: \'{"normalizer": "batch"}\'.'
)
AGAINST = flags.DEFINE_enum(
  'against', None, ['timm'], 'Compare with this library.'
)
TIMM_PYTHON = flags.DEFINE_string(
  'timm_python', None, 'Python interpreter with timm and PyTorch.'
)
TORCH_COMPILE = flags.DEFINE_string(
  'torch_compile',
  'auto',
  "torch.compile's mode; none; or auto, which compiles on CUDA.",
)
PIECES = flags.DEFINE_bool('pieces', False, "Measure a recipe's features.")
INPUT = flags.DEFINE_bool('input', False, "Measure a recipe's input.")
WITH_STEP = flags.DEFINE_bool(
  'train_step', True, 'With --input: also time the training step.'
)
DEVICE_BATCH_SIZE = flags.DEFINE_integer(
  'device_batch_size',
  0,
  "For --input and --pieces; 0 means the recipe's, but 64 at most.",
  lower_bound=0,
)
CONFIG = common.config_flag()
ROUNDS = flags.DEFINE_integer(
  'rounds', 5, 'Turns of each subject.', lower_bound=1
)
SECONDS = flags.DEFINE_float(
  'seconds', 1.0, 'Duration of a turn.', lower_bound=0.01
)
JSON = flags.DEFINE_string(
  'json', None, 'File that results are appended to, one JSON a line.'
)


def main() -> int:
  if AGAINST.value:
    if EMA.value or OVERRIDES.value != '{}':
      raise ValueError(
        '--against compares plain steps: remove --ema and --override'
      )
    # The two processes share the device's memory.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  common.keep_freed_memory()
  from nfnets.bench import input as stages
  from nfnets.bench import pieces, report

  where = report.circumstances()
  timing = {'rounds': ROUNDS.value, 'seconds': SECONDS.value}
  if MODELS.value:
    text = report.steps(measured_steps())
  elif PIECES.value:
    found = pieces.measure(recipe(), **timing)
    text = report.pieces(found)
    keep({'pieces': found})
  elif INPUT.value:
    found = stages.measure(recipe(), **timing, with_step=WITH_STEP.value)
    text = report.rates(found)
    keep(found)
  else:
    raise ValueError('set one of --model=nfnet_f0, --pieces and --input')
  print(f'{where}\n{text}')
  return 0


def recipe() -> ConfigDict:
  """Returns the recipe of --config with one device's batch."""
  config = common.recipe(CONFIG)
  with config.unlocked():
    config.batch_size = DEVICE_BATCH_SIZE.value or min(config.batch_size, 64)
  return config


def measured_steps() -> list[dict[str, Any]]:
  """Measures each model in each mode, precision and batch size."""
  import jax

  from nfnets.bench import report

  kept, found, failed = results_kept(), [], set()
  for model, mode, precision, size in itertools.product(
    MODELS.value, MODES.value, PRECISIONS.value, BATCH_SIZES.value
  ):
    if not size.isdecimal():
      raise ValueError(f'--batch_size={size}: must be whole numbers')
    settings = settings_of(model, mode, precision, int(size))
    result = next((r for r in kept if r.get('asked') == settings), None)
    if result is None and (model, mode, precision) in failed:
      continue  # a larger batch won't fit either
    if result is None:
      try:
        result = {'asked': settings} | settings | measured(settings)
        keep(result)
      except jax.errors.JaxRuntimeError as error:
        failed.add((model, mode, precision))
        print(f'{settings}: {error}', file=sys.stderr)
        continue
    print(report.steps([result]), file=sys.stderr, flush=True)
    found.append(result)
  if not found:
    raise ValueError('none of these steps fits on the device')
  return found


def settings_of(
  model: str, mode: str, precision: str, batch_size: int
) -> dict[str, Any]:
  import jax

  from nfnets.bench import step_time

  try:
    overrides = dict(json.loads(OVERRIDES.value))
  except (ValueError, TypeError) as error:
    raise ValueError(
      f'--override={OVERRIDES.value}: not a JSON object ({error})'
    ) from error
  if AGAINST.value:
    _, overrides = step_time.counterpart(model)
  return {
    'model': model,
    'batch_size': batch_size,
    'image_size': IMAGE_SIZE.value,
    'precision': precision,
    'mode': mode,
    'clip': CLIP.value,
    'ema': EMA.value,
    'overrides': overrides,
    'against': AGAINST.value,
    'torch_compile': TORCH_COMPILE.value if AGAINST.value else '',
    'device': jax.devices()[0].device_kind,
  }


def measured(settings: dict[str, Any]) -> dict[str, Any]:
  from nfnets.bench import programs, step_time

  others = 'against', 'torch_compile', 'device'
  plain = {k: v for k, v in settings.items() if k not in others}
  config = programs.plain(recipe_of(settings['model']), **plain)
  if not settings['against']:
    return step_time.measure(config, settings['mode'], SECONDS.value)
  if not TIMM_PYTHON.value and not all(
    map(importlib.util.find_spec, ('torch', 'timm'))
  ):
    raise ValueError(
      'torch and timm are not installed here: pass --timm_python=PATH'
    )
  compiler = settings['torch_compile']
  if compiler == 'auto':
    compiler = 'none' if settings['device'] == 'cpu' else 'default'
  return step_time.compare(
    config,
    settings['mode'],
    [TIMM_PYTHON.value or sys.executable, '-m', 'nfnets.bench.torch_step'],
    compiler=compiler,
    rounds=ROUNDS.value,
    seconds=SECONDS.value,
  )


def recipe_of(model: str) -> ConfigDict:
  """Returns the recipe (configs/) with the longest common name prefix."""
  from nfnets import variants

  if variants.canonical(model) in variants.TIMM:
    return importlib.import_module('configs.timm').get_config(model)
  names = [p.stem for p in pathlib.Path('configs').glob('*.py')]
  shared = lambda name: os.path.commonprefix([name, model])
  name = max(sorted(names), key=lambda name: len(shared(name)))
  return importlib.import_module(f'configs.{name}').get_config()


def results_kept() -> list[dict[str, Any]]:
  from nfnets import texts

  path = pathlib.Path(JSON.value or os.devnull)
  if not path.parent.is_dir():  # not after minutes of measuring
    raise FileNotFoundError(f'--json={path}: no folder {path.parent}')
  lines = path.read_text().splitlines() if path.exists() else []
  remedy = 'remove the line or choose another file'
  return [
    texts.parse_json(line, f'--json={path}, line {number}', remedy)
    for number, line in enumerate(lines, 1)
  ]


def keep(result: dict[str, Any]) -> None:
  if JSON.value:
    with open(JSON.value, 'a') as file:
      file.write(json.dumps(result) + '\n')


if __name__ == '__main__':
  common.run(main)
