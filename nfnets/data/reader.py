"""Examples of a source, decoded and checked; bad ones are named, never used."""

import numpy as np
from absl import logging

from nfnets.data.decode import Scratch, decode
from nfnets.data.sources import Source


class Reader:
  """Decoded, checked examples of a source.

  An image is good until its thread reads the next.

  Args:
    source: the examples.
    cache: whether to keep decoded images in memory.
    on_error: `'raise'` or `'skip'`.
    skipped: collects `{where: why}` under `'skip'`.
  """

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
    self._cache = {} if cache else None
    self._scratch = None if cache else Scratch()
    self._on_error = on_error
    self._skipped = {} if skipped is None else skipped

  def read(self, index: int) -> tuple[int, np.ndarray, int]:
    """Returns (index, image, label) of the first good one from `index` on."""
    for ahead in range(len(self._source)):
      i = (index + ahead) % len(self._source)
      example = self.read_or_none(i)
      if example is not None:
        return i, *example
    raise ValueError(f'none of {len(self._source)} examples could be read')

  def read_or_none(self, index: int) -> tuple[np.ndarray, int] | None:
    """Returns (image, label), or None for what `'skip'` leaves out.

    Raises:
      ValueError: under `'raise'`, naming the example and what is wrong.
    """
    if self._cache is not None and index in self._cache:
      return self._cache[index]
    try:
      example = self._read(index)
    except (OSError, ValueError, RuntimeError) as error:
      where = self._source.describe(index)
      if self._on_error == 'raise':
        raise ValueError(f'{where}: {error}') from error
      if where not in self._skipped:
        self._skipped[where] = str(error)
        logging.warning('skipped %s: %s', where, error)
      return None
    if self._cache is not None:
      self._cache[index] = example
    return example

  def _read(self, index: int) -> tuple[np.ndarray, int]:
    example = self._source[index]
    label, num_classes = example['label'], self._source.num_classes
    if not 0 <= label < num_classes:
      raise ValueError(f'label {label} is not in 0..{num_classes - 1}')
    return decode(example['image'], self._scratch), label
