"""Small sets held wholly on the device: the host sends ids, the step gathers.

The stream and the training are those of `pipeline.train_batches`, bit for bit.
"""

from collections.abc import Iterator

import numpy as np

from nfnets.data import crops, pipeline
from nfnets.data.reader import Reader
from nfnets.data.sources import Source

MAX_BYTES = 2**31  # a copy on every device, within 32-bit offsets


def check(num_examples: int, image_size: int, crop: str, flip: bool) -> None:
  """Refuses a set that can't be held, or that the host would have to augment.

  Args:
    num_examples: M.
    image_size: side in pixels.
    crop, flip: of `pipeline.train_batches`; the step's own `augment.pad` crops
      and flips on the device.

  Raises:
    ValueError: naming the key and the remedy.
  """
  if crop != 'none' or flip:
    raise ValueError(
      'config.data.on_device=True leaves nothing to the host: set '
      f"config.data.crop='none' (not {crop!r}) and config.data.flip=False (not "
      f'{flip}); config.augment.pad crops and flips on the device'
    )
  size = num_examples * image_size**2 * 3
  if size > MAX_BYTES:
    raise ValueError(
      f'config.data.on_device=True: {num_examples} images of {image_size} x '
      f'{image_size} pixels are {size / 2**30:.1f} GiB, over '
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
    image_size: images of another size are resized, as the pipeline does.
    on_error, skipped: as for `pipeline.train_batches`.

  Returns:
    `{'images': uint8 [M, image_size, image_size, 3], 'labels': int32 [M]}`.
  """
  reader = Reader(source, False, on_error, skipped)
  shape = (len(source), image_size, image_size, 3)
  data = {
    'images': np.empty(shape, np.uint8),
    'labels': np.empty(len(source), np.int32),
  }
  for index in range(len(source)):
    _, image, label = reader.read(index)
    data['images'][index] = crops.resize(image, image_size, image_size)
    data['labels'][index] = label
  return data


def id_batches(
  length: int,
  *,
  batch_size: int,
  seed: int = 0,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Endless `{'ids': int32 [n]}` of `pipeline.train_batches`' stream.

  Args:
    length: M, of the source.
    batch_size, seed, start_step, process_index, process_count: as there.
  """
  first, size = pipeline.part(batch_size, process_index, process_count)
  order = pipeline.epoch_order(length, seed)
  start = start_step * batch_size + first
  while True:
    positions = np.arange(start, start + size)
    epochs, indices = np.divmod(positions, length)
    ids = [order(int(epoch))[index] for epoch, index in zip(epochs, indices)]
    yield {'ids': np.array(ids, np.int32)}
    start += batch_size


def joined(
  batches: list[dict[str, np.ndarray]], devices: int
) -> dict[str, np.ndarray]:
  """Batches of several steps as one that `parallel.shard` can split.

  Each device gets its part of the first batch, of the second, and so on.

  Args:
    batches: `{'ids': [n]}` of this process, one for each step.
    devices: of this process, that n is split over.
  """
  ids = np.stack([batch['ids'] for batch in batches])
  parts = ids.reshape(len(batches), devices, -1).swapaxes(0, 1)
  return {'ids': parts.reshape(-1)}
