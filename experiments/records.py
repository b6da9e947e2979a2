"""One finished run as one JSON file, small enough to commit.

A report reads nothing but `results/NAME/runs/ROW_seedK.json` (or, if the scale
isn't 'full', `ROW@SCALE_seedK.json`): a number without a record appears in no
table.
"""

import importlib.metadata
import math
import os
import pathlib
import shlex
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import base
from nfnets import texts, workdir

FULL = 'full'
MEANS = ('train/loss', 'train/top_1', 'train/grad_norm')
KEPT = (*MEANS, 'train/step_seconds', 'agc/clipped_fraction')
PACKAGES = ('jax', 'jaxlib', 'dm-haiku', 'optax', 'numpy')

Record = dict[str, Any]
Config = Mapping[str, Any]


class Run(NamedTuple):
  """A row of an experiment at one of its scales, with a seed."""

  experiment: str
  row: str
  scale: str = FULL
  seed: int = 0

  @property
  def place(self) -> str:
    """The argument of `get_config`: 'row' or 'row@scale'."""
    return self.row if self.scale == FULL else f'{self.row}@{self.scale}'

  @property
  def name(self) -> str:
    return f'{self.place}_seed{self.seed}'

  def path(self, root: pathlib.Path) -> pathlib.Path:
    """The file of the run's record."""
    return root / self.experiment / 'runs' / f'{self.name}.json'


def of_run(
  run: Run, command: Sequence[str], folder: workdir.RunFolder
) -> Record:
  """The record of a finished or diverged run.

  'curve' holds the metrics at each evaluation, 'epochs' the training metrics by
  epoch.

  Raises:
    ValueError: the run isn't over.
  """
  summary, config = folder.read_summary(), folder.read_config()
  if summary is None or summary['status'] not in ('finished', 'diverged'):
    raise ValueError(f'{folder.path}: the run is not over')
  metrics = folder.read_metrics()
  return of_measurement(run, command, config) | {
    'seed': config['seed'],
    'status': summary['status'],
    'updates': summary['step'],
    'summary': summary,
    'curve': curve(metrics),
    'epochs': by_epoch(metrics, config),
  }


