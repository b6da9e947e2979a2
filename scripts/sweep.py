"""Runs every row of an experiment, or prints the commands.

  python -m scripts.sweep --experiment=NAME [--scale=cpu] [--only=ROW,ROW] \
    [--seeds=0,1] [--print] [-- FLAGS OF scripts.train]

Finished rows are skipped, broken ones go on from their checkpoint, and what
another experiment has trained already is taken over; each one's record is
written to results/NAME/runs/ as soon as it is over. One row's failure
doesn't stop the others; Ctrl-C stops after the running one has saved. Exit
codes: 0 all over, 1 some failed, 2 refused, 75 interrupted.
"""

import datetime
import importlib
import multiprocessing
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from types import ModuleType

from absl import app, flags, logging

from nfnets import records
from nfnets.workdir import RunFolder

EXPERIMENT = flags.DEFINE_string('experiment', None, 'A file in experiments/.')
SCALE = flags.DEFINE_string('scale', records.FULL, 'One of its `SCALES`.')
ONLY = flags.DEFINE_list('only', [], 'Rows to run; default: all.')
SEEDS = flags.DEFINE_list('seeds', [], "Default: the experiment's own.")
PRINT = flags.DEFINE_bool('print', False, 'Print the commands and stop.')
WORKDIR = flags.DEFINE_string('workdir', 'runs', 'Where the runs live.')
RESULTS = flags.DEFINE_string('results', 'results', 'Where records go.')

REFUSED = 2
WAS_THERE = 'was there'
WAS_MADE = 'was made by another experiment'
OVER = (0, 1)  # finished, diverged
INTERRUPTED = 75


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  try:
    rows = chosen_rows()
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return REFUSED
  module = importlib.import_module(f'experiments.{EXPERIMENT.value}')
  scripts = getattr(module, 'SCRIPTS', {})  # of rows that train otherwise
  outcomes, seconds = {}, []
  for number, (row, seed) in enumerate(rows):
    name = records.name_of(row, seed, SCALE.value)
    workdir = pathlib.Path(WORKDIR.value) / EXPERIMENT.value / name
    command = [
      '-m',
      scripts.get(row, 'scripts.train'),
      f'--config=experiments/{EXPERIMENT.value}.py:'
      + records.run_of(row, SCALE.value),
      f'--workdir={workdir}',
      f'--config.seed={seed}',
      *argv[1:],
    ]
    if PRINT.value:
      print(shlex.join(['python', *command]))
      continue
    print(progress(number, len(rows), name, seconds), flush=True)
    start = time.monotonic()
    outcomes[name] = taken_over(module, row, seed, workdir, argv[1:]) or run(
      row, seed, workdir, command
    )
    if outcomes[name] not in (WAS_THERE, WAS_MADE):
      seconds.append(time.monotonic() - start)
    if outcomes[name] == 'interrupted':
      break
  if outcomes:
    print(progress(len(outcomes), len(rows), 'over', seconds))
  for name, outcome in outcomes.items():
    print(f'{name}: {outcome}')
  if 'interrupted' in outcomes.values():
    return INTERRUPTED
  failed = any(o.startswith('failed') for o in outcomes.values())
  return 1 if failed else 0


def progress(done: int, total: int, name: str, seconds: Sequence[float]) -> str:
  """A bar over the rows, and how long the rest takes if it goes on so."""
  filled = 24 * done // total
  text = f'[{"#" * filled}{"-" * (24 - filled)}] {done}/{total} {name}'
  if seconds and done < total:
    left = datetime.timedelta(
      seconds=round(sum(seconds) / len(seconds) * (total - done))
    )
    text += f', at most {left} left'
  return text


