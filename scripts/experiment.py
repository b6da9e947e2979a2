"""Runs, measures and reports the experiments in experiments/.

  python -m scripts.experiment print   --experiment=NAME [--scale=S] [--only=R]
  python -m scripts.experiment run     --experiment=NAME [...] [-- TRAIN FLAGS]
  python -m scripts.experiment measure --experiment=NAME [--data_dir=DATA]
  python -m scripts.experiment report [--experiment=NAME] [--html=FILE]

print    prints the command that trains each row.
run      trains each row with scripts.train, which receives the flags after --.
         All rows are trained with the first seed before the next seed begins.
         Recorded rows are skipped, interrupted ones resume from their
         checkpoint, and the record of an equal run of another experiment is
         taken over. If a row fails, the others still run; Ctrl-C or SIGTERM
         stops once the current row has saved.
measure  measures each row of an experiment that trains nothing.
report   writes README.md and plot.png of one experiment, or of all of them with
         an overview, and prints those that changed; --html=FILE also writes one
         self-contained page.

A row is recorded in RESULTS/NAME/runs/ROW@SCALE_seedK.json as soon as it is
done; its run's folder is in WORKDIR/NAME/. By default RESULTS is runs/results,
for your own records. The committed ones are in results: --results=results adds
to them, or reports from them. --again repeats rows that are recorded.

Exit codes: 0 all rows are done, 1 a row failed, 2 refused, 75 interrupted and
saved.
"""

import multiprocessing
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from absl import flags

from experiments import records, study
from experiments.records import Run
from nfnets import workdir
from scripts import common

EXPERIMENT = flags.DEFINE_string(
  'experiment', None, 'The name of a file in experiments/.'
)
SCALE = flags.DEFINE_string(
  'scale',
  study.FULL,
  "One of the experiment's scales: 'short' and 'cpu' are smaller studies, "
  "'cifar' a smoke test of ImageNet's tables.",
)
ONLY = flags.DEFINE_list('only', [], 'Some rows instead of all of the scale.')
SEEDS = flags.DEFINE_list(
  'seeds', [], "Some seeds instead of the experiment's own."
)
AGAIN = flags.DEFINE_bool('again', False, 'Repeat rows that are recorded.')
WORKDIR = flags.DEFINE_string('workdir', 'runs', 'The folder of the runs.')
RESULTS = flags.DEFINE_string(
  'results', 'runs/results', 'The folder of the records and reports.'
)
DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'measure: the folder of prepared data, if images are used.'
)
HTML = flags.DEFINE_string(
  'html', None, 'report: the file of a self-contained page.'
)

INTERRUPTED = 75
OVER = (0, 1)  # finished, diverged
RECORDED = 'already recorded (--again repeats it)'
STOPPED = 'interrupted'


def main(arguments: Sequence[str]) -> int:
  verb, *more = arguments or ['']
  if verb not in VERBS:
    raise ValueError(f'choose one of {", ".join(VERBS)}, not {verb!r}')
  if verb in ('print', 'run'):
    return VERBS[verb](more)
  if more:
    raise ValueError(f'unexpected argument {more[0]!r}; flags start with --')
  return VERBS[verb]()


def print_commands(more: Sequence[str]) -> int:
  """Prints the command of each run, with the flags `more`."""
  _, runs = selected(trained=True)
  for one in runs:
    print(shlex.join(['python', *command(one, more)]))
  return 0


def selected(trained: bool) -> tuple[study.Experiment, list[Run]]:
  """The experiment and the runs that the flags select.

  Raises:
    ValueError: the experiment has no such scale, row or seed, or isn't one that
      trains (`trained`) or measures.
  """
  name, scale = EXPERIMENT.value, SCALE.value
  experiment = study.load(name)
  if trained == bool(experiment.measure):
    other = 'trains nothing: use measure' if trained else 'is trained: use run'
    raise ValueError(f'{name} {other}')
  rows = ONLY.value or experiment.rows_at(scale)
  for row in rows:
    experiment.check_row(row, scale)
  for seed in SEEDS.value:
    if experiment.measure:
      raise ValueError(f'--seeds={seed}: {name} measures each row once')
    if not seed.isdecimal():
      raise ValueError(f'--seeds={seed}: give whole numbers from 0 on')
  seeds = [int(seed) for seed in SEEDS.value] or experiment.seeds
  return experiment, [Run(name, row, scale, s) for s in seeds for row in rows]


def command(one: Run, more: Sequence[str]) -> list[str]:
  """The arguments of the Python that trains a row, with the flags `more`."""
  return [
    '-m',
    'scripts.train',
    f'--config=experiments/{one.experiment}.py:{one.place}',
    f'--workdir={folder_of(one)}',
    f'--config.seed={one.seed}',
    *more,
  ]


def folder_of(one: Run) -> pathlib.Path:
  return pathlib.Path(WORKDIR.value) / one.experiment / one.name


def run(more: Sequence[str]) -> int:
  """Trains each run, with the flags `more`; returns the exit code."""
  experiment, runs = selected(trained=True)
  return each(runs, lambda one: train(experiment, one, more))


