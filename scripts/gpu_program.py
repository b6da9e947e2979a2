r"""Compiles training steps for an H100 that isn't there, and counts.

  pip install jax-cuda12-plugin==VERSION  # jax's own; nothing else of CUDA
  python -m scripts.gpu_program --model=nfnet_f0 --batch_size=32,256 \
    [--steps=plain,recipe,published --published=FOLDER]

Keeps kernels, bytes and memory of each step in OUT/gpu_program.json and writes
OUT/gpu_program.md. FOLDER is `nfnets` of a checkout of
google-deepmind/deepmind-research. Exit codes: 0 all over, 2 refused.
"""

import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

MODEL = flags.DEFINE_list('model', ['nfnet_f0'], 'Recipes of configs/.')
BATCH_SIZE = flags.DEFINE_list('batch_size', ['32'], 'Images on the GPU.')
STEPS = flags.DEFINE_list('steps', ['plain'], 'Of plain, recipe, published.')
PUBLISHED = flags.DEFINE_string(
  'published', '', "The published code's folder, for 'published' steps."
)
OUT = flags.DEFINE_string('out', 'results', "The table's folder.")

REFUSED = 2
KINDS = ('plain', 'recipe', 'published')
NAME = 'gpu_program'


def main(argv: Sequence[str]) -> int:
  # There is no GPU here, and JAX would look for one.
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  try:
    if len(argv) > 1:
      raise ValueError(f'unexpected argument {argv[1]!r}; flags start with --')
    _check()
    from nfnets.bench import gpu_program

    gpu_program.device()
    for model in MODEL.value:
      for size in map(int, BATCH_SIZE.value):
        for kind in STEPS.value:
          _keep(kind, model, size)
  except (ValueError, ImportError) as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    return REFUSED
  print((pathlib.Path(OUT.value) / f'{NAME}.md').read_text(), end='')
  return 0


def _check() -> None:
  known = sorted(path.stem for path in pathlib.Path('configs').glob('[!_]*.py'))
  for model in MODEL.value:
    if model not in known:
      raise ValueError(f'--model={model}: choose of {", ".join(known)}')
  for size in BATCH_SIZE.value:
    if not size.isdigit() or int(size) == 0:
      raise ValueError(f'--batch_size={size}: must be a whole number above 0')
  for kind in STEPS.value:
    if kind not in KINDS:
      raise ValueError(f'--steps={kind}: choose of {", ".join(KINDS)}')


def _keep(kind: str, model: str, batch_size: int) -> None:
  """Compiles one step; writes its entry and the page."""
  import jax

  from nfnets.bench import gpu_program, published

  print(f'compiling {kind} {model} {batch_size}', file=sys.stderr, flush=True)
  train_step, shapes, image_size = _step_of(kind, model, batch_size)
  found = gpu_program.account(train_step, shapes)
  folder = pathlib.Path(OUT.value)
  path = folder / f'{NAME}.json'
  entries = json.loads(path.read_text()) if path.exists() else {}
  name = f'{kind} {model} {batch_size}'
  entries[name] = {
    'step': kind,
    'model': model,
    'batch_size': batch_size,
    'image_size': image_size,
    'jax': jax.__version__,
    **found._asdict(),
  }
  if kind == 'published':
    entries[name]['files'] = published.fingerprints(PUBLISHED.value)
  folder.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(entries, indent=1) + '\n')
  text = gpu_program.page(entries, _commands(entries))
  (folder / f'{NAME}.md').write_text(text)


def _step_of(kind: str, model: str, batch_size: int) -> tuple[Any, Any, int]:
  """A step, shapes of what it takes, and the images' side."""
  import importlib

  from nfnets.bench import programs, published
  from nfnets.plan import compiled as plan

  config = importlib.import_module(f'configs.{model}').get_config()
  size = config.data.train_image_size
  if kind == 'published':
    made = published.step_of(
      PUBLISHED.value, model, batch_size, size, 'bfloat16'
    )
    return *made, size
  with config.unlocked():
    if kind == 'plain':
      config.update_from_flattened_dict(
        programs.PLAIN | {'optimizer.clip': 'none', 'ema.mode': 'none'}
      )
    config.batch_size = batch_size
    config.precision = 'bfloat16'
  return *plan.step_of(config.copy_and_resolve_references()), size


def _commands(entries: dict[str, dict[str, Any]]) -> str:
  """What makes all of the entries again, a line for each model and batch."""
  steps: dict[tuple[str, int], list[str]] = {}
  for entry in entries.values():
    cell = entry['model'], entry['batch_size']
    if 'note' not in entry:  # of other code, added by hand
      steps.setdefault(cell, []).append(entry['step'])
  return '\n'.join(
    f'python -m scripts.gpu_program --model={model} --batch_size={size} '
    f'--steps={",".join(kinds)}'
    + ' --published=FOLDER'
    * ('published' in kinds)
    for (model, size), kinds in steps.items()
  )


if __name__ == '__main__':
  app.run(main)
