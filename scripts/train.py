"""Trains a recipe: python -m scripts.train --config=FILE --workdir=DIR.

Any value is set by --config.key=value; --print_config shows them all. A run
goes on from the newest checkpoint in its workdir. Exit codes: 0 finished, 1
diverged, 2 refused or failed, 69 another process of the run is gone (a line
names it), 75 interrupted and saved; after the last two run it again to go on.
128 + N: signal N ended this process.

Several processes, each with its own devices, train as one: by themselves on a
TPU pod, under SLURM or Open MPI; elsewhere each gets --coordinator_address,
--num_processes and --process_id, or the variables JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID (scripts.launch starts them).
"""

import copy
import faulthandler
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from nfnets import guard, places
from scripts import common

EXIT_CODES = {'finished': 0, 'diverged': 1, 'interrupted': 75}
REFUSED = 2

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/nfnet_f0.py.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder.")
PRINT_CONFIG = flags.DEFINE_bool(
  'print_config', False, 'Print the resolved config as JSON and stop.'
)
CACHE = flags.DEFINE_string(
  'compilation_cache',
  '',
  "Where compiled programs are kept; default: in the run's folder; 'off' for "
  'nowhere.',
)
PROFILE = flags.DEFINE_string(
  'profile_steps',
  '',
  'A:B traces steps A to B - 1 for TensorBoard or XProf.',
)
DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  None,
  'Whether to join other processes; default: if there seem to be any.',
)
COORDINATOR = flags.DEFINE_string(
  'coordinator_address', None, 'HOST:PORT of process 0.'
)
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Of the whole run.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, "This process's, from 0.")
MISSING_AFTER = flags.DEFINE_float(
  'missing_after',
  60.0,
  'Seconds of silence after which the others give a process up.',
  lower_bound=1,
)
TRACEBACK = flags.DEFINE_bool(
  'traceback', False, 'Show where a refusal comes from.'
)


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    return refuse(f'unexpected argument {argv[1]!r}; flags start with --')
  from nfnets import finetune, workdir
  from nfnets.weights import match

  try:
    if CONFIG.value is None:
      return refuse('name a recipe: --config=configs/nfnet_f0.py')
    for key in ('batch_size', 'num_epochs'):  # other numbers divide by them
      if not CONFIG.value[key] > 0:
        return refuse(f'config.{key}={CONFIG.value[key]}: must be above 0')
    place = find_place(flags.FLAGS)
    if PRINT_CONFIG.value:
      finetune.complete(CONFIG.value, WORKDIR.value)
      config = CONFIG.value.copy_and_resolve_references()
      print(workdir.dump_json(config.to_dict()), end='')
      return 0
    if not WORKDIR.value:
      return refuse("name the run's folder: --workdir=DIR")
    common.keep_freed_memory()
    summary = train(place)
  except (ValueError, TypeError, OSError) as error:
    if TRACEBACK.value:
      raise
    if isinstance(error, match.Mismatch):  # a report of several lines
      print(f'error: {error}', file=sys.stderr)
      return REFUSED
    return refuse(str(error))
  return EXIT_CODES[summary['status']]


def train(place: places.Place | None) -> dict[str, Any]:
  """Joins the others, if there are any, then trains."""
  from nfnets import distributed, finetune, watch
  from nfnets import run as running
  from nfnets import train as training

  profiled = profile_steps()
  index, count, earlier = 0, 1, None
  if place is not None:
    earlier = watch.left_in(WORKDIR.value)
    faulthandler.enable(all_threads=False)  # JAX aborts where others are gone
    place = distributed.join(place, MISSING_AFTER.value)
    index, count = place.process_id, place.num_processes
  told = WORKDIR.value, index, count, MISSING_AFTER.value
  guard.tell(*told)
  with watch.Watch(*told, earlier=earlier) as others:
    if place is not None:
      distributed.check_joined(place)
    found, problem = [], None
    try:
      found = finetune.complete(CONFIG.value, WORKDIR.value)
    except (ValueError, TypeError, OSError) as error:
      problem = error
    distributed.agree_on_problem(problem)
    for line in found:
      print(line)
    config = CONFIG.value.copy_and_resolve_references()
    keep_compilations(pathlib.Path(WORKDIR.value))
    options = running.Options(MISSING_AFTER.value, profiled)
    run = running.set_up(config, WORKDIR.value, options)
    summary = training.train(run, others)
  if index == 0:
    report(summary)
  return summary


def report(summary: dict[str, Any]) -> None:
  folder = pathlib.Path(WORKDIR.value).absolute()
  if 'eval/top_1' in summary:
    print(f'test accuracy {100 * summary["eval/top_1"]:.1f} %')
  print(f'curves {folder / "curves.png"}')
  print(f'run folder {folder}')


def find_place(values: flags.FlagValues) -> places.Place | None:
  return places.find(
    values.distributed,
    values.coordinator_address,
    values.num_processes,
    values.process_id,
  )


def keep_compilations(workdir: pathlib.Path) -> None:
  import jax

  if CACHE.value != 'off':
    path = pathlib.Path(CACHE.value or workdir / 'compilation_cache')
    jax.config.update('jax_compilation_cache_dir', str(path.absolute()))


def profile_steps() -> tuple[int, int] | None:
  if not PROFILE.value:
    return None
  try:
    first, end = map(int, PROFILE.value.split(':'))
    if 0 <= first < end:
      return first, end
  except ValueError:
    pass
  raise ValueError(
    f'--profile_steps={PROFILE.value}: give the first step and the one after '
    'the last, as 10:15'
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


def stand_guard() -> None:
  """Where this is one of several processes, puts a parent over it (guard.py).

  Before the config is read: recipes of experiments may import JAX, and its
  threads don't survive a fork.
  """
  early = flags.FlagValues()
  for flag in (
    PRINT_CONFIG,
    DISTRIBUTED,
    COORDINATOR,
    NUM_PROCESSES,
    PROCESS_ID,
  ):
    early[flag.name] = copy.deepcopy(flags.FLAGS[flag.name])
  early.set_gnu_getopt(True)
  try:
    early(sys.argv, known_only=True)
    place = None if early.print_config else find_place(early)
  except (flags.Error, ValueError):  # main says what is wrong
    return
  if place is not None and place.num_processes != 1:
    guard.stand()


if __name__ == '__main__':
  stand_guard()
  app.run(main, flags_parser=parse_flags)
