"""Examples to host batches: order, decoding, crop, flip, resize, prefetch.

The training stream is endless: position `step * batch_size + i` of it holds one
example, each epoch is one permutation of the source, and batches run across the
epochs' borders. Order and augmentation are functions of (seed, position) alone,
so resuming costs nothing, and neither threads nor processes change the stream.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from absl import logging

from nfnets import texts
from nfnets.data import images
from nfnets.data.sources import Source

Batch = dict[str, np.ndarray]
Example = tuple[np.ndarray, int, int]  # image, label, index

PIECE = 64  # examples a thread loads at once; no result depends on it
MAX_HELD = 2**31  # bytes on every device, within 32-bit offsets


def train_batches(
  source: Source,
  *,
  batch_size: int,
  image_size: int,
  crop: str = 'inception',
  flip: bool = True,
  seed: int = 0,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
  cache: bool = False,
  on_error: str = 'raise',
  skipped: dict[str, str] | None = None,
) -> Iterator[Batch]:
  """Endless training batches of this process, from step `start_step` on.

  Args:
    source: the examples.
    batch_size: global; process p gets the p-th contiguous part of each batch.
    image_size: side of the output in pixels.
    crop: `'inception'`, `'pad4'` (or another number of pixels), `'none'`.
    flip: whether every second image, at random, is mirrored.
    seed: of order and augmentation.
    start_step: the first batch's step; resuming re-reads nothing.
    process_index, process_count: who of how many asks.
    num_threads: that decode; 0 works in the caller's thread.
    cache: keep decoded images in memory, for sets of small images.
    on_error: `'raise'`, or `'skip'`: another example takes the place.
    skipped: collects `{where: why}` under `'skip'`.

  Returns:
    An iterator of `{'images': uint8 [n, image_size, image_size, 3], 'labels':
    int32 [n], 'ids': int64 [n] in the source}`, n = batch_size / process_count.

  Raises:
    ValueError: an impossible argument; later an unreadable example, named.
  """
  place = part(batch_size, process_index, process_count)
  augment = host_augmentation(crop, flip, image_size, seed)
  reader = Reader(source, cache, on_error, skipped)
  index_at = example_order(len(source), seed)

  def load(position: int) -> Example:
    image, label, index = reader.read(index_at(position))
    return augment(image, position), label, index

  return _batches(load, batch_size, place, start_step, None, num_threads)


def eval_batches(
  source: Source,
  *,
  batch_size: int,
  image_size: int,
  preprocessing: str = 'resize_crop_32',
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
  on_error: str = 'raise',
  skipped: dict[str, str] | None = None,
) -> Iterator[Batch]:
  """Batches that hold every example exactly once, the last one padded.

  Every process gets equally many batches of equal size. Arguments, batches and
  errors as for `train_batches`, and:

  Args:
    preprocessing: a name that `images.preparation` knows.

  Returns:
    An iterator of batches that have also `'mask'`, float32 [n]: 1 for an
    example, 0 for padding (and for what `'skip'` left out), whose id is -1, and
    for an empty set of labels. Sets of labels are int32 [n, num_classes].
  """
  place = part(batch_size, process_index, process_count)
  prepare = images.preparation(preprocessing)
  reader = Reader(source, False, on_error, skipped)
  multi_label = getattr(source, 'multi_label', False)
  none = np.zeros(source.num_classes, bool) if multi_label else 0
  padding = np.zeros((image_size, image_size, 3), np.uint8), none, -1

  def mask(batch: Batch) -> np.ndarray:
    counts = batch['ids'] >= 0
    if multi_label:
      counts &= batch['labels'].any(-1)
    return counts.astype(np.float32)

  def load(index: int) -> Example:
    example = reader.read_or_none(index) if index < len(source) else None
    if example is None:
      return padding
    image, label, index = example
    return prepare(image, image_size), label, index

  num_steps = -(-len(source) // batch_size)
  batches = _batches(load, batch_size, place, 0, num_steps, num_threads)
  return ({**batch, 'mask': mask(batch)} for batch in batches)


# Small sets may be held wholly on the device: the host sends ids, the step
# gathers. The stream is that of `train_batches`, bit for bit.


def check_held(
  num_examples: int, image_size: int, crop: str, flip: bool
) -> None:
  """Refuses what `load_all` can't hold, or the host would have to augment.

  Args:
    num_examples, image_size: of the set, in pixels a side.
    crop, flip: of `train_batches`.

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
  if size > MAX_HELD:
    raise ValueError(
      f'config.data.on_device=True: {num_examples} images of {image_size} x '
      f'{image_size} pixels are {size / 2**30:.1f} GiB, over '
      f'{MAX_HELD / 2**30:.0f}: set config.data.on_device=False'
    )


def load_all(
  source: Source,
  image_size: int,
  on_error: str = 'raise',
  skipped: dict[str, str] | None = None,
) -> dict[str, np.ndarray]:
  """Decodes a whole source into host memory.

  Args:
    source: M examples.
    image_size: images of another size are resized, as the pipeline does.
    on_error, skipped: as for `train_batches`.

  Returns:
    `{'images': uint8 [M, image_size, image_size, 3], 'labels': int32 [M]}`.
  """
  reader = Reader(source, False, on_error, skipped)

  def load(index: int) -> Example:
    image, label, _ = reader.read(index)
    return images.resize(image, image_size, image_size), label, index

  length = len(source)
  (batch,) = _batches(load, length, (0, length), 0, 1, num_threads=2)
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
  """Endless `{'ids': int32 [n]}` of the stream of `train_batches`.

  Args:
    length: M, of the source.
    batch_size, seed, start_step, process_index, process_count: as there.
  """
  first, size = part(batch_size, process_index, process_count)
  index_at = example_order(length, seed)
  for step in itertools.count(start_step):
    start = step * batch_size + first
    ids = [index_at(position) for position in range(start, start + size)]
    yield {'ids': np.array(ids, np.int32)}


