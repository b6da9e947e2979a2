"""Encoded images to the pixels a network takes: decode, cut, resize.

JPEGs take libjpeg-turbo's fast path; what that can't do (CMYK) and every other
format goes through Pillow. Alpha is dropped, 16-bit channels keep their high
byte, grey is repeated, EXIF orientation is applied, an animation gives its
first frame. Anything incomplete or unreadable is a ValueError.

Windows are `(top, left, height, width)` in whole pixels. Random ones are a
function of numbers in [0, 1) that the caller draws.
"""

import functools
import io
import math
import threading
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import sparse

# The pipeline's threads each resize an image; OpenCV's own would only compete.
cv2.setNumThreads(0)

Window = tuple[int, int, int, int]

MAX_PIXELS = 80_000_000  # a damaged header must not fill the memory
TRIES = 10  # max_attempts, dataset.py:442-461
DRAWS_PER_TRY = 4
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
MIN_COVERED = 0.1  # of the whole image, as the box of every example is


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
  except UnidentifiedImageError as error:  # its words quote an address
    raise ValueError('no picture of a known kind') from error
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


def inception_window(
  height: int, width: int, image_size: int, draws: np.ndarray
) -> Window:
  """Random window of area 8-100 % and aspect 3/4-4/3 (PAPER_FACTS 2.2, 1).

  Follows TensorFlow's sample_distorted_bounding_box: the aspect ratio is
  uniform, then the height is uniform among those the area allows. After 10
  misses the padded centre crop stands in.

  Args:
    height, width: of the image.
    image_size: of the network's input, for the stand-in.
    draws: uniform in [0, 1), at least `[TRIES * DRAWS_PER_TRY]`.
  """
  pixels = height * width
  for u in draws[: TRIES * DRAWS_PER_TRY].reshape(TRIES, DRAWS_PER_TRY):
    aspect = ASPECT[0] + u[0] * (ASPECT[1] - ASPECT[0])
    low = round(math.sqrt(AREA[0] * pixels / aspect))
    high = round(math.sqrt(AREA[1] * pixels / aspect))
    if round(high * aspect) > width:
      high = int((width + 0.5 - 1e-7) / aspect)
    high = min(high, height)
    low = min(low, high)
    h = low + int(u[1] * (high - low + 1))
    w = round(h * aspect)
    covered = h * w / pixels
    if not max(AREA[0], MIN_COVERED) <= covered <= AREA[1]:
      continue
    if not (0 < w <= width and 0 < h <= height):
      continue
    return int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w
  return centre_window(height, width, image_size)


def centre_window(height: int, width: int, image_size: int) -> Window:
  """Padded centre crop: s / (s + 32) of the short side, square."""
  side = int(image_size / (image_size + 32) * min(height, width))
  side = max(side, 1)
  return (height - side + 1) // 2, (width - side + 1) // 2, side, side


def cut(image: np.ndarray, window: Window) -> np.ndarray:
  """Returns the window of uint8 [H, W, 3], as a view."""
  top, left, height, width = window
  return image[top : top + height, left : left + width]


def padded_cut(
  image: np.ndarray, padding: int, draws: np.ndarray
) -> np.ndarray:
  """Pads [H, W, 3] with black and cuts [H, W, 3] out of it at random (D, 4.2).

  Args:
    image: uint8 [H, W, 3].
    padding: pixels added on each side.
    draws: uniform in [0, 1), at least [2].
  """
  height, width, channels = image.shape
  top, left = (int(u * (2 * padding + 1)) for u in draws[:2])
  padded = np.zeros(
    (height + 2 * padding, width + 2 * padding, channels), image.dtype
  )
  padded[padding : padding + height, padding : padding + width] = image
  return cut(padded, (top, left, height, width))


