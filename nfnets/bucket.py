"""Folders and files that may be in a bucket: gs://BUCKET/... or s3://BUCKET/...

What is in a bucket is worked on in a local copy (mirror.py). There is no lock:
two runs at a time in one folder of a bucket spoil it.
"""

import contextlib
import importlib.util
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

PACKAGES = {'gs': 'gcsfs', 's3': 's3fs'}


def is_url(place: str | os.PathLike[str]) -> bool:
  """Whether a path is in a bucket.

  Raises:
    ValueError: it has another scheme.
  """
  scheme, _ = _split(place)
  if scheme and scheme not in PACKAGES:
    raise ValueError(
      f'{place}: unknown storage; give a local path, gs:// or s3://'
    )
  return bool(scheme)


def absolute(place: str | os.PathLike[str]) -> str:
  """The absolute path, or the URL in its canonical form."""
  if is_url(place):
    scheme, path = _split(place)
    return f'{scheme}://{path.rstrip("/")}'
  return str(pathlib.Path(place).expanduser().absolute())


class WorkingCopy(NamedTuple):
  """The local folder that a run works in.

  Attributes:
    path: of the folder.
    url: of the folder in a bucket that it is a copy of; '' if it is none.
    upload: uploads what has changed; None if this process doesn't upload.
  """

  path: pathlib.Path
  url: str = ''
  upload: Callable[[], None] | None = None


@contextlib.contextmanager
def working_copy(
  place: str | os.PathLike[str], uploads: bool = True, whole: bool = True
) -> Iterator[WorkingCopy]:
  """A local folder to work in within the block; a local one is used itself.

  The copy of one in a bucket is uploaded at the end if this process `uploads`,
  then removed; it is kept if that fails. Unless `whole`, it has only the run's
  JSON files, and its checkpoints as empty folders, and isn't uploaded.

  Raises:
    ValueError: the scheme is unknown, or a package is missing.
    OSError: the bucket can't be read or written.
  """
  if not is_url(place):
    yield WorkingCopy(pathlib.Path(place).expanduser())
    return
  url, (scheme, path) = absolute(place), _split(place)
  if importlib.util.find_spec(package := PACKAGES[scheme]) is None:
    raise ValueError(f'{scheme}:// needs a package: pip install {package}')
  from nfnets import mirror

  with contextlib.ExitStack() as stack:
    temporary = tempfile.mkdtemp(prefix='nfnets-')
    stack.callback(shutil.rmtree, temporary, ignore_errors=True)
    copy = mirror.Mirror(url, pathlib.Path(temporary, scheme, path))
    copy.fetch(whole)
    upload = copy.upload if uploads and whole else None
    first = None
    try:
      yield WorkingCopy(copy.path, url, upload)
    except BaseException as error:
      first = error
      raise
    finally:
      try:
        if upload:
          upload()
      except (OSError, KeyboardInterrupt) as error:
        stack.pop_all()  # the only copy of what is not in the bucket
        why = str(first or error) or f'{url}: the upload was interrupted'
        raise OSError(
          f'{why}; the newest state is in {copy.path}: go on there, with '
          f'--workdir={copy.path}'
        ) from (first or error)


@contextlib.contextmanager
def fetched(
  place: str | os.PathLike[str], whole: bool = True
) -> Iterator[pathlib.Path]:
  """The path of a file or of a run's folder, to read within the block.

  `whole` and errors are those of `working_copy`.
  """
  with working_copy(place, uploads=False, whole=whole) as copy:
    yield copy.path


def _split(place: str | os.PathLike[str]) -> tuple[str, str]:
  """The scheme and the rest of a URL; ('', place) for a local path.

  One slash counts as two: `pathlib` merges them.
  """
  found = re.match(r'([a-z][a-z0-9+.-]+):/+(.*)', str(place))
  return (found.group(1), found.group(2)) if found else ('', str(place))