def part(
  batch_size: int, process_index: int, process_count: int
) -> tuple[int, int]:
  """Where in a global batch this process's part begins, and its size."""
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f'batch_size {batch_size} must be a positive multiple of the '
      f'{process_count} processes'
    )
  size = batch_size // process_count
  return process_index * size, size


def host_augmentation(
  crop: str, flip: bool, image_size: int, seed: int
) -> Callable[[np.ndarray, int], np.ndarray]:
  """Returns a function from (image, position in the stream) to its crop."""
  is_padded = bool(re.fullmatch('pad[0-9]{1,9}', crop))
  padding = int(crop[3:]) if is_padded else 0
  if crop not in ('inception', 'none') and not is_padded:
    raise ValueError(
      f"config.data.crop={crop!r}: choose 'inception', 'pad4' or 'none'"
    )
  if padding > image_size:
    raise ValueError(
      f'config.data.crop={crop!r}: pads images of {image_size} pixels with '
      f'more than {image_size}'
    )
  if crop == 'none' and not flip:  # for cached sets drawing would cost most
    return lambda image, _: images.resize(image, image_size, image_size)

  def augment(image: np.ndarray, position: int) -> np.ndarray:
    uniform = _uniform(seed, position, 1 + images.NUM_DRAWS)
    mirror, draws = uniform[0], uniform[1:]
    if crop == 'inception':
      window = images.inception_window(*image.shape[:2], image_size, draws)
      image = images.cut(image, window)
    image = images.resize(image, image_size, image_size)
    if is_padded:
      image = images.padded_cut(image, padding, draws)
    return images.mirrored(image) if flip and mirror < 0.5 else image

  return augment


def example_order(length: int, seed: int) -> Callable[[int], int]:
  """Returns a function from a position in the stream to the example there."""

  @functools.lru_cache(maxsize=4)
  def order(epoch: int) -> np.ndarray:
    # NumPy froze RandomState's stream: the order survives its new versions.
    return np.random.RandomState([seed, epoch]).permutation(length)

  def index_at(position: int) -> int:
    epoch, rank = divmod(position, length)
    return int(order(epoch)[rank])

  return index_at


def _uniform(seed: int, position: int, count: int) -> np.ndarray:
  """Returns float64 [count] in [0, 1) for one position of one stream."""
  # Positions are far apart in Philox's counter, so no two share a draw.
  bits = np.random.Philox(key=[seed, 0], counter=[0, 0, position, 0])
  return (bits.random_raw(count) >> np.uint64(11)) * 2.0**-53


def _batches(
  load: Callable[[int], Example],
  batch_size: int,
  place: tuple[int, int],
  start_step: int,
  num_steps: int | None,
  num_threads: int,
) -> Iterator[Batch]:
  """Loads one process's part of each batch, some pieces ahead in threads."""
  first, size = place
  pieces = [range(i, min(i + PIECE, size)) for i in range(0, size, PIECE)]

  def load_piece(number: int) -> list[Example]:
    step, piece = divmod(number, len(pieces))
    return [load(step * batch_size + first + slot) for slot in pieces[piece]]

  stop = 2**62 if num_steps is None else num_steps * len(pieces)
  numbers = grain.MapDataset.range(start_step * len(pieces), stop)
  ahead = max(2 * num_threads, 2 * len(pieces)) if num_threads else 0
  dataset = numbers.map(load_piece).to_iter_dataset(
    grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
  )
  return iter(dataset.batch(len(pieces), batch_fn=_stack))


def _stack(pieces: Sequence[list[Example]]) -> Batch:
  images, labels, ids = zip(*itertools.chain(*pieces))
  return {
    'images': np.stack(images),
    'labels': np.array(labels, np.int32),
    'ids': np.array(ids, np.int64),
  }


class Reader:
  """Decoded, checked examples of a source; arguments as of `train_batches`."""

  def __init__(
    self,
    source: Source,
    cache: bool,
    on_error: str,
    skipped: dict[str, str] | None,
  ):
    if on_error not in ('raise', 'skip'):
      raise ValueError(f"on_error {on_error!r} is neither 'raise' nor 'skip'")
    if not len(source):
      raise ValueError('the source holds no examples')
    self._source = source
    self._decoded = functools.cache(self._decode) if cache else self._decode
    self._on_error = on_error
    self._skipped = {} if skipped is None else skipped

  def read(self, index: int) -> Example:
    """Returns the first example from `index` on that can be read."""
    for ahead in range(len(self._source)):
      example = self.read_or_none((index + ahead) % len(self._source))
      if example is not None:
        return example
    raise ValueError(f'none of {len(self._source)} examples could be read')

  def read_or_none(self, index: int) -> Example | None:
    """Returns an example, or None for what `'skip'` leaves out.

    Raises:
      ValueError: under `'raise'`, naming the example and what is wrong.
    """
    try:
      return self._decoded(index)
    except (OSError, ValueError, RuntimeError) as error:
      where = self._source.describe(index)
      if self._on_error == 'raise':
        raise ValueError(
          f'{where}: {error}; --config.data.on_error=skip goes on without it'
        ) from error
      if where not in self._skipped:
        self._skipped[where] = str(error)
        told = map(texts.printable, (where, error))
        logging.warning('skipped %s: %s', *told)
      return None

  def _decode(self, index: int) -> Example:
    example = self._source[index]
    label, num_classes = example['label'], self._source.num_classes
    if np.ndim(label) == 0 and not 0 <= label < num_classes:
      raise ValueError(f'label {label} is not in 0..{num_classes - 1}')
    return images.decode(example['image']), label, index
