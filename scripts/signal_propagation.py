"""Signal propagation: python -m scripts.signal_propagation [--model=NAME].

Measures the rows of experiments/signal_propagation.py, or any one model, on
random images at initialization, and writes their records and report. For a
normalizer-free model it says whether every block keeps the variance contract.
Exit codes: 0 written, 1 contract broken, 2 refused.
"""

import importlib.metadata
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags
from ml_collections import ConfigDict

from experiments import signal_propagation as experiment

MODEL = flags.DEFINE_string('model', None, 'A name, such as nfnet_f0.')
ONLY = flags.DEFINE_list('only', [], 'Rows to measure; default: all.')
IMAGE_SIZE = flags.DEFINE_integer('image_size', 128, 'Pixels a side.')
RESULTS = flags.DEFINE_string(
  'results', None, 'Where records go: results, or with --model runs.'
)

NAME = 'signal_propagation'


def main(argv: Sequence[str]) -> int:
  if len(argv) > 1:
    return refuse(f'unexpected argument {argv[1]!r}; flags start with --')
  try:
    for row, config in configs().items():
      record = measure(row, config)
      print(f'measured {row}', flush=True)
    print(report(record))
    return contract() if MODEL.value else 0
  except (ValueError, OSError) as error:
    return refuse(str(error))


def configs() -> dict[str, ConfigDict]:
  """The measurements that the flags ask for."""
  size = IMAGE_SIZE.value
  if MODEL.value:
    return {MODEL.value: experiment.of_model(MODEL.value, size)}
  found = {}
  for row in ONLY.value or experiment.RUNS:
    found[row] = experiment.get_config(row)
    found[row].image_size = size
  return found


def measure(row: str, config: ConfigDict) -> dict:
  """Measures one row and writes its record."""
  from nfnets import records

  which = f'--model={row}' if MODEL.value else f'--only={row}'
  record = {
    'experiment': NAME,
    'row': row,
    'seed': config.seed,
    'command': f'python -m scripts.signal_propagation {which} '
    f'--image_size={config.image_size}',
    'status': 'finished',
    'config': config.to_dict(),
    'hardware': records.hardware(),
    'versions': {
      name: importlib.metadata.version(name) for name in records.PACKAGES
    },
    'signals': experiment.measure(config),
  }
  records.write(root(), record)
  return record


def report(record: dict) -> str:
  """The report of one model, or of all the rows recorded so far."""
  from nfnets import records

  folder = root() / NAME
  found = [record] if MODEL.value else records.read_all(root(), NAME)
  return experiment.report(found, folder) + f'\n\nwritten to {folder}'


def contract() -> int:
  """Checks the model's blocks, if they promise anything."""
  import jax

  from nfnets import variants
  from nfnets.analysis import signal

  nf = variants.NFNET | variants.NF_RESNET | variants.NF_REGNET
  if MODEL.value not in nf:
    return 0
  try:
    signal.check_contract(MODEL.value, jax.random.key(0))
  except ValueError as error:
    print(f'contract broken: {error}')
    return 1
  print('every block keeps the variance contract')
  return 0


def root() -> pathlib.Path:
  return pathlib.Path(RESULTS.value or ('runs' if MODEL.value else 'results'))


def refuse(why: str) -> int:
  print(f'error: {" ".join(why.split())}', file=sys.stderr)
  return 2


if __name__ == '__main__':
  app.run(main)
