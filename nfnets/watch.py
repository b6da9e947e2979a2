"""Notices that another process of the run is gone, and ends this one.

A collective whose partner died may wait forever. So each process writes
`processes/I.json` into the run's folder every tenth of the timeout and reads
the others'. Silence is counted in looks, not by clocks, so that hosts whose
clocks differ, or a file system that stalls for all, raise no alarm.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from nfnets import workdir

EXIT_CODE = 69  # sysexits.h's "service unavailable": another process is gone
LOOKS = 10
AGAIN = (
  'run the same command again, on as many processes as there are, to go on '
  'from the newest checkpoint'
)
# What the scripts refuse in one line; anything else gets its traceback.
EXPECTED = (ValueError, TypeError, OSError)


class Agreed(ValueError):
  """A refusal that all processes raise alike: nobody needs to be told."""


class Watch:
  """Within the block, a silent or failed process ends this one in time.

  Args:
    folder: the run's, shared by all.
    index, count: which of how many processes this is; alone, all is idle.
    timeout: seconds of silence that make a process missing.
    leave: ends this process at once with an exit code.
    pid: this process's; another's if this stands in for it (guard.py).
    earlier: what an earlier run left (`left_in`), if that was read before the
      processes met: so nothing that one of this run wrote is mistaken for it.

  On leaving the block by an error that isn't `Agreed`, the others are told, and
  this process ends with code 2 (or `EXIT_CODE`, if the error came of another's
  end).
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    index: int,
    count: int,
    timeout: float,
    leave: Callable[[int], Any] = os._exit,
    pid: int | None = None,
    earlier: Mapping[int, str] | None = None,
  ):
    self._folder = pathlib.Path(folder) / 'processes'
    self._index, self._count, self._leave = index, count, leave
    self._interval = timeout / LOOKS
    self._timeout = timeout
    self._pid = pid or os.getpid()
    self._beat = self._looks = 0
    self._earlier = earlier
    self._seen: dict[int, str] = {}
    self._come: set[int] = set()  # whose file has changed since
    self._silent = dict.fromkeys(range(count), 0)
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._run, daemon=True)
    self.step = 0  # told to the others

  def __enter__(self) -> 'Watch':
    if self._count > 1:
      if self._earlier is None:
        self._earlier = left_in(self._folder.parent)
      self._seen = dict(self._earlier)
      self._tell(None)
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
    if is_collective(error):  # it lost its partner: the thread finds whom
      # The partner's parent may itself look for somebody first (guard.py).
      enough = self._looks + 2 * (LOOKS + 2)
      while self._thread.is_alive() and self._looks < enough:
        time.sleep(self._interval)
    self._stop.set()
    self._thread.join()
    if error is None or isinstance(error, Agreed):
      self._tell('over')
      return
    text = ' '.join(f'{type(error).__name__}: {error}'.split())
    self._tell(text)
    if not isinstance(error, EXPECTED):
      traceback.print_exception(kind, error, trace)
    say(f'{self.name}: {text}')
    time.sleep(2 * self._interval)  # lets the others read it
    self._leave(2)

  @property
  def name(self) -> str:
    return f'process {self._index} of {self._count}'

  def look(self) -> str | None:
    """Reads the others' files once; says who is gone, if anybody is."""
    for other in range(self._count):
      if other == self._index:
        continue
      text = self._read(other)
      if text == self._seen.get(other, ''):
        self._silent[other] += 1
      else:
        self._seen[other], self._silent[other] = text, 0
        self._come.add(other)
      name = f'process {other} of {self._count}'
      if other not in self._come:
        if self._silent[other] >= LOOKS:
          return (
            f'{name} is missing: nothing of it in {self._folder} for '
            f'{self._timeout:g} seconds'
          )
        continue
      news = json.loads(text) if text else {}
      ended = news.get('ended')
      if ended == 'over':
        self._silent[other] = 0
        continue
      if news:
        name += f' ({news["host"]}, pid {news["pid"]}, at step {news["step"]})'
      if ended and ended.startswith('process '):  # it missed somebody itself
        return ended
      if ended:
        return f'{name} ended: {ended}'
      if self._silent[other] >= LOOKS:
        return f'{name} is missing: silent for {self._timeout:g} seconds'
    return None

  def stand_in(self, ended: str, seek: bool) -> str | None:
    """Speaks for a process after its end; says who was gone before it, if any.

    Args:
      ended: what it ended by.
      seek: whether that may come of another's end: then the others are watched
        for as long as it takes to miss one, before `ended` is told.
    """
    news = json.loads(self._read(self._index) or '{}')
    self._beat, self.step = news.get('beat', 0), news.get('step', 0)
    verdict = None
    for _ in range(LOOKS + 2 if seek and self._count > 1 else 0):
      verdict = self._turn()
      if verdict:
        break
      time.sleep(self._interval)
    self._tell(verdict or ended)
    return verdict

  def _run(self) -> None:
    while not self._stop.wait(self._interval):
      verdict = self._turn()
      if verdict:
        self._tell(verdict)
        say(f'{verdict}; {AGAIN}')
        if self._index == 0:  # its end would abort those who still speak
          time.sleep(3 * self._interval)
        self._leave(EXIT_CODE)
        return

  def _turn(self) -> str | None:
    self._looks += 1
    try:
      self._write(None)
      return self.look()
    except OSError as error:  # a hiccup of the file system is no verdict
      print(f'watching the other processes: {error}', file=sys.stderr)
      return None

  def _tell(self, ended: str | None) -> None:
    """Writes if it can: a full disk must not hide what happened before."""
    with contextlib.suppress(OSError):
      self._write(ended)

  def _write(self, ended: str | None) -> None:
    self._beat += 1
    news = {
      'host': socket.gethostname(),
      'pid': self._pid,
      'beat': self._beat,
      'step': self.step,
      'ended': ended,
    }
    self._folder.mkdir(parents=True, exist_ok=True)
    workdir.write_atomically(self._path(self._index), json.dumps(news))

  def _read(self, index: int) -> str:
    path = self._path(index)
    return path.read_text() if path.exists() else ''

  def _path(self, index: int) -> pathlib.Path:
    return self._folder / f'{index}.json'


def left_in(folder: str | os.PathLike[str]) -> dict[int, str]:
  """What the processes of an earlier run wrote last, by their numbers."""
  paths = pathlib.Path(folder).glob('processes/*.json')
  return {int(p.stem): p.read_text() for p in paths if p.stem.isdecimal()}


def is_collective(error: BaseException | None) -> bool:
  """Whether this, or what it was raised from, may come of another's end."""
  import jax  # not before: who stands in for a process does without

  while error is not None:
    text = str(error)
    if isinstance(error, ValueError):  # XLA raises some of Gloo's as these
      known = 'gloo' in text.lower()
    else:
      known = isinstance(error, jax.errors.JaxRuntimeError)
    if known and 'RESOURCE_EXHAUSTED' not in text:
      return True
    error = error.__cause__
  return False


def say(text: str) -> None:
  print(f'error: {text}', file=sys.stderr, flush=True)
  sys.stdout.flush()
