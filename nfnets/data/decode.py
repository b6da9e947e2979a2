"""Encoded image to uint8 RGB [H, W, 3]: any JPEG, PNG or other common file.

JPEGs take libjpeg-turbo's fast path; what that can't do (CMYK) and every other
format goes through Pillow. Alpha is dropped, 16-bit channels keep their high
byte, grey is repeated, EXIF orientation is applied, an animation gives its
first frame. Anything incomplete or unreadable is a ValueError.
"""

import functools
import io
import threading

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

MAX_PIXELS = 80_000_000  # a damaged header must not fill the memory


class Scratch(threading.local):
  """Memory that each thread decodes into again and again.

  Fresh pages for every photograph cost the system nearly as much time as
  decoding does.
  """

  def __init__(self):
    self._bytes = bytearray()

  def __call__(self, size: int) -> bytearray:
    if len(self._bytes) < size:
      self._bytes = bytearray(size)
    return self._bytes


def decode(
  data: bytes | np.ndarray, scratch: Scratch | None = None
) -> np.ndarray:
  """Returns uint8 [H, W, 3] for a file's bytes or for uint8 [H, W, 3] itself.

  Args:
    data: the file's content, or an image.
    scratch: if given, the result may lie in it, until this thread's next call.

  Raises:
    ValueError: saying what is wrong with the data (not where they came from).
  """
  if isinstance(data, np.ndarray):
    if data.dtype != np.uint8 or data.ndim != 3 or data.shape[-1] != 3:
      raise ValueError(
        f'expected uint8 [H, W, 3], got {data.dtype} {list(data.shape)}'
      )
    return data
  if not data:
    raise ValueError('the file is empty')
  # Orientation is a tag of EXIF; without the marker there is nothing to turn.
  if data[:2] == b'\xff\xd8' and b'Exif\0' not in data[:65536]:
    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    if colorspace in ('YCbCr', 'RGB', 'Gray'):
      _check_size(height, width)
      return _decode_jpeg(data, scratch and scratch(3 * height * width))
  return _decode_any(data)


def _decode_jpeg(data: bytes, buffer: bytearray | None) -> np.ndarray:
  # The fast transform is TensorFlow's default: equal to it bit for bit.
  read = functools.partial(
    simplejpeg.decode_jpeg, data, 'RGB', fastdct=True, buffer=buffer
  )
  try:
    return read()
  except ValueError as error:
    # Stray bytes between segments harm no pixel; real photographs have them.
    if 'extraneous bytes' not in str(error):
      raise
    return read(strict=False)


def _decode_any(data: bytes) -> np.ndarray:
  try:
    with Image.open(io.BytesIO(data)) as file:
      _check_size(*file.size)
      image = ImageOps.exif_transpose(file)
      if image.mode.startswith('I') or image.mode == 'F':
        return _high_byte(image)
      return np.array(image.convert('RGB'))
  except Exception as error:  # Pillow's readers raise nearly anything.
    raise ValueError(str(error) or type(error).__name__) from error


def _check_size(height: int, width: int) -> None:
  if height * width > MAX_PIXELS:
    raise ValueError(f'{height} x {width} pixels are over {MAX_PIXELS}')


def _high_byte(image: Image.Image) -> np.ndarray:
  grey = np.asarray(image)
  if image.mode == 'F' or not 0 <= grey.min() <= grey.max() <= 65535:
    raise ValueError(f'the range of pixel mode {image.mode} is unknown')
  levels = (grey.astype(np.int32) >> 8).astype(np.uint8)
  return np.repeat(levels[..., None], 3, axis=-1)
