"""One run's folder: config.json, metrics.jsonl, summary.json; and loggers.

All that later reads a run (reports, plots, another process) reads these files.
"""

import importlib.util
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

Metrics = Mapping[str, float]

# Keys that a resumed run may change: they decide where and when, not what.
FREE_KEYS = (
  'log_every',
  'eval_every',
  'eval_batch_size',
  'checkpoint_every',
  'keep_checkpoints',
  'observe_every',
  'stop_after_nonfinite',
  'wandb',
  'data.data_dir',
  'data.num_threads',
  'data.cache',
  'data.on_device',
)


class Logger(Protocol):
  """Takes one step's metrics; `close` flushes what is left."""

  def log(self, step: int, metrics: Metrics) -> None: ...

  def close(self) -> None: ...


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
    path = self.path / 'config.json'
    return json.loads(path.read_text()) if path.exists() else None

  def check_same_run(self, config: Mapping[str, Any]) -> None:
    """Raises ValueError if another config's run lives here."""
    old, new = self.read_config(), _flat(plain(config))
    if old is None:
      return
    old = _flat(old)
    differ = sorted(
      key
      for key in old.keys() | new.keys()
      if key not in FREE_KEYS and old.get(key) != new.get(key)
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
    path = self.path / 'summary.json'
    return json.loads(path.read_text()) if path.exists() else None

  def is_finished(self) -> bool:
    """Whether the run that lives here reached its last step."""
    summary = self.read_summary()
    return summary is not None and summary['status'] == 'finished'

  def read_metrics(self) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl, in order; a torn last line is left out."""
    return read_json_lines(self.path / 'metrics.jsonl')


class JsonLines:
  """Appends `{"step": ..., "time": ..., name: value}` lines.

  A resumed run goes on after `last_step`; lines past it belong to steps that
  will be taken again and are dropped.
  """

  def __init__(self, path: pathlib.Path, last_step: int):
    rows = [row for row in read_json_lines(path) if row['step'] <= last_step]
    write_atomically(path, ''.join(dump_line(row) for row in rows))
    self._file = path.open('a')

  def log(self, step: int, metrics: Metrics) -> None:
    row = {'step': step, 'time': round(time.time(), 3), **metrics}
    self._file.write(dump_line(row))
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class TensorBoard:
  """Scalars for TensorBoard, through tensorboardX (no TensorFlow)."""

  def __init__(self, path: pathlib.Path, last_step: int):
    import tensorboardX

    self._writer = tensorboardX.SummaryWriter(
      str(path), purge_step=last_step + 1
    )

  def log(self, step: int, metrics: Metrics) -> None:
    for name, value in metrics.items():
      self._writer.add_scalar(name, value, step)

  def close(self) -> None:
    self._writer.close()


class WeightsAndBiases:
  """Scalars for Weights & Biases; the `wandb` package is the user's to add."""

  def __init__(self, path: pathlib.Path, config: Mapping[str, Any]):
    import wandb

    self._run = wandb.init(
      project='nfnets', dir=str(path), config=dict(config), resume='allow'
    )

  def log(self, step: int, metrics: Metrics) -> None:
    self._run.log(dict(metrics), step=step)

  def close(self) -> None:
    self._run.finish()


def need_wandb() -> None:
  """Raises ValueError if the wandb package isn't installed."""
  if importlib.util.find_spec('wandb') is None:
    raise ValueError(
      'config.wandb is on but the wandb package is missing: '
      'pip install wandb, or --config.wandb=False'
    )


class Console:
  """A progress bar on a terminal; elsewhere a plain line per log.

  Args:
    num_steps: of the whole run.
    start_step: where this process begins.
    stream: where to print.
  """

  def __init__(self, num_steps: int, start_step: int, stream: Any = None):
    self._num_steps = num_steps
    self._stream = stream or sys.stdout
    self._bar = None
    if self._stream.isatty():
      self._bar, self._task = _progress_bar(num_steps, start_step)

  def advance(self, step: int) -> None:
    if self._bar is not None:
      self._bar.update(self._task, completed=step)

  def log(self, step: int, metrics: Metrics) -> None:
    text = format_metrics(metrics)
    if not text:
      return
    if self._bar is not None and 'train/loss' in metrics:
      self._bar.update(self._task, completed=step, metrics=text)
    else:
      self.print(f'step {step}/{self._num_steps}  {text}')

  def print(self, text: str) -> None:
    if self._bar is not None:
      self._bar.console.print(text, highlight=False, markup=False)
    else:
      print(text, file=self._stream, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()


def format_metrics(metrics: Metrics) -> str:
  """The few figures that a person follows, in one line."""
  shown = []
  for name, value in metrics.items():
    short = name.removeprefix('train/')
    if short in ('loss', 'learning_rate', 'grad_norm') or short.endswith(
      '/loss'
    ):
      shown.append(f'{short} {value:.4g}')
    elif short.endswith(('top_1', 'top_5')):
      shown.append(f'{short} {100 * value:.2f} %')
    elif short == 'images_per_second':
      shown.append(f'{value:.4g} images/s')
    elif short == 'seconds_left':
      shown.append(f'{_clock(value)} left')
  return '  '.join(shown)


def read_json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Whole lines of a JSON-lines file; a kill may tear the last one."""
  if not path.exists():
    return []
  lines = path.read_text().split('\n')
  return [json.loads(line) for line in lines[:-1] if line]


def write_atomically(path: pathlib.Path, text: str) -> None:
  """Writes beside the file, then renames: a kill leaves old or new, whole."""
  temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  temporary.write_text(text)
  temporary.replace(path)


def dump_json(tree: Mapping[str, Any]) -> str:
  return json.dumps(plain(tree), indent=2, sort_keys=True) + '\n'


def dump_line(row: Mapping[str, Any]) -> str:
  return json.dumps(plain(row)) + '\n'


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat


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


def _progress_bar(num_steps: int, start_step: int) -> tuple[Any, Any]:
  from rich import progress

  bar = progress.Progress(
    progress.TextColumn('step {task.completed}/{task.total}'),
    progress.BarColumn(),
    progress.TextColumn('{task.fields[metrics]}'),
    progress.TimeElapsedColumn(),
  )
  bar.start()
  task = bar.add_task('', total=num_steps, completed=start_step, metrics='')
  return bar, task


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}'
