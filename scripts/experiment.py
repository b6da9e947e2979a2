r"""Runs, measures and reports the experiments of experiments/.

  python -m scripts.experiment print   --experiment=NAME [--scale=S] [--only=R]
  python -m scripts.experiment run     --experiment=NAME [...] [-- TRAIN FLAGS]
  python -m scripts.experiment measure --experiment=NAME [--data_dir=DATA]
  python -m scripts.experiment report [--experiment=NAME] [--html=FILE]

print    prints the command that trains each row, and stops.
run      trains each row by scripts.train (flags after -- are passed on), seed
         by seed, so that the first seed of all rows comes first. A finished row
         is skipped, a broken one goes on from its checkpoint; what another
         experiment has trained already is taken over. One row's failure doesn't
         stop the others; Ctrl-C stops after the running one has saved.
measure  measures each row of an experiment that trains nothing.
report   writes README.md and plot.png of the experiment, or those of all and
         the overview; --html=FILE makes one self-contained page of them.

A row's record goes to RESULTS/NAME/runs/ROW@SCALE_seedK.json as soon as it is
there, its training to WORKDIR/NAME/. RESULTS is runs/results by default: your
own. The committed records are in results; --results=results adds to them or
reports from them. --again trains or measures rows anew that are recorded.

Exit codes: 0 all over, 1 some row failed, 2 refused, 75 interrupted and saved.
"""

import multiprocessing
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent import futures
from typing import NamedTuple

from absl import flags

from experiments import records, study
from nfnets import workdir
from scripts import common

EXPERIMENT = flags.DEFINE_string('experiment', None, 'A file in experiments/.')
SCALE = flags.DEFINE_string('scale', study.FULL, 'One of its scales.')
ONLY = flags.DEFINE_list('only', [], 'Rows; default: all of the scale.')
SEEDS = flags.DEFINE_list('seeds', [], "Default: the experiment's own.")
AGAIN = flags.DEFINE_bool('again', False, 'Redo rows that are recorded.')
WORKDIR = flags.DEFINE_string('workdir', 'runs', 'Where the runs live.')
RESULTS = flags.DEFINE_string('results', 'runs/results', 'Where records are.')
DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Where prepared data are, for what measures on images.'
)
HTML = flags.DEFINE_string('html', None, 'report: a self-contained page.')

INTERRUPTED = 75
OVER = (0, 1)  # finished, diverged
THERE = 'was there (--again runs it anew)'
TAKEN = 'was made by another experiment'


class Run(NamedTuple):
  """A row, at the scale of the flags, with a seed."""

  row: str
  seed: int

  @property
  def name(self) -> str:
    return self.record.stem

  @property
  def record(self) -> pathlib.Path:
    root = pathlib.Path(RESULTS.value)
    place = (EXPERIMENT.value, self.row, self.seed, SCALE.value)
    return records.path_of(root, *place)

  @property
  def workdir(self) -> pathlib.Path:
    return pathlib.Path(WORKDIR.value) / EXPERIMENT.value / self.name

  def command(self, more: Sequence[str]) -> list[str]:
    run = records.run_name(self.row, SCALE.value)
    return [
      '-m',
      'scripts.train',
      f'--config=experiments/{EXPERIMENT.value}.py:{run}',
      f'--workdir={self.workdir}',
      f'--config.seed={self.seed}',
      *more,
    ]


def main(arguments: Sequence[str]) -> int:
  verb, *more = arguments or ['']
  if verb not in VERBS:
    raise ValueError(f'choose one of {", ".join(VERBS)}, not {verb!r}')
  if more and verb in ('measure', 'report'):
    raise ValueError(f'unexpected argument {more[0]!r}; flags start with --')
  return VERBS[verb](more)


def print_commands(more: Sequence[str]) -> int:
  experiment, runs = chosen(trained=True)
  for one in runs:
    print(shlex.join(['python', *one.command(more)]))
  return 0


def run(more: Sequence[str]) -> int:
  experiment, runs = chosen(trained=True)
  outcomes = {}
  for number, one in enumerate(runs, 1):
    print(f'[{number}/{len(runs)}] {one.name}', flush=True)
    outcomes[one.name] = train(experiment, one, more)
    if outcomes[one.name] == 'interrupted':
      break
  for name, outcome in outcomes.items():
    print(f'{name}: {outcome}')
  if 'interrupted' in outcomes.values():
    return INTERRUPTED
  return int(any(o.startswith('failed') for o in outcomes.values()))


def chosen(trained: bool) -> tuple[study.Experiment, list[Run]]:
  """The experiment and the runs that the flags ask for."""
  name, scale = EXPERIMENT.value, SCALE.value
  experiment = study.load(name)
  if trained == bool(experiment.measure):
    other = (
      'is trained: run it' if not trained else 'trains nothing: measure it'
    )
    raise ValueError(f'{name} {other}')
  if scale not in experiment.scales:
    scales = ', '.join(experiment.scales)
    raise ValueError(f'--scale={scale}: choose one of {scales}')
  here = experiment.rows_at(scale)
  for row in ONLY.value:
    if row not in here:
      at = [s for s in experiment.scales if row in experiment.rows_at(s)]
      also = f'; {row} is at {", ".join(at)}' if at else ''
      rows = ', '.join(here)
      raise ValueError(f'--only={row}: rows at scale {scale} are {rows}{also}')
  for seed in SEEDS.value:
    if not seed.isdecimal():
      raise ValueError(f'--seeds={seed}: give whole numbers from 0 on')
  seeds = [int(seed) for seed in SEEDS.value] or experiment.seeds
  return experiment, [Run(row, s) for s in seeds for row in ONLY.value or here]


