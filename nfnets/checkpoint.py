"""Save and restore a run's state: the only file that knows orbax.

A checkpoint holds whole arrays, no layout: any number of devices and processes
reads it. Each of several processes writes its share of every array, and one of
them declares the whole complete. Of stacked states process 0 writes all.
"""

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from nfnets import parallel, stacks, watch

Tree = Any


class Checkpoints:
  """The checkpoints of one run, in `workdir/checkpoints`.

  Args:
    workdir: the run's folder.
    keep: how many of the newest stay.
    read_only: write nothing, not even the folder.
  """

  def __init__(
    self, workdir: pathlib.Path, keep: int = 2, read_only: bool = False
  ):
    self._path = pathlib.Path(workdir).absolute() / 'checkpoints'
    options = ocp.CheckpointManagerOptions(
      max_to_keep=None if read_only else keep,
      create=not read_only,
      read_only=read_only,
    )
    self._manager = ocp.CheckpointManager(self._path, options=options)
    self._damaged: list[int] = []

  def save(self, step: int, state: Tree) -> None:
    """Copies the state to the host, then writes in the background.

    Newer checkpoints that `restore_latest` couldn't read make room: orbax saves
    nothing before them.

    Args:
      step: the state's.
      state: replicated; all processes call with equal ones. Stacks of equal
        blocks are taken apart.

    Raises:
      OSError: this or the last checkpoint could not be written.
    """
    with self._naming_failures():
      while self._damaged:
        self._manager.delete(self._damaged.pop())
      if step in self._manager.all_steps():
        return
      if stacks.any_in(state):
        # Host arrays, which process 0 writes alone: slices would take as much
        # memory of the device again.
        whole = stacks.unstack(parallel.to_host(state))
      elif jax.process_count() > 1:
        whole = parallel.across_processes(state)
      else:
        whole = parallel.to_host(state)
      self._manager.save(step, args=ocp.args.StandardSave(whole))

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
        state = self._read(step, target)
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

  def _read(self, step: int, target: Tree) -> Tree:
    def read(target: Tree) -> Tree:
      args = ocp.args.StandardRestore(target)
      state = self._manager.restore(step, args=args)
      jax.tree.map_with_path(_check_shape, target, state)
      return state

    try:
      return read(target)
    except Exception:
      if getattr(target, 'ema_params', None) == {}:
        # Earlier versions kept averages with `ema.mode='none'` too.
        with contextlib.suppress(Exception):
          kept = {'ema_params': target.params, 'ema_state': target.state}
          state = read(target._replace(**kept))
          return state._replace(ema_params={}, ema_state={})
      raise

  def latest_step(self) -> int | None:
    """The newest checkpoint's step."""
    return self._manager.latest_step()

  def wait(self) -> None:
    """Returns when everything is on disk, or raises OSError."""
    with self._naming_failures():
      self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()

  @contextlib.contextmanager
  def _naming_failures(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # orbax raises many kinds
      if jax.process_count() > 1 and watch.is_collective(error):
        raise  # no fault of the disk
      with contextlib.suppress(Exception):  # an earlier one may come whole
        self._manager.wait_until_finished()
      whole = max(self._whole_steps(), default=None)
      left = f'the newest whole one is {whole}' if whole else 'there is none'
      raise OSError(
        f'a checkpoint could not be written to {self._path}: '
        f'{_first_line(error)}; {left}'
      ) from error

  def _whole_steps(self) -> list[int]:
    """Of the folder itself; the manager counts what it is still writing."""
    return (
      [int(p.name) for p in self._path.glob('*') if p.name.isdigit()]
      if self._path.exists()
      else []
    )


def _check_shape(path: tuple, wanted: np.ndarray, found: np.ndarray) -> None:
  if np.shape(found) != wanted.shape:  # orbax takes any
    raise ValueError(
      f'{jax.tree_util.keystr(path)} is {np.shape(found)} there and '
      f'{wanted.shape} here'
    )


def _first_line(error: Exception) -> str:
  return f'{type(error).__name__}: {(str(error) or "?").splitlines()[0]}'
