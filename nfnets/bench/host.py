"""The host's side of the input as subjects: stages, and pipelines."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
from ml_collections import ConfigDict

from nfnets.bench import clock, verdict
from nfnets.data import pipeline, sources
from nfnets.data.images import Scratch, decode

BATCH = 128
CHUNK = 16  # examples between two looks at the clock
QUALITY = 90  # of photographs that are encoded anew


class Held:
  """Some examples of a source in memory: itself a source.

  Args:
    source: where they come from.
    count: how many, at most.
    photo_size: (height, width) in pixels to which pictures are brought and
      encoded anew; (0, 0) leaves them as they are.
    on_error: 'raise', or 'skip': unreadable ones are left out.

  Attributes:
    ids: theirs in the source.
    files: their encoded images, or the images.
    shapes: [n, 2] their heights and widths.
  """

  def __init__(
    self,
    source: sources.Source,
    count: int,
    photo_size: tuple[int, int] = (0, 0),
    on_error: str = 'raise',
  ):
    self.num_classes, self.class_names = source.num_classes, source.class_names
    self.ids, self.files, self.labels, shapes = [], [], [], []
    order = np.random.RandomState(0).permutation(len(source))
    for i in map(int, order[:count]):
      try:
        example = source[i]
        image = decode(example['image'])
      except (OSError, ValueError) as error:
        if on_error == 'raise':
          raise ValueError(f'{source.describe(i)}: {error}') from error
        continue
      data = example['image']
      if all(photo_size):
        height, width = photo_size
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        data = simplejpeg.encode_jpeg(image, QUALITY, colorsubsampling='420')
      self.ids.append(i)
      self.files.append(data)
      self.labels.append(example['label'])
      shapes.append(image.shape[:2])
    if not self.ids:
      raise ValueError('none of the examples could be read')
    self.shapes = np.array(shapes)
    self.is_resized = all(photo_size)

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {'image': self.files[index], 'label': self.labels[index]}

  def describe(self, index: int) -> str:
    return f'held example {index}'


def stages(
  config: ConfigDict, source: sources.Source, held: Held
) -> dict[str, clock.Subject]:
  """Reading, decoding and cropping, each alone, in the caller's thread."""
  scratch = Scratch()
  images = [decode(file) for file in held.files[:BATCH]]
  crop = pipeline.host_augmentation(
    config.data.crop, config.data.flip, config.data.train_image_size, 0
  )
  position = itertools.count()
  found = {
    'host: decode': _each(lambda data: decode(data, scratch), held.files),
    'host: crop, flip, resize': _each(
      lambda image: crop(image, next(position)), images
    ),
  }
  if held.is_resized:
    return found
  return {'host: read': _each(lambda i: source[i], held.ids), **found}


def _each(
  function: Callable[[Any], Any], items: Sequence[Any]
) -> clock.Subject:
  turn = itertools.cycle(items)

  def work() -> int:
    for item in itertools.islice(turn, CHUNK):
      function(item)
    return CHUNK

  return clock.subject(work)


def pipelines(
  config: ConfigDict, source: sources.Source, held: Held
) -> dict[str, clock.Subject]:
  """`pipeline.train_batches` from the source and from memory.

  With `data.cache` all is decoded before; on one thread and on the config's.
  """
  if config.data.on_device:
    batches = pipeline.id_batches(len(source), batch_size=BATCH)
    work = lambda: len(next(batches)['ids'])
    return {verdict.host(0): clock.subject(work)}
  in_memory = config.data.cache or held.is_resized
  subjects = {}
  for threads in sorted({1, config.data.num_threads}):
    subjects[verdict.held(threads)] = _pipeline(config, held, threads)
    if not in_memory:
      subjects[verdict.host(threads)] = _pipeline(config, source, threads)
  return subjects


def _pipeline(
  config: ConfigDict, source: sources.Source, threads: int
) -> clock.Subject:
  batches = pipeline.train_batches(
    source,
    batch_size=BATCH,
    image_size=config.data.train_image_size,
    crop=config.data.crop,
    flip=config.data.flip,
    num_threads=threads,
    cache=config.data.cache,
    on_error=config.data.on_error,
  )
  if config.data.cache:
    for _ in range(1 + len(source) // BATCH):
      next(batches)
  return clock.subject(lambda: len(next(batches)['labels']))
