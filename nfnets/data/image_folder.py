"""Image files as a source: one folder per class, as ILSVRC2012 has them."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from nfnets.data import images, splits

# Other names that people give to the two parts.
ALIASES = {'train': 'train', 'training': 'train'} | dict.fromkeys(
  ('val', 'valid', 'validation', 'test', 'testing', 'eval'), 'val'
)

Ignored = dict[str, list[str]]  # paths, by the reason they are ignored for


@dataclasses.dataclass(frozen=True)
class Files:
  """Image files, each read when it is indexed.

  Attributes:
    files: a path and a label each; with `multi_label`, a list of labels.
    class_names: by label.
    note: what was held out or ignored; '' if nothing was.
    multi_label: whether an example has several labels (see `sources.Source`).
  """

  files: Sequence[tuple[str, Any]]
  class_names: Sequence[str]
  note: str
  multi_label: bool = False

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path, label = self.files[index]
    return {'image': images.read(path), 'label': label}

  def describe(self, index: int) -> str:
    return self.files[index][0]


def create(root: str | None, split: str) -> Files:
  """Opens one split of a folder that holds one folder of images per class.

  `root/train/<class>/...` is the training data, and `root/val/<class>/...` or
  else `root/test/...` the test set. A root without these, `root/<class>/...`,
  holds both: a fixed random fifth of each class, at least one image, is held
  out for testing. The classes are the sorted names of the training folders; a
  test set without training data names its own.
  """
  if not root:
    raise ValueError(
      "config.data.name='folder' needs to know which: pass "
      '--config.data.data_dir=DIR'
    )
  base = pathlib.Path(root).expanduser()
  notes = []
  if is_flat := _is_flat(base):
    train = folder = base
    notes.append('a fixed fifth of each class is held out for testing')
  else:
    folder = _existing(base, ('val', 'test') if split == 'test' else ('train',))
    train = base / 'train' if (base / 'train').is_dir() else folder
  classes = class_folders(train)
  if not classes:
    raise ValueError(f'{train} contains no class folders')
  if unmatched := set(class_folders(folder)) ^ set(classes):
    raise ValueError(
      f'{folder} and {train} must have the same class folders; only one of '
      f'them has {min(unmatched)!r}'
    )
  if folder == base / 'val' and (base / 'test').is_dir():
    notes.append(f'{str(base / "test")!r} is ignored: val/ is the test set')
  files, ignored = [], loose_images(folder)
  for label, name in enumerate(classes):
    found = list_images(folder / name, ignored)
    if len(found) < 1 + is_flat:
      raise ValueError(
        f'{folder / name} contains {len(found) or "no"} image '
        f'({", ".join(images.SUFFIXES)})'
        + (', too few to hold one out' if is_flat else '')
      )
    files += [(path, label) for path in found]
  if is_flat:
    order, test = splits.hold_out([label for _, label in files])
  else:
    order = test = np.random.RandomState(0).permutation(len(files))
  chosen = [files[i] for i in splits.choose(order, test, split)]
  return Files(chosen, classes, '; '.join(notes + summarize(ignored)))


def class_folders(path: pathlib.Path) -> list[str]:
  return sorted(
    p.name for p in path.iterdir() if p.is_dir() and p.name[0] != '.'
  )


def list_images(folder: str | pathlib.Path, ignored: Ignored) -> list[str]:
  """Returns a class's image files, sorted; nested folders belong to the class.

  Hidden entries (macOS's `._0.jpg`, for instance), pipes and devices are passed
  over in silence; what else isn't an image is added to `ignored`.
  """
  found = []
  for entry in _visible(folder):
    if entry.is_dir(follow_symlinks=False):
      found += list_images(entry.path, ignored)
    elif entry.is_file():
      if entry.name.lower().endswith(images.SUFFIXES):
        found.append(entry.path)
      else:
        ignored['file(s) without an image suffix'].append(entry.path)
    elif entry.is_symlink():
      ignored['link(s) to a folder or to nothing'].append(entry.path)
  return found


def loose_images(folder: pathlib.Path) -> Ignored:
  """Returns the images beside the class folders, which have no class."""
  ignored = collections.defaultdict(list)
  for entry in _visible(folder):
    if entry.name.lower().endswith(images.SUFFIXES) and not entry.is_dir():
      ignored['image(s) outside the class folders'].append(entry.path)
  return ignored


def summarize(ignored: Ignored) -> list[str]:
  return [
    f'ignored {len(paths)} {reason}, such as {paths[0]!r}'
    for reason, paths in ignored.items()
  ]


def _visible(folder: str | pathlib.Path) -> list[os.DirEntry]:
  with os.scandir(folder) as entries:
    visible = [entry for entry in entries if entry.name[0] != '.']
  return sorted(visible, key=lambda entry: entry.name)


def _is_flat(root: pathlib.Path) -> bool:
  """Whether the class folders lie in the root itself."""
  if not root.is_dir():
    return False
  names = class_folders(root)
  parts = [name for name in names if name.lower() in ALIASES]
  nested = [name for name in parts if class_folders(root / name)]
  if {'train', 'val', 'test'} & set(nested):
    return False
  for name in nested:
    part = ALIASES[name.lower()]
    raise ValueError(
      f'{root / name} contains folders, so it looks like a split, not a '
      f'class: rename it to {part} (or link it: ln -s {name} {root / part})'
    )
  ignored = collections.defaultdict(list)
  return any(list_images(root / name, ignored) for name in names)


def _existing(root: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
  for name in names:
    if (root / name).is_dir():
      return root / name
  what = f'{root / names[0]} is missing'
  if not root.is_dir():
    what = f'{root} {"is not a folder" if root.exists() else "does not exist"}'
  raise FileNotFoundError(
    f'{what}: an image folder is laid out as '
    f'{root}/train/<class>/*.jpg and {root}/val/<class>/*.jpg, or without '
    f'either as {root}/<class>/*.jpg'
  )
