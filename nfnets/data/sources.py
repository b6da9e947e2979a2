"""Where examples come from: digits, image folders, or data prepared by TFDS.

Every data set has the four splits of the papers. `train_and_valid` is all of
the training data, `valid` its first 10,000 examples (its first tenth where that
is fewer), `train` the rest, and `test` the official test set, which for
ImageNet is the validation set. "First" refers to the order in which TFDS
shuffled the data when it wrote them; data that come sorted by class are put
into a fixed random order beforehand.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nfnets import bucket
from nfnets.data import images

SPLITS = ('train', 'valid', 'train_and_valid', 'test')


class Source(Protocol):
  """Random access to labelled images.

  `source[i]` is `{'image': encoded bytes, or uint8 [H, W, 3], 'label': int}`;
  `describe(i)` says where example `i` is stored, for error messages. A source
  with `multi_label = True` can only be evaluated on: its label is a list of
  classes, and an example whose list is empty doesn't count.
  """

  num_classes: int
  class_names: Sequence[str]
  note: str  # what was held out or ignored; '' if nothing was

  def __len__(self) -> int: ...
  def __getitem__(self, index: int) -> dict[str, Any]: ...
  def describe(self, index: int) -> str: ...


def create(
  name: str,
  split: str,
  data_dir: str | None = None,
  label: str = 'label',
) -> Source:
  """Opens one split of a data set.

  Args:
    name: `'digits'` (part of scikit-learn), `'folder'` (see
      `image_folder.create`), `'imagenet_v2'` or `'imagenet2012_real'` (see
      `image_folder.reported`), or the TFDS name of a data set that is prepared
      as array_record, such as `'imagenet2012:5.1.0'`.
    split: one of `SPLITS`; for TFDS also a slice such as `'train[:500]'`.
    data_dir: the image folder, or the folder of prepared TFDS data; for the
      latter, None means `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
    label: the TFDS feature that holds the class.

  Raises:
    ValueError, FileNotFoundError: naming what is wrong, where, and the remedy.
  """
  if split not in SPLITS and '[' not in split:
    raise ValueError(
      f'split {split!r} is unknown; choose one of {", ".join(SPLITS)}'
    )
  if name == 'digits':
    return digits(split)
  if data_dir and bucket.is_url(data_dir):
    raise ValueError(
      f'{data_dir}: data cannot be read from a bucket; mount it (gcsfuse, '
      's3fs-fuse) or copy it to a local disk'
    )
  from nfnets.data import image_folder, prepared

  if name == 'folder':
    return image_folder.create(data_dir, split)
  if name in image_folder.REPORTED:
    if split != 'test':
      raise ValueError(
        f'{name} can only be evaluated on: use it with scripts.evaluate'
      )
    found = image_folder.reported(name, data_dir)
    if found is not None:
      return found
    name, label, _ = image_folder.REPORTED[name]
  return prepared.Tfds(name, split, data_dir, label)


def of(data: Any, split: str) -> Source:
  """Opens one split of the data set that `config.data` names."""
  # Configs of earlier runs have no label.
  label = data.get('label', 'label')
  return create(data.name, split, data.data_dir, label=label)


def notes(*parts: Source) -> list[str]:
  """What was held out or ignored, each remark once."""
  return list(dict.fromkeys(part.note for part in parts if part.note))


@dataclasses.dataclass(frozen=True)
class Listed:
  """A list of images in memory or in files, which are read when indexed.

  Attributes:
    examples: uint8 [H, W, 3] or a file's path, and a label each; with
      `multi_label`, a list of labels.
    class_names: by label.
    note, multi_label: see `Source`.
  """

  examples: Sequence[tuple[np.ndarray | str, Any]]
  class_names: Sequence[str]
  note: str = ''
  multi_label: bool = False

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  def __len__(self) -> int:
    return len(self.examples)

  def __getitem__(self, index: int) -> dict[str, Any]:
    image, label = self.examples[index]
    image = images.read(image) if isinstance(image, str) else image
    return {'image': image, 'label': label}

  def describe(self, index: int) -> str:
    image, _ = self.examples[index]
    return image if isinstance(image, str) else f'example {index}'


def digits(split: str) -> Listed:
  """scikit-learn's 1,797 handwritten digits, uint8 [8, 8, 3] in 0..255.

  Source: UCI optical recognition of handwritten digits (Alpaydin, Kaynak), CC
  BY 4.0. A fixed fifth of each class is the test set.
  """
  from sklearn import datasets

  found = datasets.load_digits()
  levels = np.rint(found.images * (255 / 16)).astype(np.uint8)  # ink 0..16
  colours = np.repeat(levels[..., None], 3, axis=-1)
  chosen = choose(*hold_out(found.target), split)
  examples = [(colours[i], int(found.target[i])) for i in chosen]
  return Listed(examples, [str(i) for i in range(10)])


def num_valid(num_train: int) -> int:
  return min(10_000, num_train // 10)  # ImageNet: the release's dataset.py


def choose(train: np.ndarray, test: np.ndarray, split: str) -> np.ndarray:
  """Returns the indices of one of `SPLITS`, given those of both parts."""
  if split not in SPLITS:
    raise ValueError(
      f'split {split!r}: only data prepared by TFDS have slices; choose one of '
      f'{", ".join(SPLITS)}'
    )
  count = num_valid(len(train))
  return {
    'train': train[count:],
    'valid': train[:count],
    'train_and_valid': train,
    'test': test,
  }[split]


def hold_out(labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """Holds out a fifth of each class, at least one example, for testing.

  Returns:
    The indices to train on and those to test on, each in a fixed random order.
  """
  order = np.random.RandomState(0).permutation(len(labels))
  labels = np.asarray(labels)[order]
  is_test = np.zeros(len(order), bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    is_test[members[: max(1, round(len(members) / 5))]] = True
  return order[~is_test], order[is_test]
