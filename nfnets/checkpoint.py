"""Save and restore a run's state: the only file that knows orbax.

A checkpoint holds whole host arrays, no layout: any number of devices and
processes reads it.
"""

import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from nfnets import parallel

Tree = Any


class Checkpoints:
  """The checkpoints of one run, in `workdir/checkpoints`.

  Args:
    workdir: the run's folder.
    keep: how many of the newest stay.
  """

  def __init__(self, workdir: pathlib.Path, keep: int = 2):
    self._path = pathlib.Path(workdir).absolute() / 'checkpoints'
    self._manager = ocp.CheckpointManager(
      self._path,
      options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
    )
    self._damaged: list[int] = []

  def save(self, step: int, state: Tree) -> None:
    """Copies the state to the host, then writes in the background.

    Newer checkpoints that `restore_latest` couldn't read make room: orbax saves
    nothing before them.
    """
    while self._damaged:
      self._manager.delete(self._damaged.pop())
    if step in self._manager.all_steps():
      return
    host = parallel.to_host(state)
    self._manager.save(step, args=ocp.args.StandardSave(host))

  def restore_latest(self, like: Tree) -> Tree | None:
    """The newest whole checkpoint as NumPy arrays; None where none is.

    Args:
      like: a tree of arrays or shapes that the checkpoint must equal.

    Raises:
      ValueError: there are checkpoints and none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
    failures = []
    for step in steps:
      try:
        state = self._manager.restore(
          step, args=ocp.args.StandardRestore(target)
        )
        self._damaged = steps[: steps.index(step)]
        return state
      except Exception as error:  # orbax raises many kinds
        failures.append(f'{self._path / str(step)}: {_first_line(error)}')
        logging.warning('checkpoint skipped: %s', failures[-1])
    if failures:
      raise ValueError(
        'no readable checkpoint; remove them or choose another workdir: '
        + '; '.join(failures)
      )
    return None

  def latest_step(self) -> int | None:
    """The newest checkpoint's step."""
    return self._manager.latest_step()

  def wait(self) -> None:
    """Returns when everything is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


def _first_line(error: Exception) -> str:
  return f'{type(error).__name__}: {(str(error) or "?").splitlines()[0]}'
