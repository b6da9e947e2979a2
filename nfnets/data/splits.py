"""The four splits of every data set, named as in the papers.

`train_and_valid` is all of the training data, `valid` its first 10,000 examples
(its first tenth where that is fewer), `train` the rest, and `test` the official
test set, which for ImageNet is the validation set. "First" refers to the order
in which TFDS shuffled the data when it wrote them; data that come sorted by
class are put into a fixed random order beforehand.
"""

from collections.abc import Sequence

import numpy as np

SPLITS = ('train', 'valid', 'train_and_valid', 'test')


def num_valid(num_train: int) -> int:
  return min(10_000, num_train // 10)  # ImageNet: the release's dataset.py


def choose(train: np.ndarray, test: np.ndarray, split: str) -> np.ndarray:
  """Returns the indices of one split, given those of both parts."""
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
