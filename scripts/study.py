"""Trains the unfinished rows of the CIFAR-10 study, one after the other.

  nice -n 10 python -m scripts.study --data_dir=DATA --results=CHECKOUT/results

The pilot comes first, because it chooses the learning rate of each arm. Run
this in the background, from a clone at a fixed commit, so that edits in the
checkout don't affect the runs. SIGTERM or Ctrl-C saves the current run and
exits with 75; the same command resumes. Exit codes: 0 all rows are done, 1 a
row failed, 75 interrupted and saved.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from absl import flags

from experiments import (
  _resnet20,
  agc_grid,
  costs,
  large_batch,
  pilot,
  records,
  study,
  transfer_caltech101,
)
from scripts import common

DATA_DIR = flags.DEFINE_string('data_dir', '', 'The folder of prepared data.')
CALTECH = flags.DEFINE_string(
  'caltech',
  '',
  'A tar of train/CLASS/FILE and test/CLASS/FILE: Caltech-101, split as '
  'nfnets/data/caltech101_split.json says. Without it its rows are left out.',
)
RESULTS = flags.DEFINE_string('results', 'results', 'The folder of records.')
WORKDIR = flags.DEFINE_string('workdir', 'runs', 'The folder of the runs.')
LIST = flags.DEFINE_bool('list', False, 'Print what is left, and exit.')

INTERRUPTED = 75


class Part(NamedTuple):
  """Rows that one call of scripts.experiment trains."""

  experiment: str
  rows: Sequence[str]
  scale: str = study.FULL
  seeds: Sequence[int] = (0,)
  factor: float | None = None  # multiplies the learning rate

  def missing(self) -> list[records.Run]:
    """Those without a record."""
    root = pathlib.Path(RESULTS.value)
    runs = [
      records.Run(self.experiment, row, self.scale, seed)
      for seed in self.seeds
      for row in self.rows
    ]
    return [run for run in runs if not run.path(root).exists()]


def main() -> int:
  # A shell ignores SIGINT for what it starts in the background.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
  hours = 0.0
  for part in parts():
    if LIST.value:
      experiment = study.load(part.experiment)
      for run in part.missing():
        config = experiment.get_config(run.place)
        hours += costs.cpu_hours(config, experiment.image_seconds)
        print(f'{hours:5.1f} hours: {run.experiment}/{run.name}')
    elif part.missing() and (code := train(part)):
      return INTERRUPTED if code == INTERRUPTED else 1
  return 0


def parts() -> Iterator[Part]:
  """The study in order. A factor is None until the pilot has chosen it."""
  for arm in _resnet20.ARMS:
    yield from pilot_of(arm)
  best = {arm: chosen(arm) for arm in _resnet20.ARMS}
  for seeds in ((0,), (1,), (2,)):
    for arm in ('batch', 'none', 'none_agc', 'nf', 'nf_agc'):
      yield Part('headline', [arm], 'short', seeds, best[arm])
  yield Part('headline', ['none_agc_slow'], 'short')
  for arm in ('nf_agc_clipped', 'nf_agc_gain1'):
    factor = best.get(arm, best['nf_agc'])
    yield Part('headline', [arm], 'short', factor=factor)
  for row in large_batch.ROWS:
    yield from pilot_of(f'b1024_{row}')
  for seeds in ((0,), (1,)):
    for row in large_batch.ROWS:
      factor = chosen(f'b1024_{row}')
      yield Part('large_batch', [row], 'short', seeds, factor)
  for network, seeds in (('nf', (0,)), ('none', (0, 1, 2))):
    rows = [r for r in agc_grid.EXPERIMENT.rows if r.startswith(f'{network}_b')]
    factor = best[agc_grid.ARMS[network]]
    yield Part('agc_grid', rows, seeds=seeds, factor=factor)
  rows = study.load('batchnorm_batch_size').rows_at('rates')
  yield Part('batchnorm_batch_size', rows, 'rates')
  yield from where_to_clip()
  if CALTECH.value:
    yield Part('transfer_caltech101', ['pretrain'], 'px64')
    rows = transfer_caltech101.AT_64
    yield Part('transfer_caltech101', rows, 'px64', (0, 1, 2))
  yield Part('he_resnet20', ['batch'])


def pilot_of(arm: str) -> Iterator[Part]:
  """Three factors, then further ones as long as the best is the outermost."""
  root, tried = pathlib.Path(RESULTS.value), []
  new = [
    factor
    for factor in pilot.FACTORS
    if factor in pilot.FIRST[arm]
    or records.Run('pilot', f'{arm}_x{factor:g}').path(root).exists()
  ]
  while new:
    tried += new
    part = Part('pilot', [f'{arm}_x{factor:g}' for factor in new])
    yield part
    if part.missing():
      return
    best = chosen(arm)
    at = pilot.FACTORS.index(best)
    ends = {min(tried): at - 1, max(tried): at + 1}
    beyond = ends.get(best, -1)
    new = list(pilot.FACTORS[beyond : beyond + 1]) if beyond >= 0 else []


def chosen(arm: str) -> float | None:
  """The best factor that the pilot has tried for an arm, if any."""
  found = records.read_all(pathlib.Path(RESULTS.value), 'pilot')
  with contextlib.suppress(KeyError):
    return pilot.best(pilot.EXPERIMENT.gather(found)[study.FULL], arm)
  return None


def where_to_clip() -> Iterator[Part]:
  """The rows at the first of two rates at which the unclipped run diverges."""
  experiment = study.load('where_to_clip')
  for scale in ('x8', 'x16'):
    yield Part('where_to_clip', ['nothing'], scale)
    found = records.read_all(pathlib.Path(RESULTS.value), 'where_to_clip')
    rows = experiment.gather(found).get(scale, {})
    if 'nothing' in rows and rows['nothing'].diverged:
      break
  yield Part('where_to_clip', list(experiment.rows), scale, (0, 1, 2))


def train(part: Part) -> int:
  """Trains and records rows; returns the exit code of scripts.experiment."""
  data_dir = DATA_DIR.value
  if part.experiment == 'transfer_caltech101':
    folder, is_first = pathlib.Path(WORKDIR.value), part.rows == ['pretrain']
    half = transfer_caltech101.half
    data_dir = half(CALTECH.value, folder / 'caltech101', is_first)
  command = [
    sys.executable, '-m', 'scripts.experiment', 'run',
    f'--experiment={part.experiment}', f'--scale={part.scale}',
    f'--only={",".join(part.rows)}',
    f'--seeds={",".join(map(str, part.seeds))}',
    f'--results={RESULTS.value}', f'--workdir={WORKDIR.value}', '--',
    f'--config.data.data_dir={data_dir}',
  ]  # fmt: skip
  if part.factor is not None:
    command.append(f'--config.learning_rate_factor={part.factor}')
  child = subprocess.Popen(command, start_new_session=True)
  code, is_stopping = None, False
  while code is None:
    try:
      code = child.wait()
    except KeyboardInterrupt:  # its processes save and exit
      is_stopping = True
      with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGINT)
  return INTERRUPTED if is_stopping else code


if __name__ == '__main__':
  common.run(main, handles_ctrl_c=True)
