"""Loggers of a run's metrics: JSON lines, TensorBoard, wandb, console.

`log(step, metrics)` writes a step's metrics before it returns; `close()` ends a
logger.
"""

import contextlib
import datetime
import os
import pathlib
import secrets
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from nfnets import texts, workdir

# Suffixes of metrics that the console doesn't show.
SILENT = ('_seconds', '_per_device', '_bytes', '_utilization', '/count')

Metrics = Mapping[str, float]


class JsonLines:
  """Appends `{"step": ..., "time": ..., name: value}` lines to a file.

  Args:
    path: of the file, metrics.jsonl.
    rows: earlier lines to keep: none of steps that will be repeated.
  """

  def __init__(
    self, path: pathlib.Path, rows: Iterable[Mapping[str, Any]] = ()
  ):
    self._path = path
    text = ''.join(workdir.dump_line(row) for row in rows)
    workdir.write_atomically(path, text)
    self._file = path.open('a')

  def log(self, step: int, metrics: Metrics) -> None:
    row = {'step': step, 'time': round(time.time(), 3), **metrics}
    with workdir.naming(self._path):
      self._file.write(workdir.dump_line(row))
      self._file.flush()

  def close(self) -> None:
    with workdir.naming(self._path):
      self._file.close()


class TensorBoard:
  """Writes scalars for TensorBoard with tensorboardX (no TensorFlow).

  In this thread: tensorboardX's own would die of a full disk, and the run would
  wait for it forever.
  """

  def __init__(self, path: pathlib.Path, last_step: int):
    from tensorboardX import event_file_writer
    from tensorboardX.proto import event_pb2

    self._event = event_pb2.Event
    self._path = path
    with workdir.naming(path):
      path.mkdir(parents=True, exist_ok=True)
      self._writer = event_file_writer.EventsWriter(
        str(path / 'events'), f'.{os.getpid()}'
      )
    # TensorBoard drops what an interrupted run wrote after this step.
    started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(last_step + 1, session_log=started)

  def log(self, step: int, metrics: Metrics) -> None:
    from tensorboardX import summary

    with workdir.naming(self._path):
      for name, value in metrics.items():
        self._write(step, summary=summary.scalar(name, value))
      self._writer.flush()

  def close(self) -> None:
    with workdir.naming(self._path):
      self._writer.close()

  def _write(self, step: int, **content: Any) -> None:
    event = self._event(wall_time=time.time(), step=step, **content)
    self._writer.write_event(event)


class WeightsAndBiases:
  """Sends scalars to Weights & Biases; the user installs `wandb`.

  The file `wandb_id` in the run's folder `path` keeps the run's id, so that a
  restart continues it.
  """

  def __init__(self, path: pathlib.Path, config: Mapping[str, Any]):
    import wandb

    kept = path / 'wandb_id'
    if not kept.exists():
      workdir.write_atomically(kept, secrets.token_hex(4))
    self._run = wandb.init(
      project='nfnets',
      dir=str(path),
      config=workdir.plain(config),
      id=kept.read_text(),
      resume='allow',
    )

  def log(self, step: int, metrics: Metrics) -> None:
    self._run.log(dict(metrics), step=step)

  def close(self) -> None:
    self._run.finish()


class Console:
  """A progress bar on a terminal, one line per log elsewhere.

  Prints to `stream`, by default stdout; nothing if `quiet`, because another
  process does.
  """

  def __init__(self, num_steps: int, stream: Any = None, quiet: bool = False):
    self._num_steps = num_steps
    self._stream = stream or sys.stdout
    self._quiet = quiet
    self._bar = None

  def start(self) -> None:
    """Shows the bar, if the stream is a terminal."""
    if not self._quiet and self._stream.isatty():
      from rich import progress

      self._bar = progress.Progress(
        progress.TextColumn('step {task.completed}/{task.total}'),
        progress.BarColumn(),
        progress.TextColumn('{task.fields[metrics]}'),
        progress.TimeElapsedColumn(),
      )
      self._bar.start()
      self._task = self._bar.add_task('', total=self._num_steps, metrics='')

  def advance(self, step: int) -> None:
    if self._bar is not None:
      self._bar.update(self._task, completed=step)

  def log(self, step: int, metrics: Metrics) -> None:
    text = _format(metrics)
    if self._bar is not None and 'train/loss' in metrics:
      self._bar.update(self._task, completed=step, metrics=text)
    elif text:
      self.print(f'step {step}/{self._num_steps}  {text}')

  def print(self, text: str) -> None:
    if self._quiet:
      return
    text = '\n'.join(map(texts.printable, text.split('\n')))
    try:
      if self._bar is not None:
        self._bar.console.print(text, highlight=False, markup=False)
      else:
        print(text, file=self._stream, flush=True)
    except OSError:  # the terminal or the pipe is closed; the run goes on
      self._quiet, self._bar = True, None
      with contextlib.suppress(OSError, ValueError):  # and can exit normally
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()


def _format(metrics: Metrics) -> str:
  """The metrics of a step or an evaluation, and the speed, in one line."""
  shown = []
  for name, value in metrics.items():
    short = name.removeprefix('train/')
    if short == 'images_per_second':
      shown.append(f'{value:.4g} images/s')
    elif short == 'seconds_left':
      shown.append(f'{datetime.timedelta(seconds=int(value))} left')
    elif short.endswith(('top_1', 'top_5')):
      shown.append(f'{short} {100 * value:.2f} %')
    elif name.endswith(SILENT) or (short == 'nonfinite' and not value):
      continue
    elif name.startswith(('train/', 'eval')):
      shown.append(f'{short} {value:.4g}')
  return '  '.join(shown)