def of_measurement(run: Run, command: Sequence[str], config: Config) -> Record:
  """What every record says: what ran, from which commit, on which hardware."""
  return {
    **run._asdict(),
    'command': portable(command),
    'status': 'finished',
    'config': without_paths(config),
    'commit': commit(),
    'hardware': hardware(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
  }


def write(root: pathlib.Path, record: Record) -> pathlib.Path:
  """Writes a record to the file where reports look for it."""
  path = Run(*(record[field] for field in Run._fields)).path(root)
  workdir.write_atomically(path, workdir.dump_json(record))
  return path


def read_all(root: pathlib.Path, experiment: str) -> list[Record]:
  """All records of an experiment, by row and seed."""
  paths = sorted((root / experiment / 'runs').glob('*.json'))
  return [{'scale': FULL} | read(path) for path in paths]


def read(path: pathlib.Path) -> Record:
  """One record.

  Raises:
    ValueError: the file is damaged.
  """
  remedy = 'restore it, or remove it and run the row again'
  record = texts.parse_json(path.read_bytes(), str(path), remedy)
  if missing := {'row', 'seed', 'status', 'config'} - record.keys():
    raise ValueError(f'{path} has no {min(missing)!r}: {remedy}')
  return record


def require_alike(found: Sequence[Record]) -> None:
  """Raises ValueError if the seeds of a row weren't trained alike."""
  for record in found[1:]:
    for key in ('learning_rate', 'batch_size', 'num_steps'):
      here, there = (r['config'].get(key) for r in (record, found[0]))
      if here != there:
        raise ValueError(
          f'{record["row"]}: config.{key} is {here} with seed '
          f'{record["seed"]}, {there} with seed {found[0]["seed"]}; run one of '
          'them again, with the flags of the other'
        )


def twin(root: pathlib.Path, config: ConfigDict, run: Run) -> Record | None:
  """The record of another experiment's equal run, as that of this one, if any.

  Runs are equal if they have the same config and seed. A key that an old record
  lacks has its default value; keys that no longer exist are ignored. A run that
  depends on more than its config, on weights or on the number of devices, has
  no twin.

  Args:
    root: the folder of all records.
    config: of the run's row and scale.
    run: the one to find the twin of.
  """
  own = config.copy_and_resolve_references().to_dict() | {'seed': run.seed}
  wanted, defaults = _plain(own), base.defaults()
  by_device = wanted.get('model.normalizer', 'batch') == 'batch' or (
    wanted['sam.rho'] and not wanted['sam.m']
  )
  if by_device or wanted['weights']:
    return None
  for path in sorted(root.glob('*/runs/*.json')):
    record = read(path)
    is_trained = 'curve' in record and 'same_as' not in record
    if is_trained and path.parts[-3] != run.experiment:
      known = _plain(workdir.completed(record['config'], defaults))
      if {key: known.get(key) for key in wanted} == wanted:
        same_as = f'{record["experiment"]}/{path.stem}'
        changed = {'same_as': same_as, 'config': without_paths(own)}
        return record | run._asdict() | changed
  return None


def _plain(config: Config) -> dict[str, Any]:
  """The config by dotted keys, with values as a record holds them."""
  return workdir.flat(workdir.plain(without_paths(config)))


def curve(rows: Sequence[Record]) -> list[dict[str, float]]:
  """One point per evaluation, with the training metrics logged before it."""
  points, train = [], {}
  for row in rows:
    train |= {key: row[key] for key in KEPT if key in row}
    evaluation = {k: v for k, v in row.items() if k.startswith('eval')}
    if evaluation:
      points.append({'step': row['step'], **train, **evaluation})
  return points


def by_epoch(rows: Sequence[Record], config: Config) -> list[dict[str, float]]:
  """Means of the logged loss, accuracy and gradient norm, by epoch.

  Each epoch in which something was logged gives one point: 'epoch' from 1, the
  last logged 'step', and the means over finite values.
  """
  updates = config['data']['num_train'] / config['batch_size']
  logged: dict[int, list[Record]] = {}
  for row in rows:
    if 'train/loss' in row:
      epoch = max(1, math.ceil(row['step'] / updates))
      logged.setdefault(epoch, []).append(row)
  points = []
  for epoch, those in logged.items():
    points.append({'epoch': epoch, 'step': those[-1]['step']})
    for key in MEANS:
      values = [float(row[key]) for row in those if key in row]
      if finite := [value for value in values if math.isfinite(value)]:
        points[-1][key] = statistics.fmean(finite)
  return points


def portable(words: Sequence[str]) -> str:
  """A command line, with DATA or PATH in place of this machine's paths."""
  found = []
  for word in words:
    name, equals, value = word.rpartition('=')
    if name.endswith('data_dir'):
      word = f'{name}=DATA'
    elif value.startswith(('/', '~', 'file:')):
      word = f'{name}{equals}PATH'
    found.append(shlex.quote(word))
  return ' '.join(found)


def further_flags(record: Record) -> tuple[str, ...]:
  """The flags of a trained row's command that neither row nor seed gives.

  Such as a learning rate that another experiment chose.
  """
  own = '--config=', '--workdir=', '--config.seed=', '--config.data.data_dir='
  flags = [w for w in shlex.split(record['command']) if w.startswith('--')]
  return tuple(flag for flag in flags if not flag.startswith(own))


def without_paths(config: Config) -> Record:
  """The config without the location of this machine's data."""
  data = {'data': config['data'] | {'data_dir': ''}} if 'data' in config else {}
  return dict(config) | data


def hardware() -> Record:
  """The devices and the processor that this process runs on."""
  import jax

  from nfnets.bench import report

  devices = jax.devices()
  return {
    'device': devices[0].device_kind,
    'device_count': len(devices),
    'cpu': report.processor(),
    'cores': os.cpu_count(),
  }


def commit() -> str:
  """The repository's commit, 40 hex digits; empty where git doesn't know."""
  folder = pathlib.Path(__file__).parent
  try:
    found = subprocess.check_output(
      ['git', 'rev-parse', 'HEAD'], cwd=folder, stderr=subprocess.DEVNULL
    )
  except (OSError, subprocess.CalledProcessError):
    return ''
  return found.decode().strip()
