"""Folders and files in a bucket, gs://BUCKET/... or s3://BUCKET/..., by a copy.

Objects can be neither appended to nor renamed, so a run works in a temporary
folder of its machine ($TMPDIR), fetched at its start; process 0 uploads what
changed after each checkpoint and at the end. A kill at any moment leaves

- in the bucket, the run of the last whole upload, to go on from. A checkpoint
  counts once its object `uploaded` is there, which is written after all
  its files; what a broken upload left is never read, and removed after the
  next checkpoint;
- on the machine, the temporary folder.

There is no lock: two runs at a time in one folder spoil it.
"""

import contextlib
import importlib.util
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

PACKAGES = {'gs': 'gcsfs', 's3': 's3fs'}
UPLOADED = 'uploaded'  # an empty object beside a checkpoint's own
CHECKPOINTS = 'checkpoints/'
# What a run goes on without, and what means nothing elsewhere.
LEFT_THERE = ('tensorboard/', 'compilation_cache/', 'wandb/')
LEFT_HERE = re.compile(r'lock$|wandb/|.*\.tmp$|checkpoints/\d*[^/\d]')
TRIES = 3


def is_url(place: str | os.PathLike[str]) -> bool:
  """Whether the place is in a bucket.

  Raises:
    ValueError: it is at an address of another kind.
  """
  scheme = _split(place)[0]
  if scheme and scheme not in PACKAGES:
    raise ValueError(
      f'{place}: no storage that is known; name a local path, gs:// or s3://'
    )
  return bool(scheme)


def absolute(place: str | os.PathLike[str]) -> str:
  """The place as any working directory names it; an address, as any program."""
  if is_url(place):
    scheme, path = _split(place)
    return f'{scheme}://{path.rstrip("/")}'
  return str(pathlib.Path(place).expanduser().absolute())


class WorkingCopy(NamedTuple):
  """Where a run works.

  Attributes:
    path: the local folder.
    url: of the folder in a bucket that it is a copy of; '' if it is none.
    upload: uploads what has changed; None if this process uploads nothing.
  """

  path: pathlib.Path
  url: str = ''
  upload: Callable[[], None] | None = None


@contextlib.contextmanager
def working_copy(
  place: str | os.PathLike[str], uploads: bool = True
) -> Iterator[WorkingCopy]:
  """Within the block, a local folder to run in; uploaded at its end.

  Args:
    place: a folder; a local one is itself.
    uploads: whether this process uploads; others only fetch.

  Raises:
    ValueError: the address is unknown, or a package is missing.
    OSError: the bucket can't be read or written.
  """
  if not is_url(place):
    yield WorkingCopy(pathlib.Path(place).expanduser())
    return
  with _copy(place) as copy:
    if not uploads:
      yield WorkingCopy(copy.path, absolute(place))
      return
    try:
      yield WorkingCopy(copy.path, absolute(place), copy.upload)
    except BaseException:
      with contextlib.suppress(OSError):  # the first error counts
        copy.upload()
      raise
    copy.upload()


