"""Where examples come from: digits, image folders, or data prepared by TFDS."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nfnets import bucket
from nfnets.data import splits
from nfnets.data.splits import SPLITS


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
      `reported_sets`), or the TFDS name of a data set that is prepared as
      array_record, such as `'imagenet2012:5.1.0'`.
    split: one of `SPLITS`; for TFDS also a slice such as `'train[:500]'`.
    data_dir: the image folder, or the folder of prepared TFDS data; for the
      latter, None means `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
    label: the TFDS feature that holds the class.

  Raises:
    ValueError, FileNotFoundError: naming what is wrong, where, and the remedy.
  """
  is_slice = '[' in split and name not in ('digits', 'folder')
  if split not in SPLITS and not is_slice:
    raise ValueError(
      f'split {split!r} is unknown; choose one of {", ".join(SPLITS)}'
    )
  if name == 'digits':
    return Digits(split)
  if data_dir and bucket.is_url(data_dir):
    raise ValueError(
      f'{data_dir}: data cannot be read from a bucket; mount it (gcsfuse, '
      's3fs-fuse) or copy it to a local disk'
    )
  if name == 'folder':
    from nfnets.data import image_folder

    return image_folder.create(data_dir, split)
  if name in ('imagenet_v2', 'imagenet2012_real'):
    from nfnets.data import reported_sets

    return reported_sets.create(name, split, data_dir)
  from nfnets.data import prepared

  return prepared.Tfds(name, split, data_dir, label)


def of(data: Any, split: str) -> Source:
  """Opens one split of the data set that `config.data` names."""
  # Configs of earlier runs have no label.
  label = data.get('label', 'label')
  return create(data.name, split, data.data_dir, label=label)


def notes(*parts: Source) -> list[str]:
  """What was held out or ignored, each remark once."""
  return list(dict.fromkeys(part.note for part in parts if part.note))


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
    self._ids = splits.choose(*splits.hold_out(self._labels), split)
    self.note = ''

  def __len__(self) -> int:
    return len(self._ids)

  def __getitem__(self, index: int) -> dict[str, Any]:
    i = self._ids[index]
    return {'image': self._images[i], 'label': int(self._labels[i])}

  def describe(self, index: int) -> str:
    return f'digit {self._ids[index]}'
