"""Encoded image to uint8 RGB [H, W, 3]: any JPEG, PNG or other common file.

JPEGs take libjpeg-turbo's fast path; what that can't do (CMYK) and every other
format goes through Pillow. Alpha is dropped, 16-bit channels keep their high
byte, grey is repeated, EXIF orientation is applied, an animation gives its
first frame. Anything incomplete or unreadable is a ValueError.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps


def decode(data: bytes | np.ndarray) -> np.ndarray:
  """Returns uint8 [H, W, 3] for a file's bytes or for uint8 [H, W, 3] itself.

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
    _, _, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    if colorspace in ('YCbCr', 'RGB', 'Gray'):
      return simplejpeg.decode_jpeg(data, 'RGB')
  return _decode_any(data)


def _decode_any(data: bytes) -> np.ndarray:
  try:
    with Image.open(io.BytesIO(data)) as file:
      image = ImageOps.exif_transpose(file)
      if image.mode.startswith('I') or image.mode == 'F':
        grey = np.asarray(image)
        if image.mode == 'F' or grey.max(initial=0) > 65535:
          raise ValueError(f'pixel mode {image.mode} has no known range')
        levels = (grey.astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(levels[..., None], 3, axis=-1)
      return np.array(image.convert('RGB'))
  except (OSError, SyntaxError, Image.DecompressionBombError) as error:
    raise ValueError(str(error)) from error
