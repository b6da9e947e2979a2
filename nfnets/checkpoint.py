"""Save and restore a run's state: the only file that knows orbax.

A checkpoint holds whole arrays, no layout: any number of devices and processes
reads it. Process 0 alone writes it, with a checksum of every array.
"""

import contextlib
import logging
import os
import pathlib
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from nfnets import parallel

Tree = Any
# It warns whenever a run is read, and prints the traceback of what it raises.
logging.getLogger('absl').addFilter(lambda line: 'orbax' not in line.pathname)
# After a failure its other reads and writes call back into a loop that ended.
_shown = sys.unraisablehook
sys.unraisablehook = lambda unraisable: (
  'Event loop is closed' in str(unraisable.exc_value) or _shown(unraisable)
)


class Checkpoints:
  """The checkpoints of one run, in `workdir/checkpoints`.

  Args:
    workdir: the run's folder.
    keep: how many of the newest stay.
    written: called in the background after each checkpoint; what it raises, the
      next `save` or `wait` raises.
    read_only: write nothing, not even the folder.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    keep: int = 2,
    written: Callable[[], None] | None = None,
    read_only: bool = False,
  ):
    self._path = pathlib.Path(workdir).absolute() / 'checkpoints'
    self._read_only = read_only
    if not read_only:
      self._path.mkdir(parents=True, exist_ok=True)
    me = jax.process_index()  # each process has a manager of its own
    alone = ocp.options.MultiprocessingOptions(
      primary_host=me, active_processes={me}
    )
    options = ocp.CheckpointManagerOptions(
      max_to_keep=None if read_only else keep,
      create=False,
      read_only=read_only,
      multiprocessing_options=alone,
    )
    self._manager = ocp.CheckpointManager(
      self._path, options=options, item_handlers=ocp.StandardCheckpointHandler()
    )
    self._written = written
    self._thread = futures.ThreadPoolExecutor(1)
    self._background: futures.Future | None = None

  def save(self, step: int, state: Tree) -> None:
    """Copies the state to the host, then writes in the background.

    Args:
      step: the state's; nothing is written if its checkpoint is there.
      state: replicated; processes other than 0 write nothing.

    Raises:
      OSError: this or the last checkpoint could not be written.
    """
    if jax.process_index() > 0:
      return
    with self._naming_failures():
      if step in self._manager.all_steps():
        return
      self._wait()
      host = parallel.to_host(state)
      sums = {path: _checksum(leaf) for path, leaf in _by_path(host).items()}
      args = ocp.args.StandardSave(host)
      metadata = {'checksums': sums}
      if not self._manager.save(step, args=args, custom_metadata=metadata):
        raise OSError(f'step {step} does not follow {self.latest_step()}')
      if self._written is not None:
        self._background = self._thread.submit(self._call_written)

  def restore_latest(self, like: Tree) -> Tree | None:
    """The newest whole checkpoint as NumPy arrays; None where none is.

    Newer ones that can't be read are moved aside, to STEP.damaged.

    Args:
      like: a tree of arrays or shapes, of the parts of a state that are wanted.

    Raises:
      ValueError: there are checkpoints and none can be read.
    """
    failures = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        state = _fill(like, self._read(step))
      except Exception as error:  # orbax raises many kinds
        failures[step] = f'{self._path / str(step)}: {_why(error)}'
        continue
      for why in failures.values():
        logging.warning('checkpoint skipped: %s', why)
      if failures and not self._read_only:
        self._move_aside(failures)
      return state
    if failures:
      raise ValueError(
        'no readable checkpoint; choose another --workdir, or start from its '
        f'weights with --config.weights={self._path.parent}: '
        + '; '.join(failures.values())
      )
    return None

  def latest_step(self) -> int | None:
    """The newest checkpoint's step."""
    return self._manager.latest_step()

  def wait(self) -> None:
    """Returns when everything is on disk, or raises OSError."""
    with self._naming_failures():
      self._wait()

  def close(self) -> None:
    self._thread.shutdown()
    self._manager.close()

  def _call_written(self) -> None:
    self._manager.wait_until_finished()
    self._written()

  def _wait(self) -> None:
    if self._background is not None:
      background, self._background = self._background, None
      background.result()
    self._manager.wait_until_finished()

  def _read(self, step: int) -> dict[str, np.ndarray]:
    """Every array by its path, as it was written."""
    restored = self._manager.restore(step, args=ocp.args.StandardRestore())
    found = _by_path(restored)
    told = self._manager.metadata(step)
    if not told.init_timestamp_nsecs:  # every version of ours wrote it
      raise ValueError('its _CHECKPOINT_METADATA is missing or damaged')
    sums = (told.custom_metadata or {}).get('checksums')
    if sums is None:
      logging.warning(
        'checkpoint %s: of an older version, without checksums; not checked',
        self._path / str(step),
      )
    elif sums.keys() != found.keys():
      raise ValueError('its checksums are not those of its arrays')
    for path in sums or ():
      if sums[path] != _checksum(found[path]):
        raise ValueError(f'{path} is damaged')
    if 'step' in found and int(found['step']) != step:
      raise ValueError(f'it holds step {int(found["step"])}')
    return found

  def _move_aside(self, steps: Iterable[int]) -> None:
    if jax.process_index() == 0:
      for step in steps:
        aside = self._path / f'{step}.damaged'
        shutil.rmtree(aside, ignore_errors=True)
        (self._path / str(step)).rename(aside)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('damaged checkpoints are moved')
    self._manager.reload()

  @contextlib.contextmanager
  def _naming_failures(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # orbax raises many kinds
      with contextlib.suppress(Exception):  # an earlier one may come whole
        self._manager.wait_until_finished()
      # Of the folder itself; the manager counts what it is still writing.
      names = [path.name for path in self._path.glob('*')]
      whole = max((int(n) for n in names if n.isdecimal()), default=None)
      left = f'the newest whole one is {whole}' if whole else 'there is none'
      raise OSError(
        f'a checkpoint could not be written to {self._path}: '
        f'{_why(error)}; {left}'
      ) from error


def _by_path(tree: Tree) -> dict[str, Any]:
  """A tree's leaves by their paths, equal for tuples and dictionaries."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


def _fill(like: Tree, found: dict[str, np.ndarray]) -> Tree:
  """The tree with the arrays that were found at its paths."""
  wanted = _by_path(like)
  for path, leaf in wanted.items():
    if path not in found:
      raise ValueError(f'{path} is not there')
    if found[path].shape != leaf.shape:
      raise ValueError(
        f'{path} is {found[path].shape} there and {leaf.shape} here'
      )
  return jax.tree.unflatten(
    jax.tree.structure(like), [found[path] for path in wanted]
  )


def _checksum(leaf: np.ndarray) -> str:
  return f'{zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data):08x}'


def _why(error: Exception) -> str:
  """The system's own words, if there are any, or else the first line.

  Without TensorStore's specification, and its places in the source.
  """
  if found := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(found[1]))
  told = re.split(r' \[(?:tensorstore_spec|source locations)|\n', str(error))
  return f'{type(error).__name__}: {told[0] or "?":.400}'
