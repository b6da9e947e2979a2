"""From examples to host batches: order, read, augment, prefetch.

The training stream is endless: position `step * batch_size + i` holds example i
of a step's batch. Each epoch is one permutation of the source, and batches run
across the boundaries between epochs. Order and augmentation are functions of
(seed, position) alone, so that resuming costs nothing and neither threads nor
processes change the stream.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from nfnets import texts
from nfnets.data import images
from nfnets.data.sources import Source

Batch = dict[str, np.ndarray]
# Image, label (multi-label: bool [num_classes]) and index in the source.
Example = tuple[np.ndarray, int | np.ndarray, int]

PIECE = 64  # examples that a thread loads at once; no result depends on it


def train_batches(
  source: Source,
  data: ConfigDict,
  *,
  batch_size: int,
  seed: int = 0,
  start_step: int = 0,
  process: tuple[int, int] = (0, 1),
  skipped: dict[str, str] | None = None,
) -> Iterator[Batch]:
  """Endless training batches of this process, from step `start_step` on.

  Args:
    source: the examples.
    data: `config.data`. Threads of the number `num_threads` decode, with 0 the
      caller's; `cache` keeps decoded images in memory; with `on_error='skip'`
      the next readable example stands in for an unreadable one. See also
      `images.augmentation`.
    batch_size: of all processes; process p takes the p-th contiguous part.
    seed: of order and augmentation.
    start_step: step of the first batch; earlier ones aren't read.
    process: which process this is, of how many.
    skipped: with `on_error='skip'`, collects `{where: why}`.

  Returns:
    An iterator of `{'images': uint8 [n, s, s, 3], 'labels': int32 [n], 'ids':
    int64 [n]}` with n = batch_size / processes and s = data.train_image_size;
    ids are indices into the source.

  Raises:
    ValueError: for an impossible argument; later, naming an unreadable example.
  """
  augment = images.augmentation(data, seed)
  reader = Reader(source, data.on_error, skipped, data.cache)
  index_at = example_order(len(source), seed)

  def load(position: int) -> Example:
    image, label, index = reader.read(index_at(position))
    return augment(image, position), label, index

  return batches(load, batch_size, process, start_step, None, data.num_threads)


def eval_batches(
  source: Source,
  data: ConfigDict,
  *,
  batch_size: int,
  process: tuple[int, int] = (0, 1),
  skipped: dict[str, str] | None = None,
) -> Iterator[Batch]:
  """Batches that contain every example exactly once, the last one padded.

  All processes get the same number of batches, of the same size. Arguments,
  batches and errors are those of `train_batches`, but images are prepared by
  `data.eval_preprocessing` for `data.eval_image_size`.

  Returns:
    An iterator of batches with another entry, `'mask'`, float32 [n]: 1 for an
    example, and 0 for padding (whose id is -1), for a skipped example and for
    an empty list of labels. Multi-label batches have labels [n, num_classes],
    1 for each of an example's classes.
  """
  prepare = images.preparation(data.eval_preprocessing)
  size = data.eval_image_size
  reader = Reader(source, data.on_error, skipped)
  multi_label = getattr(source, 'multi_label', False)
  none = np.zeros(source.num_classes, bool) if multi_label else 0
  padding = np.zeros((size, size, 3), np.uint8), none, -1

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
    return prepare(image, size), label, index

  num_steps = -(-len(source) // batch_size)
  found = batches(load, batch_size, process, 0, num_steps, data.num_threads)
  return ({**batch, 'mask': mask(batch)} for batch in found)


def id_batches(
  length: int,
  *,
  batch_size: int,
  seed: int = 0,
  start_step: int = 0,
  process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
  """Endless `{'ids': int32 [n]}` of the stream of `train_batches`.

  They index what `load_all` returns, which is then kept on the device.

  Args:
    length: of the source; the others are those of `train_batches`.
  """
  first, size = _part(batch_size, process)
  index_at = example_order(length, seed)
  for step in itertools.count(start_step):
    start = step * batch_size + first
    ids = [index_at(position) for position in range(start, start + size)]
    yield {'ids': np.array(ids, np.int32)}


def load_all(
  source: Source, data: ConfigDict, skipped: dict[str, str] | None = None
) -> Batch:
  """Decodes a source of M examples as `train_batches` without crop and flip.

  Returns:
    `{'images': uint8 [M, s, s, 3], 'labels': int32 [M]}`, with s =
    data.train_image_size.
  """
  length, size = len(source), data.train_image_size
  reader = Reader(source, data.on_error, skipped)

  def load(index: int) -> Example:
    image, label, _ = reader.read(index)
    return images.resize(image, size, size), label, index

  (batch,) = batches(load, length, (0, 1), 0, 1, data.num_threads)
  return {name: batch[name] for name in ('images', 'labels')}


def example_order(length: int, seed: int) -> Callable[[int], int]:
  """Returns a function from stream positions to indices of examples."""

  @functools.lru_cache(maxsize=4)
  def order(epoch: int) -> np.ndarray:
    # NumPy guarantees RandomState's stream: new versions keep the order.
    return np.random.RandomState([seed, epoch]).permutation(length)

  def index_at(position: int) -> int:
    epoch, rank = divmod(position, length)
    return int(order(epoch)[rank])

  return index_at


def batches(
  load: Callable[[int], Example],
  batch_size: int,
  process: tuple[int, int],
  start_step: int,
  num_steps: int | None,
  num_threads: int,
) -> Iterator[Batch]:
  """Loads this process's part of each batch in threads that run ahead.

  Args:
    load: returns the example at a position.
    batch_size: of all processes.
    process: which process this is, of how many.
    start_step: step of the first batch.
    num_steps: the step to end before; None for an endless stream.
    num_threads: 0 loads in the caller's thread.
  """
  first, size = _part(batch_size, process)
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


def _part(batch_size: int, process: tuple[int, int]) -> tuple[int, int]:
  """Returns the start and the size of a process's part of a global batch."""
  index, count = process
  if batch_size < 1 or batch_size % count:
    raise ValueError(
      f'batch_size {batch_size} must be a positive multiple of the {count} '
      'processes'
    )
  size = batch_size // count
  return index * size, size


