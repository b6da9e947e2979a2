"""Evaluates a run or a file of weights: top-1 and top-5, raw and averaged.

  python -m scripts.evaluate --config=FILE (--workdir=DIR | --weights=FILE)

The config names the data and how they are prepared; with --workdir it must
describe the same network as the run's. A normalizer-free network is folded
first (--nofold keeps it as trained). Exit codes: 0 done, 2 refused. Several
processes evaluate as one, as in scripts.train; the first one prints.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

REFUSED = 2

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/nfnet_f0.py.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, "A run's folder.")
WEIGHTS = flags.DEFINE_string('weights', None, 'A file of weights.')
FOLD = flags.DEFINE_bool('fold', True, 'Fold normalizer-free networks first.')
JSON = flags.DEFINE_bool('json', False, 'Print JSON.')
DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  None,
  'Whether to join other processes; default: if there seem to be any.',
)
COORDINATOR = flags.DEFINE_string(
  'coordinator_address', None, 'HOST:PORT of process 0.'
)
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Of all together.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, "This process's, from 0.")


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    return refuse(f'unexpected argument {argv[1]!r}; flags start with --')
  if CONFIG.value is None:
    return refuse('name a recipe: --config=configs/nfnet_f0.py')
  if bool(WORKDIR.value) == bool(WEIGHTS.value):
    return refuse('name either --workdir=DIR or --weights=FILE')
  import jax

  from nfnets import distributed, evaluate, finetune

  try:
    distributed.initialize(
      DISTRIBUTED.value,
      COORDINATOR.value,
      NUM_PROCESSES.value,
      PROCESS_ID.value,
    )
    if WEIGHTS.value and not CONFIG.value.model.name:
      CONFIG.value.weights = WEIGHTS.value  # tell what the recipe leaves open
    finetune.complete(CONFIG.value, WORKDIR.value)
    config = CONFIG.value.copy_and_resolve_references()
    candidates, problem = {}, None
    try:
      candidates = read_weights(config)
    except (ValueError, OSError) as error:
      problem = error
    distributed.agree_on_problem(problem)
    metrics = evaluate.evaluate_weights(config, candidates, fold=FOLD.value)
  except (ValueError, OSError) as error:
    return refuse(str(error))
  if jax.process_index() > 0:
    return 0
  if JSON.value:
    print(json.dumps(metrics, indent=1))
  else:
    for prefix in candidates:
      print(line(prefix, metrics))
  return 0


def read_weights(config: ConfigDict) -> dict[str, Any]:
  from nfnets import evaluate
  from nfnets.weights import files

  if WORKDIR.value:
    return evaluate.weights_of_run(WORKDIR.value, config)
  return {'eval': files.load(WEIGHTS.value)}


def line(prefix: str, metrics: dict[str, Any]) -> str:
  return (
    f'{prefix:<9} top-1 {100 * metrics[f"{prefix}/top_1"]:.2f} %  '
    f'top-5 {100 * metrics[f"{prefix}/top_5"]:.2f} %  '
    f'loss {metrics[f"{prefix}/loss"]:.4f}  '
    f'of {metrics[f"{prefix}/count"]:.0f} examples'
  )


def refuse(why: str) -> int:
  print(f'error: {" ".join(why.split())}', file=sys.stderr)
  return REFUSED


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; what is wrong with them is one line, not a traceback."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    sys.exit(refuse(str(e.args[0] if e.args else e)))


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
