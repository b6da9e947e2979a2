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
from typing import NamedTuple

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
  with tempfile.TemporaryDirectory(prefix='nfnets-') as temporary:
    copy = _Copy(place, pathlib.Path(temporary))
    copy.fetch()
    upload = copy.upload if uploads else None
    try:
      yield WorkingCopy(copy.path, absolute(place), upload)
    except BaseException:
      with contextlib.suppress(OSError):  # the first error counts
        if upload:
          upload()
      raise
    if upload:
      upload()


@contextlib.contextmanager
def fetched(place: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Within the block, a local copy of a file or of a run's folder, to read.

  Raises:
    As `working_copy`.
  """
  with working_copy(place, uploads=False) as copy:
    yield copy.path


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
      for _ in range(TRIES):  # a run may remove its old checkpoint meanwhile
        with contextlib.suppress(FileNotFoundError):
          return self._fetch()
        shutil.rmtree(self.path, ignore_errors=True)
      return self._fetch()

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
    for step in {_step(name) for name in remote} - {''}:
      if step + UPLOADED not in remote:
        (self.path / f'{step[:-1]}.torn').mkdir(exist_ok=True)
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
    changed = {name for name in here if self._known.get(name) != here[name]}
    first, last = {'config.json'}, {'summary.json'}  # whose it is; all is there
    saved = sorted(name for name in changed if _step(name))
    marks = sorted({_step(name) + UPLOADED for name in saved})
    self._remove(marks)  # what is written anew doesn't count meanwhile
    self._put(changed & first)
    if saved:
      self._fs.put(
        [str(self.path / name) for name in saved],
        [f'{self._root}/{name}' for name in saved],
      )
    self._put(changed.difference(first, last, saved))
    for mark in marks:
      self._fs.pipe_file(f'{self._root}/{mark}', b'')
    self._put(changed & last)
    kept = {_step(name) for name in here}
    if saved or not kept.issuperset(map(_step, self._known)):
      old = [n for n in self._remote() if _step(n) not in {'', *kept}]
      self._remove(sorted(old, key=lambda name: not name.endswith(UPLOADED)))
    self._known = here

  def _put(self, names: Iterable[str]) -> None:
    for name in names:  # by their bytes: the loop may append meanwhile
      content = (self.path / name).read_bytes()
      self._fs.pipe_file(f'{self._root}/{name}', content)

  def _remove(self, names: Iterable[str]) -> None:
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        self._fs.rm_file(f'{self._root}/{name}')

  def _remote(self) -> set[str]:
    """Names of the objects below the root; '' is the root itself."""
    self._fs.invalidate_cache()
    found = self._fs.find(self._root, detail=True)
    return {
      name[len(self._root) + 1 :]
      for name, info in found.items()
      if info['type'] == 'file' and f'{name}/'.startswith(f'{self._root}/')
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
      why = ' '.join(f'{type(error).__name__}: {error}'.split())
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
