"""One finished run as one JSON file, small enough to commit.

`results/<experiment>/runs/<row>_seed<k>.json`, or `<row>@<scale>_seed<k>.json`
if it isn't full, is all that a report reads: a number without a record can't
get into a table.
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

from nfnets import workdir

FULL = 'full'
KEPT = (
  'train/loss',
  'train/top_1',
  'train/grad_norm',
  'train/step_seconds',
  'agc/clipped_fraction',
)
BY_EPOCH = ('train/loss', 'train/top_1', 'train/grad_norm')
# Keys that came after the first records: with these values they change nothing.
LATER = {
  'learning_rate_factor': 1.0,
  'steps_per_dispatch': 1,
  'weights': '',
  'model': {'scan': False},
  'optimizer': {'frozen': [], 'learning_rate_scales': []},
}
# Flags whose values are places on one machine, and what stands for them.
PLACES = {
  'data_dir': 'DATA',
  'tensorflow_python': 'PYTHON',
  'timm_python': 'PYTHON',
  'published': 'FOLDER',
  'json': 'FILE',
  'output': 'FILE',
}
PACKAGES = ('jax', 'jaxlib', 'dm-haiku', 'optax', 'numpy')


def make(
  folder: workdir.RunFolder,
  experiment: str,
  row: str,
  command: Sequence[str],
  scale: str = FULL,
) -> dict[str, Any]:
  """Gathers a finished or diverged run.

  Args:
    folder: the run's.
    experiment: the experiment's name.
    row: which of its runs.
    command: that trains it, in words.
    scale: of the experiment's `SCALES`.

  Returns:
    The record: config, hardware, versions, status, update count, the metrics
    at each evaluation ('curve'), and those of training by epoch ('epochs').

  Raises:
    ValueError: the run isn't over.
  """
  summary, config = folder.read_summary(), folder.read_config()
  if summary is None or summary['status'] not in ('finished', 'diverged'):
    raise ValueError(f'{folder.path}: the run is not over')
  metrics = folder.read_metrics()
  return {
    'experiment': experiment,
    'row': row,
    'scale': scale,
    'seed': config['seed'],
    'command': portable(command),
    'status': summary['status'],
    'updates': summary['step'],
    'config': without_paths(config),
    'commit': commit(),
    'hardware': hardware(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
    'summary': summary,
    'curve': curve(metrics),
    'epochs': by_epoch(metrics, config),
  }


def portable(words: Sequence[str]) -> str:
  """A command line, with places of this machine named only by kind."""
  told, before = [], None
  for word in words:
    name, equals, value = word.partition('=')
    kind = PLACES.get(name.lstrip('-').rpartition('.')[2])
    if equals and (kind or value.startswith(('/', '~', 'file:'))):
      word = f'{name}={kind or "PATH"}'
    elif before or word.startswith(('/', '~', 'file:')):  # --flag VALUE
      word = before or 'PATH'
    told.append(shlex.quote(word))
    before = None if equals else kind
  return ' '.join(told)


def path_of(
  root: pathlib.Path,
  experiment: str,
  row: str,
  seed: int | str,
  scale: str = FULL,
) -> pathlib.Path:
  """Where the record of a run is."""
  return root / experiment / 'runs' / f'{name_of(row, seed, scale)}.json'


def name_of(row: str, seed: int | str, scale: str = FULL) -> str:
  """A run's name among its experiment's."""
  return f'{run_of(row, scale)}_seed{seed}'


def run_of(row: str, scale: str = FULL) -> str:
  """What `get_config` takes: 'row', or 'row@scale'."""
  return row if scale == FULL else f'{row}@{scale}'


def write(root: pathlib.Path, record: Mapping[str, Any]) -> pathlib.Path:
  """Writes the record where reports look for it."""
  place = (record[key] for key in ('experiment', 'row', 'seed'))
  path = path_of(root, *place, record.get('scale', FULL))
  path.parent.mkdir(parents=True, exist_ok=True)
  workdir.write_atomically(path, workdir.dump_json(record))
  return path


def read_all(root: pathlib.Path, experiment: str) -> list[dict[str, Any]]:
  """Every record of an experiment, by row and seed."""
  paths = sorted((root / experiment / 'runs').glob('*.json'))
  return [{'scale': FULL} | json.loads(path.read_text()) for path in paths]


def twin(
  root: pathlib.Path, config: Mapping[str, Any], experiment: str
) -> dict[str, Any] | None:
  """Another experiment's record of a run with this config and seed, if any.

  Its versions and machine may be others, which the record says. A clipping
  threshold that isn't used counts for nothing. There is none where a run
  depends on more than its config: on files of weights, or on the number of
  devices.

  Args:
    root: of all experiments' results.
    config: resolved, the seed included.
    experiment: the one that asks.

  Raises:
    ValueError: for a damaged record.
  """
  wanted = _used(_as_json(config))
  by_device = wanted['model'].get('normalizer', 'batch') == 'batch' or (
    wanted['sam']['rho'] and not wanted['sam']['m']
  )
  if by_device or wanted['weights']:
    return None
  for path in sorted(root.glob('*/runs/*.json')):
    record = json.loads(path.read_text())
    trains = 'scripts.train' in record.get('command', '')
    if path.parts[-3] == experiment or 'same_as' in record or not trains:
      continue
    if _used(record['config']) == wanted:
      return record
  return None


def as_row(
  record: Mapping[str, Any],
  config: Mapping[str, Any],
  experiment: str,
  row: str,
  scale: str = FULL,
) -> dict[str, Any]:
  """The record of `twin` as another experiment's; 'same_as' says whose it is.

  Args:
    record: of the run that was made.
    config: of the other row.
    experiment, row, scale: the other's.
  """
  name = name_of(record['row'], record['seed'], record.get('scale', FULL))
  others = _as_json(config)
  points = record['curve']
  clipping = [c['optimizer']['clipping'] for c in (others, record['config'])]
  if clipping[0] != clipping[1]:
    points = [
      {key: value for key, value in point.items() if key[:4] != 'agc/'}
      for point in points
    ]
  return {
    **record,
    'experiment': experiment,
    'row': row,
    'scale': scale,
    'same_as': f'{record["experiment"]}/{name}',
    'config': others,
    'curve': points,
  }


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config as a record holds it."""
  return json.loads(workdir.dump_json(without_paths(dict(config))))


