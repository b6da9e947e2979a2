"""Trains a recipe: python -m scripts.train --config=FILE --workdir=DIR.

Any value is set by --config.key=value; --print_config shows them all. A run
goes on from the newest checkpoint in its workdir. Exit codes: 0 finished, 1
diverged, 2 refused, 75 interrupted and saved (run it again to go on).
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

EXIT_CODES = {'finished': 0, 'diverged': 1, 'interrupted': 75}
REFUSED = 2

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/nfnet_f0.py.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder.")
PRINT_CONFIG = flags.DEFINE_bool(
  'print_config', False, 'Print the resolved config as JSON and stop.'
)

TRACEBACK = flags.DEFINE_bool(
  'traceback', False, 'Show where a refusal comes from.'
)


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    return refuse(f'unexpected argument {argv[1]!r}; flags start with --')
  from nfnets import results

  try:
    if CONFIG.value is None:
      return refuse('name a recipe: --config=configs/nfnet_f0.py')
    for key in ('batch_size', 'num_epochs'):  # other numbers divide by them
      if not CONFIG.value[key] > 0:
        return refuse(f'config.{key}={CONFIG.value[key]}: must be above 0')
    config = CONFIG.value.copy_and_resolve_references()
    if PRINT_CONFIG.value:
      print(results.dump_json(config.to_dict()), end='')
      return 0
    if not WORKDIR.value:
      return refuse("name the run's folder: --workdir=DIR")
    from nfnets import run as running
    from nfnets import train

    run = running.set_up(config, WORKDIR.value)
    summary = train.train(run)
  except (ValueError, TypeError, OSError) as error:
    if TRACEBACK.value:
      raise
    return refuse(str(error))
  if 'eval/top_1' in summary:
    print(f'test accuracy {100 * summary["eval/top_1"]:.1f} %')
  print(f'curves {run.folder.path.absolute() / "curves.png"}')
  print(f'run folder {run.folder.path.absolute()}')
  return EXIT_CODES[summary['status']]


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