def mirrored(image: np.ndarray) -> np.ndarray:
  """Returns uint8 [H, W, 3] with left and right exchanged."""
  return cv2.flip(image, 1)  # ten times NumPy's speed on three channels


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes uint8 [H, W, 3] for training: bicubic, no antialias, clamped.

  OpenCV's kernel has a = -0.75, where the published a = -0.5 (`resize_exact`)
  takes five times as long; on photographs they differ by half a grey level.
  """
  if image.shape[:2] == (height, width):
    return image
  return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def preparation(how: str) -> Callable[[np.ndarray, int], np.ndarray]:
  """An evaluation's preparation, by its name.

  Args:
    how: 'resize_crop_32' (NFNets), 'crop_resize' (ResNets, NF-RegNets),
      'crop_resize_94' (timm's NF-ResNet-50), or 'none': resized only where the
      size differs.

  Returns:
    A function from uint8 [H, W, 3] and a side s in pixels to uint8 [s, s, 3].
  """
  if how not in PREPARATIONS:
    raise ValueError(
      f'preprocessing {how!r} is unknown; choose among {sorted(PREPARATIONS)}'
    )
  return PREPARATIONS[how]


def resize_then_crop(image: np.ndarray, image_size: int) -> np.ndarray:
  """NFNets' evaluation: squash to s + 32, then the centre s."""
  large = resize_exact(image, image_size + 32, image_size + 32)
  return cut(large, (16, 16, image_size, image_size))


def crop_then_resize(image: np.ndarray, image_size: int) -> np.ndarray:
  """ResNets' and NF-RegNets' evaluation: padded centre crop, resized."""
  window = centre_window(*image.shape[:2], image_size)
  return resize_exact(cut(image, window), image_size, image_size)


def crop_94_then_resize(image: np.ndarray, image_size: int) -> np.ndarray:
  """The centre square of 0.94 of the short side, resized: timm's crop_pct."""
  height, width, _ = image.shape
  side = max(round(0.94 * min(height, width)), 1)
  window = (height - side + 1) // 2, (width - side + 1) // 2, side, side
  return resize_exact(cut(image, window), image_size, image_size)


def resize_exact(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes uint8 [H, W, 3] as tf.image.resize's bicubic, rounded and clamped.

  Keys' kernel with a = -0.5, half-pixel centres, no antialias.
  """
  if image.shape[:2] == (height, width):
    return image
  old_height, old_width, channels = image.shape
  rows = image.reshape(old_height, -1).astype(np.float32)
  rows = _bicubic(old_height, height) @ rows
  columns = rows.reshape(height, old_width, channels).swapaxes(0, 1)
  columns = _bicubic(old_width, width) @ columns.reshape(old_width, -1)
  resized = columns.reshape(width, height, channels).swapaxes(0, 1)
  return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _bicubic(old: int, new: int) -> sparse.csr_array:
  """Returns the weights [new, old] of one axis; taps outside are left out."""
  centre = (np.arange(new) + 0.5) * (old / new) - 0.5
  first = np.floor(centre).astype(int) - 1
  taps = first[:, None] + np.arange(4)
  x = np.abs(centre[:, None] - taps)
  near = ((1.5 * x - 2.5) * x) * x + 1  # Keys 1981, a = -0.5, |x| <= 1
  far = ((-0.5 * x + 2.5) * x - 4) * x + 2  # 1 < |x| < 2
  weights = np.where(x <= 1, near, far) * ((taps >= 0) & (taps < old))
  weights /= weights.sum(1, keepdims=True)
  data = weights.astype(np.float32).ravel()
  columns = np.clip(taps, 0, old - 1).ravel()
  return sparse.csr_array(
    (data, columns, np.arange(0, 4 * new + 1, 4)), shape=(new, old)
  )


PREPARATIONS = {
  'resize_crop_32': resize_then_crop,
  'crop_resize': crop_then_resize,
  'crop_resize_94': crop_94_then_resize,
  'none': lambda image, size: resize_exact(image, size, size),
}
