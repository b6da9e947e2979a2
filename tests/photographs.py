"""Photographs for tests: scikit-learn's two, and Caltech-101's if there."""

import functools
import io
import pathlib
import tarfile

import numpy as np
from PIL import Image
from sklearn import datasets

ARCHIVE = (
  pathlib.Path(__file__).parents[1] / '../shared/data/caltech101_3060.tar'
)


@functools.cache
def load(count: int = 2) -> list[Image.Image]:
  """Up to `count` RGB photographs; two at least."""
  found = [
    Image.fromarray(datasets.load_sample_image(name))
    for name in ('china.jpg', 'flower.jpg')
  ]
  if ARCHIVE.exists() and count > 2:
    with tarfile.open(ARCHIVE) as tar:
      for member in tar:
        if len(found) == count:
          break
        if member.name.endswith('.jpg'):
          data = io.BytesIO(tar.extractfile(member).read())
          found.append(Image.open(data).convert('RGB'))
  return found


def batch(n: int, height: int, width: int) -> np.ndarray:
  """[n, height, width, 3] uint8: photographs, resized, repeated as needed."""
  photos = load(min(n, 8))
  resized = [np.asarray(p.resize((width, height))) for p in photos]
  return np.stack([resized[i % len(resized)] for i in range(n)])
