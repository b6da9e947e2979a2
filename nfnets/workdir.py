"""A run's folder: config.json, class_names.json, metrics.jsonl, summary.json,
checkpoints/.

Whatever reads a run later (reports, plots, other processes) reads these files.
"""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nfnets import bucket, texts

REMEDY = 'restore it, or choose another --workdir'  # for a damaged file
PROBE = 'probe.safetensors'  # in the folder of a linear probe
STATUSES = 'finished', 'interrupted', 'diverged'
NONFINITE = 'nan', 'inf', '-inf'  # as JSON lines hold them
# A resumed run may change these: they don't change what is computed.
FREE_KEYS = (
  'log_every', 'eval_every', 'eval_batch_size', 'checkpoint_every',
  'keep_checkpoints', 'observe_every', 'stop_after_nonfinite', 'wandb',
  'data.data_dir', 'data.num_threads', 'data.cache', 'data.on_device',
)  # fmt: skip
# A run can't be evaluated without these.
NEEDED_KEYS = (
  'model.name', 'ema.mode', 'data.name', 'data.num_classes', 'data.mean',
  'data.std', 'data.eval_image_size', 'data.eval_preprocessing',
)  # fmt: skip


class RunFolder:
  """A run's folder on disk.

  Args:
    path: of the folder; it is created when it is locked or written to.
    url: of the folder in a bucket that it is a copy of (bucket.working_copy).
  """

  def __init__(self, path: str | os.PathLike[str], url: str = ''):
    if bucket.is_url(path):
      raise ValueError(f'{path}: copy the run to a local folder first')
    self.path, self.url = pathlib.Path(path).expanduser(), url

  @contextlib.contextmanager
  def lock(self) -> Iterator[None]:
    """Locks the folder within the block; the lock ends with the process.

    Raises:
      ValueError: another process holds the lock.
      OSError: the folder can't be created or written.
    """
    path = self.path / 'lock'
    self.path.mkdir(parents=True, exist_ok=True)
    with naming(path):
      held = path.open('a+')
    with held:
      try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise ValueError(
          f'{self} is in use by {self.holder()}: choose another --workdir, '
          'or wait until that run ends'
        ) from None
      except OSError:  # a file system without locks
        pass
      with naming(path):
        held.truncate(0)
        held.write(f'{socket.gethostname()}, process {os.getpid()}\n')
        held.flush()
      yield

  def __str__(self) -> str:
    return self.url or str(self.path)

  def holder(self) -> str:
    """Host and process that last locked the folder; of a bucket, its URL."""
    path = self.path / 'lock'
    return self.url or (path.read_text().strip() if path.exists() else '')

  def check_same_run(
    self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
  ) -> None:
    """Raises ValueError if the folder holds part of a run, or another config's.

    A folder without a checkpoint may be used for any config. Keys that only the
    old config has were removed since, and are ignored.

    Args:
      config: of the run to start or resume.
      defaults: values of keys that a run of an older version lacks.
    """
    saved, summary = self.saved_steps(), self.read_summary() or {}
    there, is_finished = self.read_config(), self.is_finished()
    if saved and there is None:
      self._refuse('checkpoints, but no config.json')
    if not saved and not is_finished:
      interrupted = summary.get('status') == 'interrupted' and summary['step']
      if interrupted or self._lacks_checkpoints(there or {}):
        self._refuse('a run whose checkpoints are gone')
      return
    old = flat(plain(completed(there or {}, defaults or {})))
    differ = [
      f'{key} ({old.get(key)!r} there, {value!r} here)'
      for key, value in sorted(flat(plain(config)).items())
      if key not in FREE_KEYS and old.get(key) != value
    ]
    if differ:
      more = f' and {len(differ) - 4} more' if len(differ) > 4 else ''
      raise ValueError(
        f"{self} holds another config's run: {', '.join(differ[:4])}"
        f'{more}; choose another --workdir or remove that one'
      )
    if not is_finished and not (self.path / 'metrics.jsonl').exists():
      self._refuse('checkpoints, but no metrics.jsonl')

  def read_config(self) -> dict[str, Any] | None:
    """The config of the run, or None if there is none."""
    return read_json(self.path / 'config.json')

  def require_config(self) -> dict[str, Any]:
    """The config of the run; ValueError if it or keys of it are missing."""
    if (config := self.read_config()) is None:
      raise ValueError(f"{self} is not a run's folder: it has no config.json")
    if missing := [key for key in NEEDED_KEYS if key not in flat(config)]:
      raise ValueError(
        f'{self.path / "config.json"} is damaged (no {missing[0]}); restore it'
      )
    return config

  def write_config(self, config: Mapping[str, Any]) -> None:
    write_atomically(self.path / 'config.json', dump_json(config))

  def read_class_names(self) -> list[str] | None:
    """The training data's classes by label; None for an older version's run."""
    path = self.path / 'class_names.json'
    if (found := read_json(path)) is None:
      return None
    names = found.get('class_names')
    if isinstance(names, list) and all(isinstance(x, str) for x in names):
      return names
    raise ValueError(f'{path} is damaged (no class_names); restore it')

  def write_class_names(self, names: Iterable[str]) -> None:
    text = dump_json({'class_names': list(names)})
    write_atomically(self.path / 'class_names.json', text)

  def check_class_names(self, names: Iterable[str]) -> None:
    """Raises ValueError if the run was trained on other classes."""
    own, names = self.read_class_names(), list(names)
    if own not in (None, names):
      mine, other = next(
        (pair for pair in zip(own, names) if pair[0] != pair[1]),
        (f'{len(own)} classes', f'{len(names)} classes'),
      )
      raise ValueError(
        f'{self} was trained on other classes than these data have: {mine!r}, '
        f'not {other!r}; use the same data, or choose another --workdir'
      )

  def read_summary(self) -> dict[str, Any] | None:
    """How the run last ended; None if it didn't, or if the file is damaged."""
    try:
      found = read_json(self.path / 'summary.json')
    except ValueError:  # the end of the next run replaces it
      return None
    found = found or {}
    is_whole = (
      found.get('status') in STATUSES
      and _is_step(found.get('step'))
      and _is_number(found.get('eval/top_1', 0))
    )
    return found if is_whole else None

  def write_summary(self, summary: Mapping[str, Any]) -> None:
    write_atomically(self.path / 'summary.json', dump_json(summary))

  def results(self, summary: Mapping[str, Any]) -> Iterator[str]:
    """Lines to print when a run ends: its accuracy, its curves, its folder."""
    place = bucket.absolute(str(self))
    if 'eval/top_1' in summary:
      rows = [] if summary['status'] == 'finished' else self.read_metrics()
      steps = [row['step'] for row in rows if 'eval/top_1' in row]
      when = f' at step {steps[-1]}' if steps else ''
      yield f'test accuracy {100 * float(summary["eval/top_1"]):.1f} %{when}'
    if (self.path / 'curves.png').exists():
      yield f'curves {place}/curves.png'
    yield f'run folder {place}'

  def is_finished(self) -> bool:
    """Whether the run reached its last step."""
    summary, config = self.read_summary(), self.read_config() or {}
    if not summary or summary['status'] != 'finished':
      return False
    last = None if config.get('probe') else config.get('num_steps')
    return last in (None, summary['step'])

  def read_metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in order, without an incomplete last one."""
    path = self.path / 'metrics.jsonl'
    lines = path.read_bytes().split(b'\n') if path.exists() else []
    return [
      _parse_row(line, f'line {number} of {path}')
      for number, line in enumerate(lines[:-1], 1)
      if line
    ]

  def saved_steps(self) -> list[int]:
    """Steps of all checkpoints, intact or damaged."""
    names = [path.name for path in (self.path / 'checkpoints').glob('*')]
    return sorted(int(name) for name in names if name.isdecimal())

  def _lacks_checkpoints(self, config: Mapping[str, Any]) -> bool:
    """Whether metrics.jsonl goes past a checkpoint, but there is none.

    A kill may come after a step's metrics and before its checkpoint is whole.
    A probe has no checkpoints.
    """
    if config.get('probe'):
      return False
    steps = [row['step'] for row in self.read_metrics()]
    path = self.path / 'checkpoints'
    if not steps or not path.exists():
      return bool(steps)
    first = config.get('checkpoint_every')
    return _is_step(first) and max(steps) > first and not any(path.iterdir())

  def _refuse(self, what: str) -> None:
    raise ValueError(
      f'{self} holds {what}: restore what is missing, or choose another '
      '--workdir'
    )


def completed(
  config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
  """The config of an older version's run, with the keys added since.

  Their values come from `defaults`, `configs.base.defaults()`.
  """
  return {
    key: completed(value, defaults[key])
    if isinstance(value, Mapping) and key in defaults
    else value
    for key, value in (dict(defaults) | dict(config)).items()
  }


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
  """Makes OSErrors within the block name the file."""
  try:
    yield
  except OSError as error:
    raise OSError(f'{path} could not be written: {error}') from error


def write_atomically(path: pathlib.Path, text: str) -> None:
  """Writes a temporary file, then renames it, so that no kill damages it."""
  temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  with naming(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(text)
    temporary.replace(path)


def dump_json(tree: Mapping[str, Any]) -> str:
  return json.dumps(plain(tree), indent=2, sort_keys=True) + '\n'


def dump_line(row: Mapping[str, Any]) -> str:
  return json.dumps(plain(row)) + '\n'


def flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """A nested dictionary as a flat one; keys are joined by dots."""
  found = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      found |= flat(value, f'{prefix}{key}.')
    else:
      found[prefix + key] = value
  return found


def plain(value: Any) -> Any:
  """Converts to JSON's types: lists, and strings for NaN and infinity."""
  if isinstance(value, Mapping):
    return {k: plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [plain(v) for v in value]
  if isinstance(value, bool | int | str) or value is None:
    return value
  number = float(value)
  return number if math.isfinite(number) else str(number)


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
  """Parses the file, or returns None if there is none."""
  if path.exists():
    return texts.parse_json(path.read_bytes(), str(path), REMEDY)
  return None


def _is_step(value: Any) -> bool:
  return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
  """Whether it is a number, or what `plain` writes for NaN and infinity."""
  return isinstance(value, int | float) or value in NONFINITE


def _parse_row(text: bytes, where: str) -> dict[str, Any]:
  """Parses a step's metrics."""
  row = texts.parse_json(text, where, REMEDY)
  for key, value in ({'step': None} | row).items():
    if not _is_number(value) or (key == 'step' and not _is_step(value)):
      raise ValueError(f'{where} is damaged ({key} is not a number); {REMEDY}')
  return row