def each(runs: Sequence[Run], record: Callable[[Run], str]) -> int:
  """Records each run that isn't, says how it ended; returns the exit code."""
  outcomes, root = {}, pathlib.Path(RESULTS.value)
  for number, one in enumerate(runs, 1):
    print(f'[{number}/{len(runs)}] {one.name}', flush=True)
    is_there = one.path(root).exists() and not AGAIN.value
    outcomes[one.name] = RECORDED if is_there else record(one)
    if outcomes[one.name].endswith(STOPPED):
      break
  for name, outcome in outcomes.items():
    print(f'{name}: {outcome}')
  if any(outcome.endswith(STOPPED) for outcome in outcomes.values()):
    return INTERRUPTED
  return int(any(o.startswith('failed') for o in outcomes.values()))


def train(experiment: study.Experiment, one: Run, more: Sequence[str]) -> str:
  """Trains and records one run, or takes its twin; says how it ended."""
  root, folder = pathlib.Path(RESULTS.value), folder_of(one)
  if AGAIN.value:
    one.path(root).unlink(missing_ok=True)
    if (folder / 'config.json').exists():
      shutil.rmtree(folder)
  arguments = command(one, more)
  line, is_stopped = ['python', *arguments], False
  try:
    # With other flags the config isn't the row's.
    is_plain = all(flag.startswith('--config.data.data_dir=') for flag in more)
    if is_plain and not folder.exists() and not AGAIN.value:
      config = experiment.get_config(one.place)
      if record := records.twin(root, config, one):
        records.write(root, record)
        return f'the same as {record["same_as"]}, taken over'
    code, is_stopped = call(arguments)
    if code not in OVER:
      if is_stopped or code == INTERRUPTED:
        return STOPPED
      return f'failed with exit code {code}: {shlex.join(line)}'
    # Asking JAX for the devices takes them, so a process of its own asks.
    spawn = multiprocessing.get_context('spawn')
    with futures.ProcessPoolExecutor(1, spawn) as pool:
      done = workdir.RunFolder(folder)
      record = pool.submit(records.of_run, one, line, done).result()
    records.write(root, record)
    outcome = record['status']
  except ValueError as error:
    outcome = f'failed: {error}'
  return f'{outcome}, {STOPPED}' if is_stopped else outcome


def call(arguments: Sequence[str]) -> tuple[int, bool]:
  """Runs Python with these arguments, to the end even if told to stop.

  Returns:
    Its exit code, and whether Ctrl-C or SIGTERM came.
  """
  child = subprocess.Popen([sys.executable, *arguments])
  is_stopped = False

  def stop(number: int, _: Any) -> None:
    nonlocal is_stopped
    is_stopped = True
    child.send_signal(number)

  before = signal.signal(signal.SIGTERM, stop)
  while True:
    try:
      code = child.wait()
      signal.signal(signal.SIGTERM, before)
      return code, is_stopped or code in (-signal.SIGINT, -signal.SIGTERM)
    except KeyboardInterrupt:  # which the terminal sent to the child as well
      is_stopped = True


def measure() -> int:
  """Measures each run; returns the exit code."""
  experiment, runs = selected(trained=False)
  common.keep_freed_memory()  # as scripts.train does
  is_read = 'data' in experiment.get_config(runs[0].place)
  if DATA_DIR.value is not None and not is_read:
    raise ValueError(f'--data_dir: {EXPERIMENT.value} reads no data')
  return each(runs, lambda one: measured(experiment, one))


def measured(experiment: study.Experiment, one: Run) -> str:
  """Measures and records a row; says so."""
  config = experiment.get_config(one.place)
  words = f'--experiment={one.experiment} --scale={one.scale} --only={one.row}'
  line = ['python', '-m', 'scripts.experiment', 'measure', *words.split()]
  if DATA_DIR.value is not None:
    config.data.data_dir = DATA_DIR.value
    line.append(f'--data_dir={DATA_DIR.value}')
  start = time.monotonic()
  found = experiment.measure(config)
  seconds = round(time.monotonic() - start, 1)
  record = records.of_measurement(one, line, config.to_dict())
  record |= {'measured': found, 'seconds': seconds}
  records.write(pathlib.Path(RESULTS.value), record)
  return 'measured'


def report() -> int:
  """Writes the report of one experiment or of all; prints what changed."""
  from experiments import report as reporting

  root, only = pathlib.Path(RESULTS.value), EXPERIMENT.value
  if only:
    study.load(only)
  if not root.is_dir() or (only and not records.read_all(root, only)):
    raise ValueError(
      f'--results={root}: no records{f" of {only}" if only else ""} here; the '
      'committed ones are in --results=results'
    )
  bare = 0
  for name in [only] if only else study.names():
    before = contents(root / name)
    path = reporting.write(name, root)
    if contents(root / name) == before:
      if only:
        print(f'{path}: unchanged')
    elif records.read_all(root, name):
      print(path, flush=True)
    else:
      bare += 1
  if bare:
    print(f'{root}: reports of {bare} experiments without records')
  if HTML.value or not only:
    print(reporting.write_overview(root))
  if HTML.value:
    reporting.write_html(root, pathlib.Path(HTML.value))
    print(HTML.value)
  return 0


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.glob('*.*')}


VERBS = {
  'print': print_commands,
  'run': run,
  'measure': measure,
  'report': report,
}


if __name__ == '__main__':
  common.run(main, positional=True, handles_ctrl_c=True)