def _used(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config, with keys that came later, less what its run doesn't read."""
  config = {**LATER, **config}
  config['model'] = {**LATER['model'], **config['model']}
  optimizer = {**LATER['optimizer'], **config['optimizer']}
  if optimizer['clip'] == 'none':
    optimizer = {k: v for k, v in optimizer.items() if k != 'clipping'}
  return {**config, 'optimizer': optimizer}


def curve(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
  """One point per evaluation, with the training metrics logged before it."""
  points, train = [], {}
  for row in rows:
    train |= {key: row[key] for key in KEPT if key in row}
    evaluation = {k: v for k, v in row.items() if k.startswith('eval')}
    if evaluation:
      points.append({'step': row['step'], **train, **evaluation})
  return points


def by_epoch(
  rows: list[dict[str, Any]], config: Mapping[str, Any]
) -> list[dict[str, float]]:
  """Means of each epoch's logged training metrics, as far as they are finite.

  Args:
    rows: of metrics.jsonl.
    config: of the run.

  Returns:
    A point for each epoch in which something was logged: 'epoch' from 1, the
    'step' that was logged last, and the means.
  """
  updates = config['data']['num_train'] / config['batch_size']
  found: dict[int, list[dict[str, Any]]] = {}
  for row in rows:
    if 'train/loss' in row:
      epoch = max(1, math.ceil(row['step'] / updates))
      found.setdefault(epoch, []).append(row)
  points = []
  for epoch, logged in found.items():
    means = {
      key: statistics.fmean(values)
      for key in BY_EPOCH
      if (values := [r[key] for r in logged if _is_finite(r.get(key))])
    }
    points.append({'epoch': epoch, 'step': logged[-1]['step'], **means})
  return points


def _is_finite(value: Any) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
  """The config less where this machine keeps its data."""
  return {**config, 'data': {**config['data'], 'data_dir': ''}}


def hardware() -> dict[str, Any]:
  """What this process runs on, for the record."""
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
  command = ['git', 'rev-parse', 'HEAD']
  root = pathlib.Path(__file__).parents[1]
  try:
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
  except OSError:
    return ''
  return run.stdout.strip()


def processor() -> str:
  """The processor's own name, or what the system calls its kind."""
  fallback = platform.processor() or platform.machine()
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return fallback
  names = [line.partition(':')[2] for line in lines if 'model name' in line]
  return names[0].strip() if names else fallback
