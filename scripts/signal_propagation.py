"""Signal propagation: python -m scripts.signal_propagation [--model=NAME].

Measures the runs of experiments/signal_propagation.py, or any one model, on
random images at initialization; writes a plot, a table and the numbers. For a
normalizer-free model it says whether every block keeps the variance contract.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

MODEL = flags.DEFINE_string('model', None, 'A name, such as nfnet_f0.')
RUNS = flags.DEFINE_list('runs', None, "Some of the experiment's runs; all.")
IMAGE_SIZE = flags.DEFINE_integer('image_size', 128, 'Pixels a side.')
OUTPUT = flags.DEFINE_string(
  'output', 'results/signal_propagation', 'The folder to write to.'
)


def main(argv: Sequence[str]) -> int:
  if len(argv) > 1:
    return refuse(f'unexpected argument {argv[1]!r}; flags start with --')
  from experiments import signal_propagation as experiment

  try:
    results = {}
    for run, config in configs(experiment).items():
      results[run] = experiment.measure(config)
      print(f'measured {run}', flush=True)
    write(experiment.report(results), results)
    return contract() if MODEL.value else 0
  except (ValueError, OSError) as error:
    return refuse(str(error))


def configs(experiment: object) -> dict:
  """The measurements that the flags ask for."""
  if MODEL.value:
    return {MODEL.value: experiment.of_model(MODEL.value, IMAGE_SIZE.value)}
  runs = RUNS.value or list(experiment.RUNS)
  found = {run: experiment.get_config(run) for run in runs}
  for config in found.values():
    config.image_size = IMAGE_SIZE.value
  return found


def write(files: dict, results: dict) -> None:
  """Writes the report and its numbers, and prints the table."""
  folder = pathlib.Path(OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'table.md').write_text(files['table.md'])
  files['plot.png'].savefig(folder / 'plot.png', dpi=110)
  (folder / 'signals.json').write_text(json.dumps(results, indent=1) + '\n')
  print(files['table.md'], f'written to {folder}', sep='\n')


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


def refuse(why: str) -> int:
  print(f'error: {" ".join(why.split())}', file=sys.stderr)
  return 2


if __name__ == '__main__':
  app.run(main)
