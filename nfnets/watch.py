"""Notices that another process of the run is gone, and ends this one.

A collective whose partner died may wait forever. So each process writes
`processes/I.json` into the run's folder every tenth of the timeout and reads
the others'. Silence is counted in looks, not by clocks, so that hosts whose
clocks differ, or a file system that stalls for all, raise no alarm.
"""

import json
import os
import pathlib
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import jax

from nfnets import results

EXIT_CODE = 69  # sysexits.h's "service unavailable": another process is gone
LOOKS = 10
# What the scripts refuse in one line; anything else gets its traceback.
EXPECTED = (ValueError, TypeError, OSError)


class Watch:
  """Within the block, a silent or failed process ends this one in time.

  Args:
    folder: the run's, shared by all.
    index, count: which of how many processes this is; alone, all is idle.
    timeout: seconds of silence that make a process missing.
    leave: ends this process at once with an exit code.

  On leaving the block by an error, the others are told, and this process ends
  with code 2 (or `EXIT_CODE`, if the error came of another's end).
  """

  def __init__(
    self,
    folder: pathlib.Path,
    index: int,
    count: int,
    timeout: float,
    leave: Callable[[int], Any] = os._exit,
  ):
    self._folder = pathlib.Path(folder) / 'processes'
    self._index, self._count, self._leave = index, count, leave
    self._interval = timeout / LOOKS
    self._timeout = timeout
    self._beat = self._looks = 0
    self._seen: dict[int, str] = {}
    self._silent = dict.fromkeys(range(count), 0)
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._run, daemon=True)
    self.step = 0  # told to the others

  def __enter__(self) -> 'Watch':
    if self._count > 1:
      self._folder.mkdir(exist_ok=True)
      self._write(None)
      self._thread.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._count == 1:
      return
    if _is_collective(error):  # it lost its partner: the thread finds whom
      enough = self._looks + LOOKS + 2
      while self._thread.is_alive() and self._looks < enough:
        time.sleep(self._interval)
    self._stop.set()
    self._thread.join()
    if error is None:
      self._write('over')
      return
    text = ' '.join(f'{type(error).__name__}: {error}'.split())
    self._write(text)
    if not isinstance(error, EXPECTED):
      traceback.print_exception(kind, error, trace)
    _say(f'process {self._index} of {self._count}: {text}')
    time.sleep(2 * self._interval)  # lets the others read it
    self._leave(2)

  def look(self) -> str | None:
    """Reads the others' files once; says who is gone, if anybody is."""
    for other in range(self._count):
      path = self._path(other)
      if other == self._index:
        continue
      text = path.read_text() if path.exists() else ''
      changed = text != self._seen.get(other, '')
      self._silent[other] = 0 if changed else self._silent[other] + 1
      self._seen[other] = text
      news = json.loads(text) if text else {}
      if news.get('ended') == 'over':
        self._silent[other] = 0
        continue
      name = f'process {other} of {self._count}'
      if news:
        name += f' ({news["host"]}, pid {news["pid"]}, at step {news["step"]})'
      if news.get('ended'):
        return f'{name} ended: {news["ended"]}'
      if self._silent[other] >= LOOKS:
        return f'{name} is missing: silent for {self._timeout:g} seconds'
    return None

  def _run(self) -> None:
    while not self._stop.wait(self._interval):
      self._looks += 1
      try:
        self._write(None)
        verdict = self.look()
      except OSError as error:  # a hiccup of the file system is no verdict
        print(f'watching the other processes: {error}', file=sys.stderr)
        continue
      if verdict:
        self._write(verdict)
        _say(
          f'{verdict}; run the same command again, on as many processes as '
          'there are, to go on from the newest checkpoint'
        )
        if self._index == 0:  # its end would abort those who still speak
          time.sleep(3 * self._interval)
        self._leave(EXIT_CODE)
        return

  def _write(self, ended: str | None) -> None:
    self._beat += 1
    news = {
      'host': socket.gethostname(),
      'pid': os.getpid(),
      'beat': self._beat,
      'step': self.step,
      'ended': ended,
    }
    results.write_atomically(self._path(self._index), json.dumps(news))

  def _path(self, index: int) -> pathlib.Path:
    return self._folder / f'{index}.json'


def _is_collective(error: BaseException | None) -> bool:
  """Whether this may come of another process's end."""
  known = isinstance(error, jax.errors.JaxRuntimeError)
  return known and 'RESOURCE_EXHAUSTED' not in str(error)


def _say(text: str) -> None:
  print(f'error: {text}', file=sys.stderr, flush=True)
  sys.stdout.flush()
