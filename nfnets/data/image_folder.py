"""Image files as a source: one folder per class, as ILSVRC2012 has them.

So are ImageNet-V2 and ReaL published, on which results are reported.
"""

import collections
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from nfnets import texts
from nfnets.data import images, sources

# Other names that people give to the two parts.
ALIASES = {'train': 'train', 'training': 'train'} | dict.fromkeys(
  ('val', 'valid', 'validation', 'test', 'testing', 'eval'), 'val'
)

SYNSETS = pathlib.Path(__file__).parents[1] / 'weights/imagenet_classes.txt'
# Sets that are only evaluated on: TFDS's name of each, and the label there;
# what the folder holds as it was published.
REPORTED = {
  'imagenet_v2': (
    'imagenet_v2/matched-frequency',
    'label',
    '0/*.jpeg to 999/*.jpeg',
  ),
  'imagenet2012_real': (
    'imagenet2012_real',
    'real_label',
    'real.json and val/<class>/*.JPEG',
  ),
}

Ignored = dict[str, list[str]]  # paths, by the reason they are ignored for


def create(root: str | None, split: str) -> sources.Listed:
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
    notes += _unused(folder) if split == 'test' else []
  classes = class_folders(train)
  if not classes:
    raise ValueError(f'{train} contains no class folders')
  if unmatched := set(class_folders(folder)) ^ set(classes):
    raise ValueError(
      f'{folder} and {train} must have the same class folders; only one of '
      f'them has {min(unmatched)!r}'
    )
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
    order, test = sources.hold_out([label for _, label in files])
  else:
    order = test = np.random.RandomState(0).permutation(len(files))
  chosen = [files[i] for i in sources.choose(order, test, split)]
  return sources.Listed(chosen, classes, '; '.join(notes + summarize(ignored)))


def _unused(test: pathlib.Path) -> list[str]:
  """Remarks on other folders beside `test` whose names say the same."""
  return [
    f'{str(test.with_name(name))!r} is ignored: {test.name}/ is the test set'
    for name in class_folders(test.parent)
    if ALIASES.get(name.lower()) == 'val' and name != test.name
  ]


def class_folders(path: pathlib.Path) -> list[str]:
  return [entry.name for entry in _visible(path) if entry.is_dir()]


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
  nested = [
    n for n in names if n.lower() in ALIASES and class_folders(root / n)
  ]
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


def reported(name: str, root: str | None) -> sources.Listed | None:
  """Opens one of `REPORTED` if the folder contains it as it was published.

  imagenet_v2: `0/*.jpeg` to `999/*.jpeg`, folders named by label (Recht et al.
    2019, arXiv:1902.10811; "matched frequency").
  imagenet2012_real: an ILSVRC2012 folder with `real.json`, a list of lists of
    classes in the order of the images' numbers, from
    ILSVRC2012_val_00000001.JPEG on (Beyer et al. 2020, arXiv:2006.07159).
  """
  base = pathlib.Path(root or '').expanduser()
  if name == 'imagenet_v2':
    return _imagenet_v2(base) if (base / '0').is_dir() else None
  return _real(base) if (base / 'real.json').is_file() else None


def _imagenet_v2(root: pathlib.Path) -> sources.Listed:
  lines = SYNSETS.read_text().splitlines()
  class_names = [line.split()[0] for line in lines if line[0] != '#']
  known = [str(label) for label in range(len(class_names))]
  present = class_folders(root)
  files, ignored = [], loose_images(root)
  for name in present:
    if name not in known:
      ignored['folder(s) that are not classes'].append(name)
      continue
    found = list_images(root / name, ignored)
    files += [(path, int(name)) for path in found]
  notes = summarize(ignored)
  if absent := sorted(set(known) - set(present)):
    notes = [f'{len(absent)} classes are absent, such as {absent[0]!r}', *notes]
  return sources.Listed(files, class_names, '; '.join(notes))


def _real(root: pathlib.Path) -> sources.Listed:
  folder = create(str(root), 'test')
  path = root / 'real.json'
  remedy = 'copy it again'
  labels = texts.parse_json(path.read_bytes(), str(path), remedy, list)
  for number, classes in enumerate(labels, 1):
    if not (isinstance(classes, list) and all(type(x) is int for x in classes)):
      raise ValueError(f'{path}: entry {number} is not a list of classes')
  files = []
  for image, _ in folder.examples:
    number = re.fullmatch(r'.*_(\d+)', pathlib.Path(image).stem)
    if not number or not 0 < int(number[1]) <= len(labels):
      raise ValueError(
        f'{image}: its name must end in a number from 1 to {len(labels)}, the '
        'entries of real.json'
      )
    files.append((image, labels[int(number[1]) - 1]))
  return sources.Listed(
    files, folder.class_names, folder.note, multi_label=True
  )
