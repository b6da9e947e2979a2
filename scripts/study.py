"""Trains the CIFAR-10 study's rows that aren't finished, one after the other.

  nice -n 10 python -m scripts.study --data_dir=DATA --results=CHECKOUT/results

Meant to run in the background, from a clone of its own at a fixed commit: what
is edited in the checkout meanwhile changes no run. Finished records are copied
to `--results`. SIGTERM or Ctrl-C saves the running row and ends with 75; the
same command goes on from there. `--list` says what is done and what is left.
Exit codes: 0 all rows are over, 1 one failed, 75 interrupted. `--caltech` is a
tar of train/CLASS/FILE and test/CLASS/FILE: the split of Caltech-101
(nfnets/data/caltech101_split.json); without it those rows are left out.
"""

import contextlib
import os
import pathlib
import shutil
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

DATA_DIR = flags.DEFINE_string('data_dir', '', 'Where CIFAR-10 is prepared.')
CALTECH = flags.DEFINE_string('caltech', '', 'Caltech-101, split, as a tar.')
RESULTS = flags.DEFINE_string('results', '', 'Copy finished records here too.')
WORKDIR = flags.DEFINE_string('workdir', 'runs', 'Where the runs live.')
LIST = flags.DEFINE_bool('list', False, 'Say what is left and stop.')

ROOT = pathlib.Path('results')
INTERRUPTED = 75


class Job(NamedTuple):
  """One training: an experiment's row at a scale, by seed."""

  experiment: str
  row: str
  scale: str
  seed: int = 0
  factor: float | None = None  # of the learning rate

  @property
  def path(self) -> pathlib.Path:
    return records.path_of(
      ROOT, self.experiment, self.row, self.seed, self.scale
    )

  @property
  def data_dir(self) -> str:
    if self.experiment != 'transfer_caltech101':
      return DATA_DIR.value
    folder = pathlib.Path(WORKDIR.value) / 'caltech101'
    is_first = self.row == 'pretrain'
    return str(transfer_caltech101.half(CALTECH.value, folder, is_first))

  @property
  def hours(self) -> float:
    """On two free cores."""
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
  """Prints each row, and the hours that are left on two free cores."""
  left = 0.0
  for job in jobs():
    done = job.path.exists()
    left += 0 if done else job.hours
    mark = 'done' if done else f'{60 * job.hours:.0f} min'
    print(f'{mark:6} {job.experiment}/{job.path.stem}')
  print(f'{left:.1f} hours left on two free cores')
  return 0


def jobs() -> Iterator[Job]:
  """All trainings in order; those after the pilot once it has chosen."""
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
  for seed, network, arm in (
    (0, 'nf', 'nf_agc'), (0, 'none', 'none_agc'),
    (1, 'none', 'none_agc'), (2, 'none', 'none_agc'),
  ):  # fmt: skip
    for size in (128, 64, 32, 16):
      for lambda_ in _grid.LAMBDAS:
        row = f'{network}_b{size}_l{lambda_:g}'
        yield Job('agc_grid', row, 'full', seed, best[arm])
  for row in study.load('batchnorm_batch_size').rows_at('rates'):
    yield Job('batchnorm_batch_size', row, 'rates')
  yield from clipped_where_nothing_clipped_diverges()
  if CALTECH.value:
    yield Job('transfer_caltech101', 'pretrain', 'px64')
    for seed in (0, 1, 2):
      for row in transfer_caltech101.AT_64:
        yield Job('transfer_caltech101', row, 'px64', seed)
  yield Job('he_resnet20', 'batch', 'full')


def clipped_where_nothing_clipped_diverges() -> Iterator[Job]:
  """where_to_clip, at the first of two rates at which that is so."""
  for scale in ('x8', 'x16'):
    unclipped = Job('where_to_clip', 'nothing', scale)
    yield unclipped
    if unclipped.path.exists():
      record = records.read(unclipped.path)
      if record['status'] == 'diverged':
        break
  for seed in (0, 1, 2):
    for row in study.load('where_to_clip').rows:
      yield Job('where_to_clip', row, scale, seed)


def pilot_of(arm: str) -> Iterator[Job]:
  """Three rates, then one beyond the best as long as that is at an end."""
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
  """By factor, on held-out training images; 0 of a diverged run."""
  found = {}
  for factor in pilot.FACTORS:
    path = Job('pilot', f'{arm}_x{factor:g}', 'full').path
    if path.exists():
      record = records.read(path)
      finished = record['status'] == 'finished'
      found[factor] = record['summary']['eval/top_1'] if finished else 0.0
  return found


def chosen(arm: str) -> float | None:
  """The arm's best factor among those tried; None before there is one."""
  found = accuracies(arm)
  return max(found, key=found.get) if found else None


def train(job: Job) -> int:
  """Trains one row by scripts.experiment, and copies its record."""
  command = [
    sys.executable, '-m', 'scripts.experiment', 'run',
    f'--results={ROOT}',
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
  if code == 0 and RESULTS.value:
    place = pathlib.Path(RESULTS.value) / job.path.relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(job.path, place)
  return INTERRUPTED if is_stopping else code


def stop(child: subprocess.Popen) -> None:
  """Ctrl-C to the row and what runs it: each waits until it has saved."""
  with contextlib.suppress(ProcessLookupError):  # it is over
    os.killpg(child.pid, signal.SIGINT)


if __name__ == '__main__':
  common.run(main, handles_ctrl_c=True)