def _stack(pieces: Sequence[list[Example]]) -> Batch:
  images, labels, ids = zip(*itertools.chain(*pieces))
  return {
    'images': np.stack(images),
    'labels': np.array(labels, np.int32),
    'ids': np.array(ids, np.int64),
  }


class Reader:
  """Decodes and checks examples; arguments as of `train_batches`."""

  def __init__(
    self,
    source: Source,
    on_error: str,
    skipped: dict[str, str] | None,
    cache: bool = False,
  ):
    if not len(source):
      raise ValueError('the data contain no examples')
    self._source = source
    self._decoded = functools.cache(self._decode) if cache else self._decode
    self._on_error = on_error
    self._skipped = {} if skipped is None else skipped

  def read(self, index: int) -> Example:
    """Returns the first readable example from `index` on."""
    for ahead in range(len(self._source)):
      example = self.read_or_none((index + ahead) % len(self._source))
      if example is not None:
        return example
    raise ValueError(f'none of the {len(self._source)} examples is readable')

  def read_or_none(self, index: int) -> Example | None:
    """Returns an example, or None if it is unreadable and to be skipped.

    Raises:
      ValueError: under `'raise'`, naming the example and what is wrong.
    """
    try:
      return self._decoded(index)
    except (OSError, ValueError, RuntimeError) as error:
      where = self._source.describe(index)
      if self._on_error == 'raise':
        raise ValueError(
          f'{where}: {error}; --config.data.on_error=skip continues without it'
        ) from error
      if where not in self._skipped:
        self._skipped[where] = str(error)
        logging.warning('skipped %s: %s', *map(texts.printable, (where, error)))
      return None

  def _decode(self, index: int) -> Example:
    example, num_classes = self._source[index], self._source.num_classes
    label = example['label']
    for one in np.atleast_1d(label):
      if not 0 <= one < num_classes:
        raise ValueError(f'label {one} is not in 0..{num_classes - 1}')
    if getattr(self._source, 'multi_label', False):
      label = np.isin(np.arange(num_classes), label)
    return images.decode(example['image']), label, index
