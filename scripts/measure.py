r"""Measures an experiment that trains nothing, row by row.

  python -m scripts.measure --experiment=table_family [--scale=cpu] \
    [--only=f0] [--data_dir=DATA]

Each row's record goes to results/NAME/runs/ as soon as it is there, with the
seconds that measuring took; rows whose record is there are skipped. Exit codes:
0 all over, 2 refused.
"""

import importlib
import importlib.metadata
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from nfnets import records

EXPERIMENT = flags.DEFINE_string('experiment', None, 'A file in experiments/.')
SCALE = flags.DEFINE_string('scale', records.FULL, 'One of its `SCALES`.')
ONLY = flags.DEFINE_list('only', [], 'Rows to measure; default: all.')
DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Where prepared data are, for what measures on images.'
)
AGAIN = flags.DEFINE_bool('again', False, 'Measure recorded rows again.')
RESULTS = flags.DEFINE_string('results', 'results', 'Where records go.')

REFUSED = 2


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  try:
    if len(argv) > 1:
      raise ValueError(f'unexpected argument {argv[1]!r}; flags start with --')
    module = measured_experiment(EXPERIMENT.value)
    rows = {row: config_of(module, row) for row in chosen_rows(module)}
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return REFUSED
  from nfnets import host_memory

  host_memory.keep()  # as a run does
  root = pathlib.Path(RESULTS.value)
  for number, (row, config) in enumerate(rows.items(), 1):
    path = records.path_of(root, EXPERIMENT.value, row, 0, SCALE.value)
    there = path.exists() and not AGAIN.value
    if not there:
      try:
        records.write(root, record_of(module, row, config))
      except (ValueError, OSError) as error:
        print(f'error: {row}: {error}', file=sys.stderr)
        return REFUSED
    note = 'was there' if there else 'measured'
    print(f'[{number}/{len(rows)}] {row}: {note}', flush=True)
  return 0


def measured_experiment(name: str | None) -> Any:
  """The experiment's module, if it has something to measure."""
  names = [
    p.stem
    for p in sorted(pathlib.Path('experiments').glob('[!_]*.py'))
    if '\ndef measure(config: ConfigDict) -> dict[str, Any]:' in p.read_text()
  ]
  if name not in names:
    raise ValueError(f'--experiment={name}: choose one of {", ".join(names)}')
  return importlib.import_module(f'experiments.{name}')


def chosen_rows(module: Any) -> list[str]:
  scales = getattr(module, 'SCALES', {records.FULL: {}})
  if SCALE.value not in scales:
    raise ValueError(
      f'--scale={SCALE.value}: choose one of {", ".join(scales)}'
    )
  return ONLY.value or list(scales[SCALE.value].get('rows', module.RUNS))


def config_of(module: Any, row: str) -> Any:
  config = module.get_config(records.run_of(row, SCALE.value))
  if DATA_DIR.value is not None:
    if 'data' not in config:
      raise ValueError(f'--data_dir: {EXPERIMENT.value} reads no data')
    config.data.data_dir = DATA_DIR.value
  return config


def record_of(module: Any, row: str, config: Any) -> dict[str, Any]:
  """Measures one row."""
  words = [f'--experiment={EXPERIMENT.value}', f'--only={row}']
  if SCALE.value != records.FULL:
    words.insert(1, f'--scale={SCALE.value}')
  if DATA_DIR.value is not None:
    words.append(f'--data_dir={DATA_DIR.value}')
  values = config.to_dict()
  start = time.monotonic()
  measured = module.measure(config)
  seconds = time.monotonic() - start
  return {
    'experiment': EXPERIMENT.value,
    'row': row,
    'scale': SCALE.value,
    'seed': 0,
    'command': records.portable(['python', '-m', 'scripts.measure', *words]),
    'status': 'finished',
    'seconds': round(seconds, 1),
    'config': records.without_paths(values) if 'data' in values else values,
    'hardware': records.hardware(),
    'versions': {
      name: importlib.metadata.version(name) for name in records.PACKAGES
    },
    'measured': measured,
  }


if __name__ == '__main__':
  app.run(main)
