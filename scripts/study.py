"""Trains the unfinished rows of the CIFAR-10 study, one after the other.

  nice -n 10 python -m scripts.study --data_dir=DATA --results=CHECKOUT/results

The order is that of `jobs`: the pilot first, which chooses each arm's learning
rate. Run this in the background, from a clone at a fixed commit, so that edits
in the checkout don't affect the runs. SIGTERM or Ctrl-C saves the current run
and exits with 75; the same command resumes. --list prints what is left. Exit
codes: 0 all rows are done, 1 a row failed, 75 interrupted and saved.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from absl import flags

from experiments import (
  _grid,
  _resnet20,
  costs,
  large_batch,
  pilot,
  records,
  study,
  transfer_caltech101,
)
from scripts import common

DATA_DIR = flags.DEFINE_string(
  'data_dir', '', 'The folder of prepared data, with CIFAR-10.'
)
CALTECH = flags.DEFINE_string(
  'caltech',
  '',
  'A tar of train/CLASS/FILE and test/CLASS/FILE: Caltech-101, split as '
  'nfnets/data/caltech101_split.json says. Without it its rows are left out.',
)
RESULTS = flags.DEFINE_string('results', 'results', 'The folder of records.')
WORKDIR = flags.DEFINE_string('workdir', 'runs', 'The folder of the runs.')
LIST = flags.DEFINE_bool(
  'list', False, 'Print the rows, done or with their time, and exit.'
)

INTERRUPTED = 75


class Job(NamedTuple):
  """One run: a row of an experiment at a scale, with a seed."""

  experiment: str
  row: str
  scale: str
  seed: int = 0
  factor: float | None = None  # multiplies the learning rate

  @property
  def path(self) -> pathlib.Path:
    root = pathlib.Path(RESULTS.value)
    place = (self.experiment, self.row, self.seed, self.scale)
    return records.path_of(root, *place)

  @property
  def data_dir(self) -> str:
    if self.experiment != 'transfer_caltech101':
      return DATA_DIR.value
    folder = pathlib.Path(WORKDIR.value) / 'caltech101'
    is_first = self.row == 'pretrain'
    return str(transfer_caltech101.half(CALTECH.value, folder, is_first))

  @property
  def hours(self) -> float:
    """The expected time on two free cores."""
    experiment = study.load(self.experiment)
    config = experiment.get_config(f'{self.row}@{self.scale}')
    return costs.cpu_hours(config, experiment.image_seconds)


def main() -> int:
  if LIST.value:
    return show()
  # A shell ignores SIGINT for what it starts in the background.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
  while job := next((j for j in jobs() if not j.path.exists()), None):
    print(f'{job.experiment}/{job.path.stem}', flush=True)
    if code := train(job):
      return INTERRUPTED if code == INTERRUPTED else 1
  return 0


def show() -> int:
  """Prints each row and the hours left on two free cores."""
  left = 0.0
  for job in jobs():
    done = job.path.exists()
    left += 0 if done else job.hours
    mark = 'done' if done else f'{60 * job.hours:.0f} min'
    print(f'{mark:6} {job.experiment}/{job.path.stem}')
  print(f'{left:.1f} hours left on two free cores')
  return 0


def jobs() -> Iterator[Job]:
  """All runs in order. An arm's rate is None until the pilot has chosen it."""
  for arm in _resnet20.ARMS:
    yield from pilot_of(arm)
  best = {arm: chosen(arm) for arm in _resnet20.ARMS}
  own = {**best, 'nf_agc_gain1': best['nf_agc']}
  for seed in (0, 1, 2):
    for arm in ('batch', 'none', 'none_agc', 'nf', 'nf_agc'):
      yield Job('headline', arm, 'short', seed, own[arm])
    if seed == 0:
      for arm in ('nf_agc_clipped', 'nf_agc_gain1'):
        yield Job('headline', arm, 'short', seed, own[arm])
  for row in large_batch.ROWS:
    yield from pilot_of(f'b1024_{row}')
  for seed in (0, 1):
    for row in large_batch.ROWS:
      factor = chosen(f'b1024_{row}')
      yield Job('large_batch', row, 'short', seed, factor)
  none = [(seed, 'none', 'none_agc') for seed in (0, 1, 2)]
  for seed, network, arm in [(0, 'nf', 'nf_agc'), *none]:
    for size in (128, 64, 32, 16):
      for lambda_ in _grid.LAMBDAS:
        row = f'{network}_b{size}_l{lambda_:g}'
        yield Job('agc_grid', row, 'full', seed, best[arm])
  for row in study.load('batchnorm_batch_size').rows_at('rates'):
    yield Job('batchnorm_batch_size', row, 'rates')
  yield from where_to_clip()
  if CALTECH.value:
    yield Job('transfer_caltech101', 'pretrain', 'px64')
    for seed in (0, 1, 2):
      for row in transfer_caltech101.AT_64:
        yield Job('transfer_caltech101', row, 'px64', seed)
  yield Job('he_resnet20', 'batch', 'full')


