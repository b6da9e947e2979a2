"""Another interpreter's subjects, asked through lines of JSON."""

import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from nfnets.bench.clock import Sample, Subject, settle


def started_by(
  python: str | None, path: pathlib.Path, *modules: str
) -> list[str]:
  """A script's command: that interpreter's, or ours if it has the modules.

  Returns:
    Words; none where no interpreter is named and ours lacks a module.
  """
  if python:
    return [python, str(path)]
  has_all = all(importlib.util.find_spec(module) for module in modules)
  return [sys.executable, str(path)] if has_all else []


class Worker:
  """A process that answers lines of JSON; a context manager.

  Args:
    command: starts it.
    job: what it is told at the start.

  Attributes:
    about: its answer to that.

  Raises:
    ValueError: it can't start; with its last word.
  """

  def __init__(self, command: Sequence[str], job: dict[str, Any]):
    self._said = tempfile.TemporaryFile('w+')  # noqa: SIM115
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._said,
      text=True,
      env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'},
    )
    try:
      self.about = self.ask(job)
    except ValueError:
      self.close()
      raise

  def ask(self, question: dict[str, Any]) -> dict[str, Any]:
    """The answer; ValueError with the process's own words if it fails."""
    try:
      self._process.stdin.write(json.dumps(question) + '\n')
      self._process.stdin.flush()
      line = self._process.stdout.readline()
    except BrokenPipeError:
      line = ''
    answer = json.loads(line) if line else {'error': self._last_word()}
    if 'error' in answer:
      raise ValueError(f'{self._process.args[-1]}: {answer["error"]}')
    return answer

  def _last_word(self) -> str:
    self._process.wait(10)
    self._said.seek(0)
    return self._said.read().strip().rpartition('\n')[2] or 'no answer'

  def __enter__(self) -> 'Worker':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.stdout.close()
    self._process.terminate()
    self._process.wait()
    self._said.close()


class Peer(Worker):
  """A process that measures another input pipeline on request.

  Args:
    command: starts it.
    files: encoded images, which it reads before its first answer.
    labels: theirs.
    job: what else it is told at the start.
  """

  def __init__(
    self,
    command: Sequence[str],
    files: Sequence[bytes],
    labels: Sequence[int],
    job: dict[str, Any],
  ):
    with tempfile.TemporaryDirectory() as folder:
      path = os.path.join(folder, 'files.npz')
      np.savez(
        path,
        content=np.frombuffer(b''.join(files), np.uint8),
        ends=np.cumsum([len(file) for file in files]),
        labels=np.asarray(labels, np.int32),
      )
      super().__init__(command, {**job, 'path': path, 'count': len(files)})

  def subject(self, name: str, threads: int) -> Subject:
    """The peer's subject of that name, on so many threads."""

    def run(seconds: float) -> Sample:
      settle()
      question = {'subject': name, 'threads': threads, 'seconds': seconds}
      return Sample(**self.ask(question))

    return run
