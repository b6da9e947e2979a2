"""Small data sets held on the device: the host sends ids, the step gathers.

The stream is that of `pipeline.train_batches`, bit for bit.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from nfnets.data import images, pipeline
from nfnets.data.sources import Source

MAX_BYTES = 2**31  # on every device; offsets stay within 32 bits


def check(num_examples: int, image_size: int, crop: str, flip: bool) -> None:
  """Refuses data that don't fit, or that the host would have to augment.

  Args:
    num_examples: M.
    image_size: pixels a side.
    crop, flip: of `pipeline.train_batches`.

  Raises:
    ValueError: naming the key and the remedy.
  """
  if crop != 'none' or flip:
    raise ValueError(
      'config.data.on_device=True: the host cannot augment; set '
      f"config.data.crop='none' (not {crop!r}) and config.data.flip=False (not "
      f'{flip}); config.augment.pad crops and flips on the device'
    )
  size = num_examples * image_size**2 * 3
  if size > MAX_BYTES:
    raise ValueError(
      f'config.data.on_device=True: {num_examples} images of {image_size} x '
      f'{image_size} pixels are {size / 2**30:.1f} GiB, over the limit of '
      f'{MAX_BYTES / 2**30:.0f}: set config.data.on_device=False'
    )


def load(
  source: Source,
  image_size: int,
  on_error: str = 'raise',
  skipped: dict[str, str] | None = None,
) -> dict[str, np.ndarray]:
  """Decodes a whole source into host memory.

  Args:
    source: M examples.
    image_size: pixels a side; other images are resized, as in the pipeline.
    on_error, skipped: of `pipeline.train_batches`.

  Returns:
    `{'images': uint8 [M, image_size, image_size, 3], 'labels': int32 [M]}`.
  """
  reader = pipeline.Reader(source, False, on_error, skipped)

  def load_one(index: int) -> pipeline.Example:
    image, label, _ = reader.read(index)
    return images.resize(image, image_size, image_size), label, index

  length = len(source)
  place = 0, length
  (batch,) = pipeline.batches(load_one, length, place, 0, 1, num_threads=2)
  return {name: batch[name] for name in ('images', 'labels')}


def id_batches(
  length: int,
  *,
  batch_size: int,
  seed: int = 0,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Endless `{'ids': int32 [n]}` of the stream of `pipeline.train_batches`.

  Args:
    length: M, of the source.
    batch_size, seed, start_step, process_index, process_count: as there.
  """
  first, size = pipeline.part(batch_size, process_index, process_count)
  index_at = pipeline.example_order(length, seed)
  for step in itertools.count(start_step):
    start = step * batch_size + first
    ids = [index_at(position) for position in range(start, start + size)]
    yield {'ids': np.array(ids, np.int32)}