def where_to_clip() -> Iterator[Job]:
  """The rows at the first of two rates at which the unclipped run diverges."""
  for scale in ('x8', 'x16'):
    unclipped = Job('where_to_clip', 'nothing', scale)
    yield unclipped
    is_over = unclipped.path.exists()
    if is_over and records.read(unclipped.path)['status'] == 'diverged':
      break
  for seed in (0, 1, 2):
    for row in study.load('where_to_clip').rows:
      yield Job('where_to_clip', row, scale, seed)


def pilot_of(arm: str) -> Iterator[Job]:
  """Three rates, then further ones as long as the best is the outermost."""
  tried, new = [], list(pilot.FIRST[arm])
  while new:
    tried += new
    yield from (Job('pilot', f'{arm}_x{x:g}', 'full') for x in new)
    found = accuracies(arm)
    if not found.keys() >= set(tried):
      return
    best = max(sorted(tried), key=found.get)
    place = pilot.FACTORS.index(best)
    ends = {min(tried): place - 1, max(tried): place + 1}
    beyond = ends.get(best, -1)
    new = list(pilot.FACTORS[beyond : beyond + 1]) if beyond >= 0 else []


def accuracies(arm: str) -> dict[float, float]:
  """Accuracy on held-out training images by factor; 0 of a diverged run."""
  found = {}
  for factor in pilot.FACTORS:
    path = Job('pilot', f'{arm}_x{factor:g}', 'full').path
    if path.exists():
      record = records.read(path)
      finished = record['status'] == 'finished'
      found[factor] = record['summary']['eval/top_1'] if finished else 0.0
  return found


def chosen(arm: str) -> float | None:
  """The arm's best factor among those tried, if any."""
  found = accuracies(arm)
  return max(found, key=found.get) if found else None


def train(job: Job) -> int:
  """Trains and records one row with scripts.experiment; returns its code."""
  command = [
    sys.executable, '-m', 'scripts.experiment', 'run',
    f'--results={RESULTS.value}',
    f'--experiment={job.experiment}', f'--scale={job.scale}',
    f'--only={job.row}', f'--seeds={job.seed}',
    f'--workdir={WORKDIR.value}', '--',
    f'--config.data.data_dir={job.data_dir}',
  ]  # fmt: skip
  if job.factor is not None:
    command.append(f'--config.learning_rate_factor={job.factor}')
  child = subprocess.Popen(command, start_new_session=True)
  is_stopping = False
  while True:
    try:
      code = child.wait()
      break
    except KeyboardInterrupt:
      is_stopping = True
      stop(child)
  return INTERRUPTED if is_stopping else code


def stop(child: subprocess.Popen) -> None:
  """Sends Ctrl-C to the row's processes, which then save and exit."""
  with contextlib.suppress(ProcessLookupError):  # they are over
    os.killpg(child.pid, signal.SIGINT)


if __name__ == '__main__':
  common.run(main, handles_ctrl_c=True)
