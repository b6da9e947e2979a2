"""One run's folder: config.json, metrics.jsonl, summary.json.

All that later reads a run (reports, plots, another process) reads these files.
"""

import contextlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

# Keys that a resumed run may change: they decide where and when, not what.
FREE_KEYS = (
  'log_every',
  'eval_every',
  'eval_batch_size',
  'checkpoint_every',
  'keep_checkpoints',
  'observe_every',
  'stop_after_nonfinite',
  'steps_per_dispatch',
  'wandb',
  'data.data_dir',
  'data.num_threads',
  'data.cache',
  'data.on_device',
)


class RunFolder:
  """A run's folder on disk.

  Args:
    workdir: made if it isn't there.
    must_exist: don't make it; a run must live there.

  Raises:
    OSError: the folder can't be written.
    ValueError: no run lives there, and `must_exist`.
  """

  def __init__(self, workdir: str | os.PathLike[str], must_exist: bool = False):
    self.path = pathlib.Path(workdir)
    if must_exist and not (self.path / 'config.json').exists():
      raise ValueError(f"{workdir} is no run's folder: it has no config.json")
    self.path.mkdir(parents=True, exist_ok=True)

  def read_config(self) -> dict[str, Any] | None:
    """The config of the run that lives here, or None."""
    return read_json(self.path / 'config.json')

  def check_writable(self) -> None:
    """Raises OSError, naming the folder, if nothing can be written there."""
    try:
      with tempfile.NamedTemporaryFile(dir=self.path, prefix='.probe.') as file:
        file.write(b'x')
        file.flush()
    except OSError as error:
      raise OSError(f'{self.path} is not writable: {error}') from error

  def check_same_run(self, config: Mapping[str, Any]) -> None:
    """Raises ValueError if another config's run lives here.

    A key that an older version's run lacks doesn't count while it is off.
    """
    old, new = self.read_config(), flat(plain(config))
    if old is None:
      return
    old = flat(old)
    differ = sorted(
      key
      for key in old.keys() | new.keys()
      if key not in FREE_KEYS
      and old.get(key) != new.get(key)
      and not (key not in old and _is_off(new[key]))
    )
    if differ:
      shown = ', '.join(
        f'{k} ({old.get(k)!r} there, {new.get(k)!r} here)' for k in differ[:4]
      )
      more = f' and {len(differ) - 4} more' if len(differ) > 4 else ''
      raise ValueError(
        f"{self.path} holds another config's run: {shown}{more}; choose "
        'another --workdir or remove that one'
      )

  def write_config(self, config: Mapping[str, Any]) -> None:
    write_atomically(self.path / 'config.json', dump_json(config))

  def write_summary(self, summary: Mapping[str, Any]) -> None:
    write_atomically(self.path / 'summary.json', dump_json(summary))

  def read_summary(self) -> dict[str, Any] | None:
    return read_json(self.path / 'summary.json')

  def is_finished(self) -> bool:
    """Whether the run that lives here reached its last step."""
    summary = self.read_summary()
    return summary is not None and summary['status'] == 'finished'

  def read_metrics(self) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl, in order; a torn last line is left out."""
    return read_json_lines(self.path / 'metrics.jsonl')


def read_json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Whole lines of a JSON-lines file; a kill may tear the last one."""
  if not path.exists():
    return []
  lines = path.read_text().split('\n')
  return [_parse(line, path) for line in lines[:-1] if line]


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
  """What the file holds, or None if there is none."""
  return _parse(path.read_text(), path) if path.exists() else None


def _parse(text: str, path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(text)
  except ValueError as error:
    raise ValueError(
      f'{path} is damaged ({error}); restore it, or choose another --workdir'
    ) from error


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
  """An error of the system within the block names the file."""
  try:
    yield
  except OSError as error:
    raise OSError(f'{path} could not be written: {error}') from error


def write_atomically(path: pathlib.Path, text: str) -> None:
  """Writes beside the file, then renames: a kill leaves old or new, whole."""
  temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  temporary.write_text(text)
  temporary.replace(path)


def dump_json(tree: Mapping[str, Any]) -> str:
  return json.dumps(plain(tree), indent=2, sort_keys=True) + '\n'


def dump_line(row: Mapping[str, Any]) -> str:
  return json.dumps(plain(row)) + '\n'


def flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested keys joined by points."""
  found = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      found |= flat(value, f'{prefix}{key}.')
    else:
      found[prefix + key] = value
  return found


def _is_off(value: Any) -> bool:
  return value in (None, False, 0, '', 'none') or value == []


def plain(value: Any) -> Any:
  """What JSON can hold: lists for tuples, strings for NaN and infinity."""
  if isinstance(value, Mapping):
    return {k: plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [plain(v) for v in value]
  if isinstance(value, bool | int | str) or value is None:
    return value
  number = float(value)
  return number if math.isfinite(number) else str(number)
