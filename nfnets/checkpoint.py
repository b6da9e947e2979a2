"""Saving and restoring a run's state; the only file that uses orbax.

A checkpoint holds whole arrays without a layout, so any number of devices and
processes can restore it. Only process 0 writes, with a checksum of every array.
"""

import logging
import os
import pathlib
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from nfnets import parallel
from nfnets.workdir import RunFolder

Tree = Any
# Orbax warns whenever a run is read, and logs tracebacks of what it raises.
logging.getLogger('absl').addFilter(lambda line: 'orbax' not in line.pathname)


class Checkpoints:
  """The checkpoints of one run, in `workdir/checkpoints`, until `close`.

  Args:
    workdir: the run's folder.
    keep: how many of the newest to keep.
    written: called in the background after each checkpoint; its exception is
      raised by the next `save` or `wait`.
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
      enable_async_checkpointing=False,
      multiprocessing_options=alone,
    )
    self._manager = ocp.CheckpointManager(
      self._path, options=options, item_handlers=ocp.StandardCheckpointHandler()
    )
    self._written = written
    self._thread = futures.ThreadPoolExecutor(1)
    self._writing: futures.Future | None = None
    self._report, sys.unraisablehook = sys.unraisablehook, self._unraisable

  def save(self, step: int, state: Tree) -> None:
    """Copies a replicated state to the host, then writes in the background.

    Nothing is written if the step has a checkpoint, or by processes but 0.

    Raises:
      OSError: the previous checkpoint could not be written; or as `written`.
    """
    if jax.process_index() > 0:
      return
    self.wait()
    if step not in self._manager.all_steps():
      host = parallel.to_host(state)
      self._writing = self._thread.submit(self._write, step, host)

  def restore_latest(self, like: Tree) -> Tree | None:
    """The newest intact checkpoint as NumPy arrays, or None if there is none.

    `like` is a tree of arrays or shapes: the parts of a state to restore. Newer
    checkpoints that can't be read are renamed to STEP.damaged.

    Raises:
      ValueError: there are checkpoints, but none can be read.
    """
    failures, remedy = {}, 'restore one from a copy'
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        found = self._read(step)
        remedy = f'start from its weights: --config.weights={self._path.parent}'
        state = _fill(like, found)
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
        f'no readable checkpoint; choose another --workdir, or {remedy}: '
        + '; '.join(failures.values())
      )
    return None

  def latest_step(self) -> int | None:
    """The step of the newest checkpoint."""
    return self._manager.latest_step()

  def wait(self) -> None:
    """Returns when all is on disk and `written` has returned.

    Raises:
      OSError: the checkpoint could not be written; or as `written`.
    """
    writing, self._writing = self._writing, None
    if writing is not None:
      writing.result()

  def close(self) -> None:
    self._thread.shutdown()
    self._manager.close()
    sys.unraisablehook = self._report

  def _write(self, step: int, host: Tree) -> None:
    sums = {path: _checksum(leaf) for path, leaf in _by_path(host).items()}
    args, metadata = ocp.args.StandardSave(host), {'checksums': sums}
    try:
      if not self._manager.save(step, args=args, custom_metadata=metadata):
        raise OSError(f'step {step} does not follow {self.latest_step()}')
    except Exception as error:  # orbax raises many kinds
      # From the folder: the manager may also count what it failed to write.
      saved = RunFolder(self._path.parent).saved_steps()
      left = (
        f'the newest intact one is {saved[-1]}' if saved else 'there is none'
      )
      raise OSError(
        f'a checkpoint could not be written to {self._path}: '
        f'{_why(error)}; {left}'
      ) from error
    if self._written is not None:
      self._written()

  def _read(self, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path, its checksum verified."""
    restored = self._manager.restore(step, args=ocp.args.StandardRestore())
    found = _by_path(restored)
    metadata = self._manager.metadata(step)
    if not metadata.init_timestamp_nsecs:  # all versions wrote it
      raise ValueError('its _CHECKPOINT_METADATA is missing or damaged')
    sums = (metadata.custom_metadata or {}).get('checksums')
    if sums is None:
      logging.warning(
        'checkpoint %s is from an older version, without checksums; '
        'its arrays are not verified',
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
      multihost_utils.sync_global_devices('damaged checkpoints are renamed')
    self._manager.reload()

  def _unraisable(self, error: Any) -> None:
    # After an error, orbax's other threads call a loop that has ended.
    if 'Event loop is closed' not in str(error.exc_value):
      self._report(error)


def _by_path(tree: Tree) -> dict[str, Any]:
  """A tree's leaves by path; tuples and dictionaries have equal paths."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


def _fill(like: Tree, found: dict[str, np.ndarray]) -> Tree:
  """A tree like `like`, with the arrays found at its paths."""
  wanted = _by_path(like)
  for path, leaf in wanted.items():
    if path not in found:
      raise ValueError(f'it has no {path}')
    if found[path].shape != leaf.shape:
      raise ValueError(
        f'its {path} has shape {found[path].shape}, not {leaf.shape}'
      )
  return jax.tree.unflatten(
    jax.tree.structure(like), [found[path] for path in wanted]
  )


def _checksum(leaf: np.ndarray) -> str:
  return f'{zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data):08x}'


def _why(error: Exception) -> str:
  """The operating system's message, if any, or else the error's first line.

  Without TensorStore's specification and source locations.
  """
  if found := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(found[1]))
  text = re.split(r' \[(?:tensorstore_spec|source locations)|\n', str(error))
  return f'{type(error).__name__}: {text[0] or "?":.400}'