def taken_over(
  module: ModuleType,
  row: str,
  seed: str,
  workdir: pathlib.Path,
  arguments: Sequence[str],
) -> str:
  """Takes the record of another experiment's equal run; '' if there is none."""
  root = pathlib.Path(RESULTS.value)
  scale = SCALE.value
  path = records.path_of(root, EXPERIMENT.value, row, seed, scale)
  # Other flags may change the run.
  same = all(a.startswith('--config.data.data_dir=') for a in arguments)
  trains = row not in getattr(module, 'SCRIPTS', {})
  if path.exists() or workdir.exists() or not (same and trains):
    return ''
  config = module.get_config(records.run_of(row, scale))
  config.seed = int(seed)
  config = config.copy_and_resolve_references().to_dict()
  try:
    record = records.twin(root, config, EXPERIMENT.value)
  except ValueError as error:
    return f'failed: a record is damaged: {error}'
  if record is None:
    return ''
  made = records.as_row(record, config, EXPERIMENT.value, row, scale)
  records.write(root, made)
  print(f'{row}: the same config as {made["same_as"]}, whose record it takes')
  return WAS_MADE


def run(row: str, seed: str, workdir: pathlib.Path, command: list[str]) -> str:
  """Trains one row unless its record is there; says how it went."""
  root = pathlib.Path(RESULTS.value)
  place = (EXPERIMENT.value, row, seed, SCALE.value)
  if records.path_of(root, *place).exists():
    return WAS_THERE
  code = call(command)
  if code in (INTERRUPTED, -signal.SIGINT):
    return 'interrupted'
  if code not in OVER:
    return f'failed with exit code {code}: {shlex.join(["python", *command])}'
  try:
    folder = RunFolder(workdir, must_exist=True)
    # Elsewhere: who asks for the devices holds them, and the next row trains.
    spawn = multiprocessing.get_context('spawn')
    with futures.ProcessPoolExecutor(1, spawn) as pool:
      record = pool.submit(
        records.make,
        folder,
        EXPERIMENT.value,
        row,
        ['python', *command],
        SCALE.value,
      ).result()
  except ValueError as error:
    return f'failed: {error}'
  records.write(root, record)
  return record['status']


def call(command: list[str]) -> int:
  """Runs Python with these arguments; on Ctrl-C waits until it has saved."""
  child = subprocess.Popen([sys.executable, *command])
  while True:
    try:
      return child.wait()
    except KeyboardInterrupt:  # the terminal sent it to the child as well
      continue


def chosen_rows() -> list[tuple[str, str]]:
  names = sorted(p.stem for p in pathlib.Path('experiments').glob('[!_]*.py'))
  if EXPERIMENT.value not in names:
    raise ValueError(
      f'--experiment={EXPERIMENT.value}: choose one of {", ".join(names)}'
    )
  module = importlib.import_module(f'experiments.{EXPERIMENT.value}')
  if not hasattr(module, 'SEEDS'):
    raise ValueError(
      f'{EXPERIMENT.value} trains nothing: its docstring says what measures it'
    )
  seeds = SEEDS.value or [str(seed) for seed in module.SEEDS]
  scales = getattr(module, 'SCALES', {records.FULL: {}})
  if SCALE.value not in scales:
    raise ValueError(
      f'--scale={SCALE.value}: choose one of {", ".join(scales)}'
    )
  rows_of = {
    scale: list(values.get('rows', module.RUNS))
    for scale, values in scales.items()
  }
  check_rows(ONLY.value, rows_of)
  rows = ONLY.value or rows_of[SCALE.value]
  return [(row, seed) for seed in seeds for row in rows]


def check_rows(
  only: Sequence[str], rows_of: Mapping[str, Sequence[str]]
) -> None:
  """Raises ValueError for rows that the scale lacks; says which have them."""
  here = rows_of[SCALE.value]
  lacking = [row for row in dict.fromkeys(only) if row not in here]
  if not lacking:
    return
  elsewhere = {
    row: [scale for scale, rows in rows_of.items() if row in rows]
    for row in lacking
  }
  told = [f'{row} is at {", ".join(s)}' for row, s in elsewhere.items() if s]
  raise ValueError(
    f'--only={",".join(lacking)}: rows at scale {SCALE.value} are '
    + '; '.join([', '.join(here), *told])
  )


if __name__ == '__main__':
  app.run(main)
