"""Where examples come from: a length, and an image with a label at any index.

Every source knows four splits, named as the papers use them (PAPER_FACTS 2.2):
`train_and_valid` is all training data, `valid` its first 10,000 (or its first
tenth, if that is fewer), `train` the rest, `test` the official test set
(ImageNet's validation set). `first` means first in TFDS's fixed shuffled order;
the digits and image folders, which come sorted, are put in a fixed random order
beforehand.
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from nfnets import bucket, texts
from nfnets.data import images

SPLITS = ('train', 'valid', 'train_and_valid', 'test')
PARTS = ('train', 'val', 'test')
TEST = ('val', 'test')
ALIASES = {'train': 'train', 'training': 'train'} | dict.fromkeys(
  ('val', 'valid', 'validation', 'test', 'testing', 'eval'), 'val'
)
# Sets that are only evaluated on: TFDS's name, the feature with the classes.
TESTS = {
  'imagenet_v2': ('imagenet_v2/matched-frequency', 'label'),
  'imagenet2012_real': ('imagenet2012_real', 'real_label'),
}
SYNSETS = pathlib.Path(__file__).parents[1] / 'weights/imagenet_classes.txt'


class Source(Protocol):
  """Random access to labelled images.

  `source[i]` is `{'image': file content as bytes, or uint8 [H, W, 3], 'label':
  int}`; `describe(i)` says where example `i` is, for messages. With
  `multi_label = True`, for evaluation alone, the label is a set of classes,
  bool `[num_classes]`; an empty one doesn't count.
  """

  num_classes: int
  class_names: Sequence[str]
  note: str  # what was held out or left out; '' if nothing was

  def __len__(self) -> int: ...
  def __getitem__(self, index: int) -> dict[str, Any]: ...
  def describe(self, index: int) -> str: ...


def create(
  name: str,
  split: str,
  data_dir: str | None = None,
  label: str = 'label',
) -> Source:
  """Opens `'digits'`, `'folder'`, or any prepared TFDS data set by its name.

  Args:
    name: `'digits'` (comes with scikit-learn), `'folder'` (see `Folder`), or a
      TFDS name such as `'imagenet2012:5.1.0'`, prepared as array_record;
      `'imagenet_v2'` and `'imagenet2012_real'` may also be folders (see
      `ImageNetV2`, `ReaL`).
    split: one of `SPLITS`; for TFDS also a slice such as `'train[:500]'`.
    data_dir: where the folder or the prepared TFDS data are; for TFDS,
      `$TFDS_DATA_DIR` and then `~/tensorflow_datasets` stand in for None.
    label: for TFDS, the feature that holds the class.

  Raises:
    ValueError, FileNotFoundError: naming what is wrong, where, and the remedy.
  """
  is_slice = '[' in split and name not in ('digits', 'folder')
  if split not in SPLITS and not is_slice:
    raise ValueError(f'split {split!r} is unknown; choose among {SPLITS}')
  if name == 'digits':
    return Digits(split)
  if data_dir and bucket.is_url(data_dir):
    raise ValueError(
      f'{data_dir}: data are not read from a bucket; mount it (gcsfuse, '
      's3fs-fuse) or copy them to a local disk'
    )
  if name == 'folder':
    return Folder(data_dir, split)
  if name in TESTS and split != 'test':
    raise ValueError(f'{name} is only evaluated on: by scripts.evaluate')
  root = pathlib.Path(data_dir or '').expanduser()
  if name == 'imagenet_v2' and (root / '0').is_dir():
    return ImageNetV2(root)
  if name == 'imagenet2012_real' and (root / 'real.json').is_file():
    return ReaL(root)
  name, label = TESTS.get(name, (name, label))
  return Tfds(name, split, data_dir, label)


def of(data: Any, split: str) -> Source:
  """Opens a split of what `config.data` names."""
  # Configs of earlier runs have no label.
  label = data.get('label', 'label')
  return create(data.name, split, data.data_dir, label=label)


class Digits:
  """scikit-learn's 1,797 handwritten digits, uint8 [8, 8, 3] in 0..255.

  Source: UCI optical recognition of handwritten digits (Alpaydin, Kaynak), CC
  BY 4.0. A fixed fifth of each class is the test set.
  """

  def __init__(self, split: str):
    from sklearn import datasets

    digits = datasets.load_digits()
    levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # ink 0..16
    self._images = np.repeat(levels[..., None], 3, axis=-1)
    self._labels = digits.target
    self.num_classes = 10
    self.class_names = [str(i) for i in range(10)]
    self._ids = _choose(*_hold_out(self._labels), split)
    self.note = ''

  def __len__(self) -> int:
    return len(self._ids)

  def __getitem__(self, index: int) -> dict[str, Any]:
    i = self._ids[index]
    return {'image': self._images[i], 'label': int(self._labels[i])}

  def describe(self, index: int) -> str:
    return f'digit {self._ids[index]}'


class _Files:
  """What sources of picture files share: `_files`, paths with their labels."""

  _files: list[tuple[str, int]]

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path, label = self._files[index]
    return {'image': images.read(path), 'label': label}

  def describe(self, index: int) -> str:
    return self._files[index][0]


class Folder(_Files):
  """Pictures in one folder per class; the ILSVRC2012 layout is one such.

  `root/train/<class>/...` trains, `root/val/<class>/...` or `root/test/...`
  tests. Where there is none of them, `root/<class>/...` does both: a fixed
  random fifth of each class, at least one picture, is held out to test. Classes
  are the sorted names of the folders that train, or, where only a test set is
  opened and there is nothing to train on, of those that test. `note` says what
  was held out or left out.
  """

  def __init__(self, root: str | None, split: str):
    if not root:
      raise ValueError(
        "a 'folder' source needs to know which: pass --config.data.data_dir=DIR"
      )
    base = pathlib.Path(root).expanduser()
    notes = []
    if is_flat := _is_flat(base):
      train = folder = base
      notes.append('a fixed fifth of each class is held out to test')
    else:
      folder = _existing(base, TEST if split == 'test' else ('train',))
      train = base / 'train' if (base / 'train').is_dir() else folder
    self.class_names = _classes(train)
    self.num_classes = len(self.class_names)
    if not self.class_names:
      raise ValueError(f'{train} holds no class folders')
    if odd := set(_classes(folder)) ^ set(self.class_names):
      raise ValueError(
        f'{folder} has not the classes of {train}; for instance '
        f'{min(odd)!r} is in one only'
      )
    if folder == base / 'val' and (base / 'test').is_dir():
      notes.append(f'{str(base / "test")!r} left out: val/ tests')
    files, left_out = [], Left([], [], _loose(folder))
    for label, name in enumerate(self.class_names):
      pictures, more = _pictures(folder / name)
      left_out = left_out.with_more(more)
      if len(pictures) < 1 + is_flat:
        raise ValueError(
          f'{folder / name} holds {len(pictures) or "no"} pictures '
          f'({", ".join(images.SUFFIXES)})'
          + (', too few to hold one out' if is_flat else '')
        )
      files += [(path, label) for path in pictures]
    self.note = '; '.join(notes + left_out.told())
    if is_flat:
      order, test = _hold_out([label for _, label in files])
    else:
      order = test = np.random.RandomState(0).permutation(len(files))
    self._files = [files[i] for i in _choose(order, test, split)]


class ImageNetV2(_Files):
  """ImageNet-V2 as published: `root/0/*.jpeg` to `root/999/*.jpeg`.

  Recht et al. 2019, arXiv:1902.10811; folders are labels, in ImageNet's order.
  """

  def __init__(self, root: pathlib.Path):
    lines = SYNSETS.read_text().splitlines()
    self.class_names = [line.split()[0] for line in lines if line[0] != '#']
    self.num_classes = len(self.class_names)
    self._files, left_out, absent = [], Left([], [], _loose(root)), []
    known = [str(label) for label in range(self.num_classes)]
    for label, name in sorted(enumerate(known), key=lambda pair: pair[1]):
      if not (root / name).is_dir():
        absent.append(name)
        continue
      pictures, more = _pictures(root / name)
      left_out = left_out.with_more(more)
      self._files += [(path, label) for path in pictures]
    notes = []
    if absent:
      notes.append(f'{len(absent)} classes absent, for instance {absent[0]!r}')
    if odd := sorted(set(_classes(root)) - set(known)):
      notes.append(
        f'{len(odd)} folders left out that are no classes, for instance '
        f'{odd[0]!r}'
      )
    self.note = '; '.join(notes + left_out.told())


class ReaL:
  """ImageNet's validation folder with the labels of `root/real.json`.

  Beyer et al. 2020, arXiv:2006.07159: a list of lists of classes, in the order
  of the pictures' numbers, ILSVRC2012_val_00000001.JPEG first.
  """

  multi_label = True

  def __init__(self, root: pathlib.Path):
    self._pictures = Folder(str(root), 'test')
    self._labels = _read_json(root / 'real.json', list)
    if not all(
      isinstance(labels, list) and all(type(x) is int for x in labels)
      for labels in self._labels
    ):
      raise ValueError(
        f'{root / "real.json"}: no list of lists of classes, as published'
      )
    self.class_names = self._pictures.class_names
    self.num_classes = self._pictures.num_classes
    self.note = self._pictures.note

  def __len__(self) -> int:
    return len(self._pictures)

  def __getitem__(self, index: int) -> dict[str, Any]:
    image = self._pictures[index]['image']
    number = re.fullmatch(r'.*_(\d+)', pathlib.Path(self.describe(index)).stem)
    if not number or not 0 < int(number[1]) <= len(self._labels):
      raise ValueError('its number is none of those of real.json')
    label = self._labels[int(number[1]) - 1]
    return {'image': image, 'label': _set_of(label, self.num_classes)}

  def describe(self, index: int) -> str:
    return self._pictures.describe(index)


class Tfds:
  """A data set that tensorflow_datasets prepared as array_record.

  Reads through TFDS's data source, without TensorFlow; images stay encoded.
  Never downloads: what isn't there is an error that says what to run.
  """

  def __init__(
    self,
    name: str,
    split: str,
    data_dir: str | None = None,
    label: str = 'label',
  ):
    import tensorflow_datasets as tfds

    folder = _prepared(name, data_dir)
    builder = _builder(folder)
    features = builder.info.features
    for key in ('image', label):
      if key not in features:
        raise ValueError(
          f'{name} has no feature {key!r} but {", ".join(sorted(features))}'
          + '; pass --config.data.label=NAME for the class' * (key == label)
        )
    self._label, feature = label, features[label]
    self.multi_label = hasattr(feature, 'feature')  # a sequence of classes
    if self.multi_label and split == 'test':
      feature = feature.feature
    self.num_classes = getattr(feature, 'num_classes', None)
    if self.num_classes is None:
      raise ValueError(
        f'{name}: label={label!r} is {features[label]}, not one class an image'
      )
    names = feature.names
    self.class_names = names or [str(i) for i in range(self.num_classes)]
    self.note = ''
    self._split = _tfds_split(name, builder.info.splits, split)
    self._where = f'{folder} {self._split}'
    if not builder.info.splits[self._split].num_examples:
      raise ValueError(f'{self._where} holds no examples')
    self._data = builder.as_data_source(
      split=self._split, decoders={'image': tfds.decode.SkipDecoding()}
    )
    for part in builder.info.splits[self._split].file_instructions:
      if not os.path.exists(part.filename):
        raise FileNotFoundError(
          f'{part.filename} is missing, though dataset_info.json beside it '
          'lists it; copy or prepare the data again'
        )

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> dict[str, Any]:
    try:
      example = self._data[index]
    except Exception as error:  # array_record's and protobuf's, of any kind
      raise ValueError(f'a damaged record ({error})') from error
    label = example[self._label]
    if label is None or example['image'] is None:
      raise ValueError('an empty record: its file is damaged or cut short')
    if self.multi_label:
      label = _set_of(label, self.num_classes)
    else:
      label = int(label)
    return {'image': example['image'], 'label': label}

  def describe(self, index: int) -> str:
    return f'{self._where} example {index}'


def _builder(folder: str) -> Any:
  """TFDS's, by the folder: by its name TFDS asks the network first."""
  import tensorflow_datasets as tfds

  _read_json(pathlib.Path(folder) / 'features.json', dict)
  try:
    return tfds.builder_from_directory(folder)
  except Exception as error:  # protobuf's and TFDS's, of any kind
    raise ValueError(
      f'{folder}: features.json or dataset_info.json is damaged ({error}); '
      'copy or prepare the data again'
    ) from error


