"""A parent that outlives one of several processes and says how it ended.

When process 0 is gone, JAX aborts the others at once, from a thread of its own:
nothing in them has a word left. So each is the child of a small process without
JAX, which hands signals on and ends as its child ends; where a signal ended the
child, it takes the child's part in the watch (watch.py).
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading

from nfnets import watch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_parent: socket.socket | None = None


def stand() -> None:
  """Forks: returns in the child; the parent ends when and as that does.

  Call it before any thread starts. The child is killed with its parent, and has
  a session of its own: what a terminal sends reaches it once, by the parent.
  Exit codes are the child's; 128 + N where signal N ended it, as a shell has
  it, but `watch.EXIT_CODE` where it was aborted for another process's end.
  """
  global _parent
  handed = {n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN}
  ours, its = socket.socketpair()
  # Without a handler some systems don't keep it for sigwait.
  old_handler = signal.signal(signal.SIGCHLD, lambda *_: None)
  old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, handed | {signal.SIGCHLD})
  child = os.fork()
  if child == 0:
    ours.close()
    os.setsid()
    signal.signal(signal.SIGCHLD, old_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    _parent = its
    threading.Thread(target=_end_with_parent, args=(its,), daemon=True).start()
    return
  its.close()
  code = _follow(child, handed)
  if code >= 0:
    sys.exit(code)  # signals stay blocked: a late one must not replace it
  signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
  sys.exit(_explain(child, signal.Signals(-code), ours))


def tell(
  folder: str | os.PathLike[str], index: int, count: int, timeout: float
) -> None:
  """Lets the parent, if there is one, know what to watch in this one's place.

  The arguments are those of `watch.Watch`.
  """
  if _parent is not None:
    _parent.sendall(json.dumps([str(folder), index, count, timeout]).encode())


def _follow(child: int, handed: set[signal.Signals]) -> int:
  """Hands signals on until the child's end; its code, -N for signal N."""
  while True:
    number = signal.sigwait(handed | {signal.SIGCHLD})
    if number != signal.SIGCHLD:
      os.kill(child, number)
      continue
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
      return os.waitstatus_to_exitcode(status)


def _explain(child: int, ender: signal.Signals, told: socket.socket) -> int:
  """Tells the others and the user what ended the child; the exit code."""
  aborted = ender == signal.SIGABRT
  told.setblocking(False)
  try:
    place = json.loads(told.recv(1 << 16))
  except (BlockingIOError, ValueError):
    if aborted:
      watch.say(
        'JAX ended this process while the processes of the run met: another '
        'did not come or is gone; the lines above say more'
      )
      return watch.EXIT_CODE
    watch.say(f'{ender.name} ended this process')
    return 128 + ender
  others = watch.Watch(*place, pid=child)
  verdict = others.stand_in(ender.name, seek=aborted)
  if verdict is not None:
    watch.say(f'{verdict}; {watch.AGAIN}')
    return watch.EXIT_CODE
  hint = ' (as when memory runs out)' if ender == signal.SIGKILL else ''
  watch.say(f'{others.name}: {ender.name} ended it{hint}; {watch.AGAIN}')
  return 128 + ender


def _end_with_parent(parent: socket.socket) -> None:
  with contextlib.suppress(OSError):  # a reset, if it left something unread
    parent.recv(1)
  os.kill(os.getpid(), signal.SIGKILL)