def train(experiment: study.Experiment, one: Run, more: Sequence[str]) -> str:
  """Trains one row, and writes its record; says how it went."""
  if AGAIN.value:
    one.record.unlink(missing_ok=True)
    if (one.workdir / 'config.json').exists():
      shutil.rmtree(one.workdir)
  if one.record.exists():
    return THERE
  # Other flags may change the run.
  same = all(flag.startswith('--config.data.data_dir=') for flag in more)
  if same and not one.workdir.exists():
    try:
      if take_over(experiment, one):
        return TAKEN
    except ValueError as error:
      return f'failed: a record is damaged: {error}'
  command = one.command(more)
  code = call(command)
  if code in (INTERRUPTED, -signal.SIGINT):
    return 'interrupted'
  if code not in OVER:
    return f'failed with exit code {code}: {shlex.join(["python", *command])}'
  try:
    # Elsewhere: who asks for the devices holds them, and the next row trains.
    spawn = multiprocessing.get_context('spawn')
    with futures.ProcessPoolExecutor(1, spawn) as pool:
      folder = workdir.RunFolder(one.workdir, must_exist=True)
      words = ['python', *command]
      place = (EXPERIMENT.value, one.row, words, SCALE.value)
      record = pool.submit(records.of_run, folder, *place).result()
  except ValueError as error:
    return f'failed: {error}'
  records.write(pathlib.Path(RESULTS.value), record)
  return record['status']


def take_over(experiment: study.Experiment, one: Run) -> bool:
  """Takes the record of another experiment's equal run, if there is one."""
  root = pathlib.Path(RESULTS.value)
  config = experiment.get_config(records.run_name(one.row, SCALE.value))
  config.seed = one.seed
  config = config.copy_and_resolve_references().to_dict()
  record = records.twin(root, config, EXPERIMENT.value)
  if record is None:
    return False
  place = (EXPERIMENT.value, one.row, SCALE.value)
  records.write(root, records.taken_over(record, config, *place))
  return True


def call(command: Sequence[str]) -> int:
  """Runs Python with these arguments; on Ctrl-C waits until it has saved."""
  child = subprocess.Popen([sys.executable, *command])
  while True:
    try:
      return child.wait()
    except KeyboardInterrupt:  # the terminal sent it to the child as well
      continue


def measure(more: Sequence[str]) -> int:
  del more
  experiment, runs = chosen(trained=False)
  common.keep_freed_memory()  # as a run does
  for number, one in enumerate(runs, 1):
    outcome = THERE
    if AGAIN.value or not one.record.exists():
      records.write(pathlib.Path(RESULTS.value), measured(experiment, one.row))
      outcome = 'measured'
    print(f'[{number}/{len(runs)}] {one.row}: {outcome}', flush=True)
  return 0


def measured(experiment: study.Experiment, row: str) -> records.Record:
  """Measures a row; its record, with the seconds that it took."""
  config = experiment.get_config(records.run_name(row, SCALE.value))
  words = f'--experiment={EXPERIMENT.value} --scale={SCALE.value} --only={row}'
  command = ['python', '-m', 'scripts.experiment', 'measure', *words.split()]
  if DATA_DIR.value is not None:
    if 'data' not in config:
      raise ValueError(f'--data_dir: {EXPERIMENT.value} reads no data')
    config.data.data_dir = DATA_DIR.value
    command.append(f'--data_dir={DATA_DIR.value}')
  start = time.monotonic()
  found = experiment.measure(config)
  seconds = round(time.monotonic() - start, 1)
  place = (EXPERIMENT.value, row, command, SCALE.value, config.to_dict())
  record = records.of_measurement(*place)
  return record | {'measured': found, 'seconds': seconds}


def report(more: Sequence[str]) -> int:
  del more
  from experiments import report as reporting

  root = pathlib.Path(RESULTS.value)
  if not root.is_dir():
    raise ValueError(
      f'--results={root}: no such folder; the committed records are in '
      '--results=results'
    )
  if EXPERIMENT.value:
    study.load(EXPERIMENT.value)
    if not records.read_all(root, EXPERIMENT.value):
      raise ValueError(
        f'{root / EXPERIMENT.value} holds no records; the committed ones are '
        'in --results=results'
      )
  names = [EXPERIMENT.value] if EXPERIMENT.value else study.names()
  for name in names:
    print(reporting.write(name, root), flush=True)
  if not EXPERIMENT.value or HTML.value:
    print(reporting.write_overview(root))
  if HTML.value:
    reporting.write_html(root, pathlib.Path(HTML.value))
    print(HTML.value)
  return 0


VERBS = {
  'print': print_commands,
  'run': run,
  'measure': measure,
  'report': report,
}


if __name__ == '__main__':
  common.run(main, positional=True, handles_ctrl_c=True)