def _set_of(labels: Sequence[int], num_classes: int) -> np.ndarray:
  if odd := set(labels) - set(range(num_classes)):
    raise ValueError(f'label {min(odd)} is not in 0..{num_classes - 1}')
  chosen = np.zeros(num_classes, bool)
  chosen[np.asarray(labels, int)] = True
  return chosen


def _choose(train: np.ndarray, test: np.ndarray, split: str) -> np.ndarray:
  num_valid = _num_valid(len(train))
  return {
    'train': train[num_valid:],
    'valid': train[:num_valid],
    'train_and_valid': train,
    'test': test,
  }[split]


def _num_valid(num_train: int) -> int:
  return min(10_000, num_train // 10)  # ImageNet: dataset.py:53-55


def _hold_out(labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """Indices to train on and to test on, each in a fixed random order."""
  order = np.random.RandomState(0).permutation(len(labels))
  labels = np.asarray(labels)[order]
  is_test = np.zeros(len(order), bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    is_test[members[: max(1, round(len(members) / 5))]] = True
  return order[~is_test], order[is_test]


def _is_flat(root: pathlib.Path) -> bool:
  """Whether class folders lie in the root itself."""
  if not root.is_dir():
    return False
  parts = [root / part for part in PARTS if (root / part).is_dir()]
  if any(_classes(part) for part in parts):
    return False
  for name in _classes(root):
    meant = ALIASES.get(name.lower())
    if meant and name != meant and _classes(root / name):
      raise ValueError(
        f'{root / name} holds folders, so is it no class but a split? Rename '
        f'it to {meant} (or link it: ln -s {name} {root / meant})'
      )
  return any(_pictures(root / name)[0] for name in _classes(root))


def _classes(path: pathlib.Path) -> list[str]:
  return sorted(
    p.name for p in path.iterdir() if p.is_dir() and p.name[0] != '.'
  )


class Left(NamedTuple):
  """Paths that a source leaves out, each list in order."""

  others: list[str]
  links: list[str]
  loose: list[str] = []

  def with_more(self, more: 'Left') -> 'Left':
    return Left(*(mine + theirs for mine, theirs in zip(self, more)))

  def told(self) -> list[str]:
    reasons = (
      'files left out that are no pictures by their names',
      'links left out that lead to a folder or to nothing',
      'pictures left out that lie beside the class folders',
    )
    return [
      f'{len(paths)} {reason}, for instance {paths[0]!r}'
      for paths, reason in zip(self, reasons)
      if paths
    ]


def _pictures(folder: str | pathlib.Path) -> tuple[list[str], Left]:
  """Sorted paths of a class's pictures, and of what else is in there.

  Folders within belong to the class. What is hidden (macOS's `._0.jpg` too) or
  no regular file is neither.
  """
  pictures, left_out = [], Left([], [])
  with os.scandir(folder) as entries:
    for entry in sorted(entries, key=lambda entry: entry.name):
      if entry.name[0] == '.':
        continue
      if entry.is_dir(follow_symlinks=False):
        found, more = _pictures(entry.path)
        pictures += found
        left_out = left_out.with_more(more)
      elif entry.is_file():
        is_picture = entry.name.lower().endswith(images.SUFFIXES)
        (pictures if is_picture else left_out.others).append(entry.path)
      elif entry.is_symlink():
        left_out.links.append(entry.path)
  return pictures, left_out


def _loose(folder: pathlib.Path) -> list[str]:
  with os.scandir(folder) as entries:
    return sorted(
      entry.path
      for entry in entries
      if entry.name[0] != '.'
      and entry.name.lower().endswith(images.SUFFIXES)
      and not entry.is_dir()
    )


def _existing(root: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
  for name in names:
    if (root / name).is_dir():
      return root / name
  raise FileNotFoundError(
    f'{root / names[0]} is missing: an image folder is laid out as '
    f'{root}/train/<class>/*.jpg and {root}/val/<class>/*.jpg, or without '
    f'either as {root}/<class>/*.jpg'
  )


def _prepared(name: str, data_dir: str | None) -> str:
  root = pathlib.Path(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  ).expanduser()
  base, _, version = name.partition(':')
  prepare = f'python -m scripts.prepare_data --dataset={base} --data_dir={root}'
  found = {folder.name: folder for folder in prepared_versions(root / base)}
  if not found:
    raise FileNotFoundError(f'{base} is not prepared in {root}; run {prepare}')
  version = version or next(iter(found))
  if version not in found:
    raise FileNotFoundError(
      f'{root / base} holds version {", ".join(sorted(found))}, not {version}'
    )
  formats = file_formats(found[version])
  if 'array_record' not in formats:
    raise ValueError(
      f'{found[version]} is in {formats[0]} format, which has no random '
      f'access; convert it: {prepare}'
    )
  return str(found[version])


def prepared_versions(folder: pathlib.Path) -> list[pathlib.Path]:
  """The versions that TFDS prepared in a data set's folder, newest first."""
  found = [info.parent for info in folder.glob('*/dataset_info.json')]
  found = [f for f in found if all(p.isdigit() for p in f.name.split('.'))]
  return sorted(found, key=lambda f: [int(p) for p in f.name.split('.')])[::-1]


def file_formats(version: pathlib.Path) -> list[str]:
  """What a prepared version is stored as, such as 'array_record'."""
  info = _read_json(version / 'dataset_info.json', dict)
  first = info.get('fileFormat', 'tfrecord')
  return [first, *info.get('alternativeFileFormats', [])]


def _read_json(path: pathlib.Path, kind: type) -> Any:
  remedy = 'copy or prepare the data again'
  return texts.parse_json(path.read_bytes(), str(path), remedy, kind)


def _tfds_split(name: str, splits: Any, split: str) -> str:
  if '[' in split:
    return split
  # ImageNet's TFDS split called test has no labels.
  imagenet = name.startswith('imagenet2012')
  test = 'validation' if imagenet else 'test'
  base = test if split == 'test' else 'train'
  if base not in splits:
    raise ValueError(f'{name} has no split {base!r}, only {sorted(splits)}')
  if split in ('test', 'train_and_valid'):
    return base
  num_valid = _num_valid(splits[base].num_examples)
  return f'train[:{num_valid}]' if split == 'valid' else f'train[{num_valid}:]'
