r"""Fits a linear probe: python -m scripts.probe --config=FILE --workdir=DIR.

  python -m scripts.probe --config=configs/finetune.py --workdir=DIR \
    --config.weights=FILE --config.data.name=folder --config.data.data_dir=DIR

The network of `config.weights` stays as it is; its features are computed once
per picture and a classifier is fitted to them. DIR then holds the figures, and
probe.safetensors for scripts.predict. Exit codes: 0 done, 2 refused.
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

REFUSED = 2

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/finetune.py.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, "The probe's folder.")
L2 = flags.DEFINE_float(
  'l2', None, 'Strength of the penalty on weights; default: chosen.'
)


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    return refuse(f'unexpected argument {argv[1]!r}; flags start with --')
  if CONFIG.value is None or not WORKDIR.value:
    return refuse('name a recipe and a folder: --config=FILE --workdir=DIR')
  from nfnets import finetune, probe
  from nfnets.weights import match

  try:
    found = finetune.complete(CONFIG.value, WORKDIR.value)
    config = CONFIG.value.copy_and_resolve_references()
    for line in found:
      print(line)
    summary = probe.probe(config, WORKDIR.value, L2.value)
  except match.Mismatch as report:
    print(f'error: {report}', file=sys.stderr)
    return REFUSED
  except (ValueError, TypeError, OSError) as error:
    return refuse(str(error))
  print(
    f'probe: l2 {summary["l2"]:g}, {summary["step"]} iterations, training '
    f'accuracy {100 * summary["train/top_1"]:.1f} %'
  )
  print(f'test accuracy {100 * summary["eval/top_1"]:.1f} %')
  print(f'run folder {WORKDIR.value}')
  return 0


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