@contextlib.contextmanager
def fetched(place: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Within the block, a local copy of a file or of a run's folder, to read.

  Raises:
    As `working_copy`.
  """
  if not is_url(place):
    yield pathlib.Path(place).expanduser()
    return
  with _copy(place) as copy:
    yield copy.path


@contextlib.contextmanager
def _copy(url: str | os.PathLike[str]) -> Iterator['_Copy']:
  with tempfile.TemporaryDirectory(prefix='nfnets-') as temporary:
    copy = _Copy(url, pathlib.Path(temporary))
    copy.fetch()
    yield copy


class _Copy:
  """A local copy of what is at an address; `path` is where."""

  def __init__(self, url: str | os.PathLike[str], temporary: pathlib.Path):
    scheme, path = _split(url)
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
      raise ValueError(
        f'{scheme}:// needs a package: pip install {PACKAGES[scheme]}'
      )
    import fsspec

    self._url = absolute(url)
    self._fs, self._root = fsspec.core.url_to_fs(self._url)
    self.path = temporary / scheme / path
    self._known: dict[str, tuple[int, int]] = {}  # what both sides have

  def fetch(self) -> None:
    """Fetches all but torn checkpoints and `LEFT_THERE`."""
    with self._naming('read'):
      for turn in range(TRIES):
        try:
          return self._fetch()
        except FileNotFoundError:  # a run removed its old checkpoint meanwhile
          if turn == TRIES - 1:
            raise
          shutil.rmtree(self.path, ignore_errors=True)
    return None

  def upload(self) -> None:
    """Uploads what changed, in the order that a kill may break at any point."""
    with self._naming('written'):
      self._upload()

  def _fetch(self) -> None:
    remote = self._remote()
    if not remote:
      return
    if '' in remote:  # a file, no folder
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._fs.get_file(self._root, str(self.path))
      return
    self.path.mkdir(parents=True, exist_ok=True)
    if any(name.startswith(CHECKPOINTS) for name in remote):
      # Even where all are torn: the run began, and may begin again.
      (self.path / CHECKPOINTS).mkdir(exist_ok=True)
    wanted = sorted(
      name
      for name in remote
      if not name.startswith(LEFT_THERE)
      and not name.endswith('/' + UPLOADED)
      and (not (step := _step(name)) or step + UPLOADED in remote)
    )
    if wanted:
      self._fs.get(
        [f'{self._root}/{name}' for name in wanted],
        [str(self.path / name) for name in wanted],
      )
    here = self._here()
    self._known = {name: here[name] for name in wanted if name in here}

  def _upload(self) -> None:
    here = self._here()
    changed = [name for name in here if self._known.get(name) != here[name]]
    steps = sorted({step for name in changed if (step := _step(name))})
    gone = {_step(name) for name in self._known} - {
      _step(name) for name in here
    }
    if steps:  # those that are written anew don't count meanwhile
      self._remove(step + UPLOADED for step in steps)
    first, last = (
      'config.json',
      'summary.json',
    )  # whose it is; that all is there
    self._put(name for name in changed if name == first)
    if files := [name for name in changed if _step(name)]:
      self._fs.put(
        [str(self.path / name) for name in files],
        [f'{self._root}/{name}' for name in files],
      )
    others = (name for name in changed if not _step(name))
    self._put(name for name in others if name not in (first, last))
    for step in steps:
      self._fs.pipe_file(f'{self._root}/{step}{UPLOADED}', b'')
    self._put(name for name in changed if name == last)
    if steps or gone:
      self._tidy(here)
    self._known = here

  def _put(self, names: Iterable[str]) -> None:
    for name in names:  # by their bytes: the loop may append meanwhile
      self._fs.pipe_file(
        f'{self._root}/{name}', (self.path / name).read_bytes()
      )

  def _tidy(self, here: dict[str, Any]) -> None:
    """Removes checkpoints that aren't here: pruned, damaged or torn ones."""
    kept = {_step(name) for name in here}
    old = [
      name for name in self._remote() if _step(name) and _step(name) not in kept
    ]
    is_mark = lambda name: name.endswith('/' + UPLOADED)
    self._remove(sorted(old, key=is_mark, reverse=True))

  def _remove(self, names: Iterable[str]) -> None:
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        self._fs.rm_file(f'{self._root}/{name}')

  def _remote(self) -> dict[str, int]:
    """Sizes of objects by name below the root; '' is the root itself."""
    self._fs.invalidate_cache()
    found = self._fs.find(self._root, detail=True)
    return {
      name.removeprefix(self._root).lstrip('/'): info['size']
      for name, info in found.items()
      if info['type'] == 'file' and not name.endswith('/')
    }

  def _here(self) -> dict[str, tuple[int, int]]:
    """Files to upload: time of the last change and size."""
    found = {}
    for file in sorted(self.path.rglob('*')):
      name = file.relative_to(self.path).as_posix()
      if not LEFT_HERE.match(name) and file.is_file():
        state = file.stat()
        found[name] = (state.st_mtime_ns, state.st_size)
    return found

  @contextlib.contextmanager
  def _naming(self, done: str) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # each storage has its own kinds
      why = ' '.join(str(error).split()) or type(error).__name__
      raise OSError(f'{self._url} could not be {done}: {why:.300}') from error


def _step(name: str) -> str:
  """The folder of the checkpoint that a file belongs to, or ''."""
  found = re.match(rf'{CHECKPOINTS}\d+/', name)
  return found.group() if found else ''


def _split(place: str | os.PathLike[str]) -> tuple[str, str]:
  """Scheme and rest of an address; ('', place) of a local path.

  `pathlib` makes one slash of two.
  """
  found = re.match(r'([a-z][a-z0-9+.-]+):/+(.*)', str(place))
  return (found.group(1), found.group(2)) if found else ('', str(place))
