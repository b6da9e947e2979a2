"""A local copy of a folder or file in a bucket.

Objects can be neither appended to nor renamed, so a run works in a temporary
folder ($TMPDIR) that is fetched at its start; process 0 uploads what changed
after each checkpoint and at the end. After a kill at any moment

- the bucket holds the run as of the last complete upload. A checkpoint counts
  once it has an object `uploaded`, which is written after all its files; what
  an incomplete upload left is never read, and is removed after the next
  checkpoint;
- the machine holds the temporary folder.
"""

import contextlib
import pathlib
import re
import shutil
import time
from collections.abc import Iterable, Iterator

import fsspec

UPLOADED = 'uploaded'  # an empty object beside the files of a checkpoint
CHECKPOINTS = 'checkpoints/'
# Not fetched: a run doesn't need them to go on.
LEFT_THERE = ('tensorboard/', 'compilation_cache/', 'wandb/')
JSON = re.compile(r'[^/]*\.json')  # what a run is, and how it ended
# Not uploaded: of no use on another machine.
LEFT_HERE = re.compile(r'lock$|wandb/|.*\.tmp$|checkpoints/\d*[^/\d]')
TRIES = 3
PAUSES = 1.0, 2.0, 4.0  # seconds between tries of an upload


class Mirror:
  """A local copy, at `path`, of the file or folder at `url`."""

  def __init__(self, url: str, path: pathlib.Path):
    self.path = path
    self._url = url
    self._fs, self._root = fsspec.core.url_to_fs(url)
    self._known: dict[str, tuple[int, int]] = {}  # files that both sides have

  def fetch(self, whole: bool = True) -> None:
    """Fetches everything but incomplete checkpoints and `LEFT_THERE`.

    Unless `whole`, only the JSON files, and checkpoints as empty folders.
    """
    with self._naming('read'):
      for _ in range(TRIES):  # the run may delete an old checkpoint meanwhile
        with contextlib.suppress(FileNotFoundError):
          return self._fetch(whole)
        shutil.rmtree(self.path, ignore_errors=True)
      return self._fetch(whole)

  def _fetch(self, whole: bool) -> None:
    remote = self._remote()
    if not remote:
      return
    if '' in remote:  # a file, not a folder
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._fs.get_file(self._root, str(self.path))
      return
    self.path.mkdir(parents=True, exist_ok=True)
    if any(name.startswith(CHECKPOINTS) for name in remote):
      # Even if all are incomplete: it tells that the run began.
      (self.path / CHECKPOINTS).mkdir(exist_ok=True)
    for step in {_step(name) for name in remote} - {''}:
      ending = '' if step + UPLOADED in remote else '.torn'
      (self.path / f'{step[:-1]}{ending}').mkdir(exist_ok=True)
    wanted = sorted(
      name
      for name in remote
      if (whole or JSON.fullmatch(name))
      and not name.startswith(LEFT_THERE)
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

  def upload(self) -> None:
    """Uploads what changed, in an order that a kill may break anywhere."""
    with self._naming('written'):
      for pause in PAUSES:
        with contextlib.suppress(Exception):  # each storage raises its own
          return self._upload()
        time.sleep(pause)
      return self._upload()

  def _upload(self) -> None:
    here = self._here()
    changed = {name for name in here if self._known.get(name) != here[name]}
    first, last = {'config.json'}, {'summary.json'}
    saved = sorted(name for name in changed if _step(name))
    marks = sorted({_step(name) + UPLOADED for name in saved})
    self._remove(marks)  # a checkpoint being replaced doesn't count
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
    for aside in (self.path / CHECKPOINTS).glob('*.damaged'):
      kept.add(f'{CHECKPOINTS}{aside.stem}/')  # it may be intact in the bucket
    if saved or not kept.issuperset(map(_step, self._known)):
      old = [n for n in self._remote() if _step(n) not in {'', *kept}]
      self._remove(sorted(old, key=lambda name: not name.endswith(UPLOADED)))
    self._known = here

  def _put(self, names: Iterable[str]) -> None:
    for name in names:  # as bytes: the run may append to the file meanwhile
      content = (self.path / name).read_bytes()
      self._fs.pipe_file(f'{self._root}/{name}', content)

  def _remove(self, names: Iterable[str]) -> None:
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        self._fs.rm_file(f'{self._root}/{name}')

  def _remote(self) -> set[str]:
    """Names of the objects below the root; '' is the root itself.

    Without the empty objects 'folder/' that storage consoles make.
    """
    self._fs.invalidate_cache()
    found = self._fs.find(self._root, detail=True)
    return {
      name[len(self._root) + 1 :]
      for name, info in found.items()
      if info['type'] == 'file'
      and not name.endswith('/')
      and f'{name}/'.startswith(f'{self._root}/')
    }

  def _here(self) -> dict[str, tuple[int, int]]:
    """Local files to upload, with time of change and size."""
    found = {}
    for file in sorted(self.path.rglob('*')):
      name = file.relative_to(self.path).as_posix()
      if not LEFT_HERE.match(name) and file.is_file():
        state = file.stat()
        found[name] = (state.st_mtime_ns, state.st_size)
    return found

  @contextlib.contextmanager
  def _naming(self, action: str) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # each storage raises its own kinds
      why = ' '.join(f'{type(error).__name__}: {error}'.split())
      raise OSError(f'{self._url} could not be {action}: {why:.300}') from error


def _step(name: str) -> str:
  """The folder of the checkpoint that a file belongs to, or ''."""
  found = re.match(rf'{CHECKPOINTS}\d+/', name)
  return found.group() if found else ''
