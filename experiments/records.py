"""One finished run as one JSON file, small enough to commit.

`results/NAME/runs/ROW_seedK.json`, or `ROW@SCALE_seedK.json` if the scale isn't
'full', is all that a report reads: a number without a record gets into no
table.
"""

import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from configs import base
from nfnets import texts, workdir

FULL = 'full'
MEANS = ('train/loss', 'train/top_1', 'train/grad_norm')
KEPT = (*MEANS, 'train/step_seconds', 'agc/clipped_fraction')
PACKAGES = ('jax', 'jaxlib', 'dm-haiku', 'optax', 'numpy')

Record = dict[str, Any]
Config = Mapping[str, Any]


def of_run(
  folder: workdir.RunFolder,
  experiment: str,
  row: str,
  command: Sequence[str],
  scale: str = FULL,
) -> Record:
  """A finished or diverged run; ValueError if it isn't over.

  'curve' holds the metrics at each evaluation, 'epochs' those of training by
  epoch.
  """
  summary, config = folder.read_summary(), folder.read_config()
  if summary is None or summary['status'] not in ('finished', 'diverged'):
    raise ValueError(f'{folder.path}: the run is not over')
  metrics = folder.read_metrics()
  return of_measurement(experiment, row, command, scale, config) | {
    'seed': config['seed'],
    'status': summary['status'],
    'updates': summary['step'],
    'summary': summary,
    'curve': curve(metrics),
    'epochs': by_epoch(metrics, config),
  }


def of_measurement(
  experiment: str, row: str, command: Sequence[str], scale: str, config: Config
) -> Record:
  """What any record says: what was run, from which commit, and on what."""
  return {
    'experiment': experiment,
    'row': row,
    'scale': scale,
    'seed': 0,
    'command': portable(command),
    'status': 'finished',
    'config': without_paths(config),
    'commit': commit(),
    'hardware': hardware(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
  }


def path_of(
  root: pathlib.Path, experiment: str, row: str, seed: int, scale: str = FULL
) -> pathlib.Path:
  """Where the record of a run is."""
  name = f'{run_name(row, scale)}_seed{seed}.json'
  return root / experiment / 'runs' / name


def run_name(row: str, scale: str = FULL) -> str:
  """What `get_config` takes: 'row', or 'row@scale'."""
  return row if scale == FULL else f'{row}@{scale}'


def write(root: pathlib.Path, record: Record) -> pathlib.Path:
  """Writes the record where reports look for it."""
  place = (record[key] for key in ('experiment', 'row', 'seed'))
  path = path_of(root, *place, record.get('scale', FULL))
  path.parent.mkdir(parents=True, exist_ok=True)
  workdir.write_atomically(path, workdir.dump_json(record))
  return path


def read_all(root: pathlib.Path, experiment: str) -> list[Record]:
  """Every record of an experiment, by row and seed."""
  paths = sorted((root / experiment / 'runs').glob('*.json'))
  return [{'scale': FULL} | read(path) for path in paths]


def read(path: pathlib.Path) -> Record:
  """One record; ValueError names a damaged one."""
  remedy = 'restore it, or remove it and run the row again'
  return texts.parse_json(path.read_bytes(), str(path), remedy)


def twin(root: pathlib.Path, config: Config, experiment: str) -> Record | None:
  """Another experiment's record of a run with this config and seed, if any.

  A key that a record lacks, since it came later, has its default there; one
  that has left since counts for nothing. There is no twin where a run depends
  on more than its config: on files of weights, or on the number of devices.
  ValueError for a damaged record.
  """
  wanted, defaults = workdir.flat(_as_json(config)), base.defaults()
  by_device = wanted.get('model.normalizer', 'batch') == 'batch' or (
    wanted['sam.rho'] and not wanted['sam.m']
  )
  if by_device or wanted['weights']:
    return None
  for path in sorted(root.glob('*/runs/*.json')):
    record = read(path)
    trains = 'scripts.train' in record.get('command', '')
    if path.parts[-3] == experiment or 'same_as' in record or not trains:
      continue
    known = workdir.completed(record['config'], defaults)
    known = workdir.flat(_as_json(known))
    if {key: known.get(key) for key in wanted} == wanted:
      return record
  return None


def taken_over(
  record: Record, config: Config, experiment: str, row: str, scale: str = FULL
) -> Record:
  """A `twin` as another experiment's record; 'same_as' says whose it is."""
  run = run_name(record['row'], record.get('scale', FULL))
  return record | {
    'experiment': experiment,
    'row': row,
    'scale': scale,
    'same_as': f'{record["experiment"]}/{run}_seed{record["seed"]}',
    'config': _as_json(config),
  }


def _as_json(config: Config) -> Record:
  """The config as a record holds it."""
  return json.loads(workdir.dump_json(without_paths(config)))


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
  """Means of the logged loss, accuracy and gradient norm that are finite.

  A point for each epoch in which something was logged: 'epoch' from 1, the
  'step' that was logged last, and the means.
  """
  updates = config['data']['num_train'] / config['batch_size']
  found: dict[int, list[Record]] = {}
  for row in rows:
    if 'train/loss' in row:
      epoch = max(1, math.ceil(row['step'] / updates))
      found.setdefault(epoch, []).append(row)
  points = []
  for epoch, logged in found.items():
    points.append({'epoch': epoch, 'step': logged[-1]['step']})
    for key in MEANS:
      values = [float(row[key]) for row in logged if key in row]
      if finite := [value for value in values if math.isfinite(value)]:
        points[-1][key] = statistics.fmean(finite)
  return points


def portable(words: Sequence[str]) -> str:
  """A command line, with this machine's paths replaced by DATA or PATH."""
  told = []
  for word in words:
    name, equals, value = word.rpartition('=')
    if name.endswith('data_dir'):
      word = f'{name}=DATA'
    elif value.startswith(('/', '~', 'file:')):
      word = f'{name}{equals}PATH'
    told.append(shlex.quote(word))
  return ' '.join(told)


def without_paths(config: Config) -> Record:
  """The config less where this machine keeps its data."""
  data = {'data': config['data'] | {'data_dir': ''}} if 'data' in config else {}
  return dict(config) | data


def hardware() -> Record:
  """What this process runs on."""
  import jax

  devices = jax.devices()
  return {
    'device': devices[0].device_kind,
    'device_count': len(devices),
    'cpu': processor(),
    'cores': os.cpu_count(),
  }


def commit() -> str:
  """The repository's, 40 hex digits; empty where git can't say."""
  folder = pathlib.Path(__file__).parent
  try:
    said = subprocess.check_output(
      ['git', 'rev-parse', 'HEAD'], cwd=folder, stderr=subprocess.DEVNULL
    )
  except (OSError, subprocess.CalledProcessError):
    return ''
  return said.decode().strip()


def processor() -> str:
  """The processor's own name, or what the system calls its kind."""
  path = pathlib.Path('/proc/cpuinfo')
  lines = path.read_text().splitlines() if path.exists() else []
  names = [line.partition(':')[2] for line in lines if 'model name' in line]
  return names[0].strip() if names else platform.machine()
