"""From encoded images to a network's input: read, decode, crop, resize.

JPEGs take libjpeg-turbo's fast path; those it can't decode (CMYK, rotated) and
all other formats go through Pillow. Alpha is dropped, 16-bit channels keep
their high byte, grey is repeated, EXIF orientation is applied, and an animation
gives its first frame.

Files may come from anybody: only regular files are read, only the formats below
are decoded, and an image's pixels and scans are bounded before it is decoded.
Whatever is incomplete, unreadable or out of bounds is a ValueError of one line.

For training an image is cropped, flipped and resized by `augmentation`, for
evaluation by `preparation`. Windows are `(top, left, height, width)` in pixels.
"""

import functools
import io
import math
import os
import re
import stat
import warnings
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from ml_collections import ConfigDict
from PIL import Image, UnidentifiedImageError
from scipy import sparse

# Each of the pipeline's threads resizes images; OpenCV's own would compete.
cv2.setNumThreads(0)
# `_check_size` bounds images by itself, and broken EXIF tags are harmless.
warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')

Window = tuple[int, int, int, int]

SUFFIXES = (
  '.jpg', '.jpeg', '.jpe', '.jfif', '.jp2', '.png', '.bmp', '.webp', '.gif',
  '.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm', '.tga',
)  # fmt: skip
# Pillow opens more, among them PostScript, for which it runs Ghostscript.
FORMATS = (
  'JPEG', 'JPEG2000', 'PNG', 'BMP', 'WEBP', 'GIF', 'TIFF', 'PPM', 'TGA'
)  # fmt: skip

MAX_BYTES = 2**29  # room for 80 million pixels of 48 bits
MAX_SIDE = 65535  # JPEG's own limit
MAX_PIXELS = 80_000_000  # ILSVRC2012's largest image has 61 million
PIXELS_PER_BYTE = 100  # photographs have at most 20
SMALL = 2**24  # pixels allowed whatever the size of the file
MAX_SCANS = 100  # of a progressive JPEG; libtiff's limit, 10 are usual
# The release's dataset.py, lines 442 to 461.
TRIES = 10
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
MIN_COVERED = 0.1  # of the image's area
MIN_SHARE = 0.5  # of a side: 4,096 pixels become 8,192, within MAX_PIXELS
_MARKER = re.compile(rb'\xff+[\x02-\xcf\xd8-\xfe]')


def read(path: str | os.PathLike) -> bytes:
  """Returns the content of a regular file.

  Raises:
    ValueError: for a pipe, a device or more than `MAX_BYTES`.
    OSError: if the file can't be opened or read.
  """
  # Without O_NONBLOCK, opening a pipe blocks until somebody writes to it.
  with open(
    path, 'rb', opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)
  ) as file:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
      raise ValueError('not a regular file')
    if status.st_size > MAX_BYTES:
      raise ValueError(f'{status.st_size} bytes exceed {MAX_BYTES}')
    return file.read(status.st_size)


def decode(data: bytes | np.ndarray) -> np.ndarray:
  """Decodes a file's bytes to uint8 [H, W, 3]; checks an array and returns it.

  Raises:
    ValueError: saying what is wrong with the data, not where they are from.
  """
  if isinstance(data, np.ndarray):
    if data.dtype != np.uint8 or data.ndim != 3 or data.shape[-1] != 3:
      raise ValueError(
        f'expected uint8 [H, W, 3], got {data.dtype} {list(data.shape)}'
      )
    if not data.size:
      raise ValueError(f'an empty array {list(data.shape)}')
    return data
  if not data:
    raise ValueError('the file is empty')
  try:
    # Without EXIF there is no orientation to apply.
    if data[:2] == b'\xff\xd8' and b'Exif\0' not in data[:65536]:
      height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
      if colorspace in ('YCbCr', 'RGB', 'Gray'):
        _check_size(height, width, data)
        return _decode_jpeg(data)
    return _decode_any(data)
  except UnidentifiedImageError as error:  # its message has a memory address
    raise ValueError('not an image in a known format') from error
  except Exception as error:  # Pillow's readers raise nearly any type
    raise ValueError(str(error) or type(error).__name__) from error


def _decode_jpeg(data: bytes) -> np.ndarray:
  # The fast transform is TensorFlow's default; the pixels are bit-equal to it.
  try:
    return simplejpeg.decode_jpeg(data, 'RGB', fastdct=True)
  except ValueError as error:
    # Some photographs have stray bytes between segments, which are harmless.
    if 'extraneous bytes' not in str(error):
      raise
    return simplejpeg.decode_jpeg(data, 'RGB', fastdct=True, strict=False)


def _decode_any(data: bytes) -> np.ndarray:
  with Image.open(io.BytesIO(data), formats=FORMATS) as image:
    _check_size(image.height, image.width, data)
    if image.mode.startswith('I') or image.mode == 'F':
      pixels = _high_byte(image)
    else:
      pixels = np.asarray(image.convert('RGB'))
    return _upright(pixels, image.getexif().get(0x0112))


def _check_size(height: int, width: int, data: bytes) -> None:
  """Bounds a decoder's memory by the size of the file, and its time."""
  pixels = height * width
  if max(height, width) > MAX_SIDE:
    raise ValueError(f'{height} x {width} pixels: a side exceeds {MAX_SIDE}')
  if pixels > min(MAX_PIXELS, max(SMALL, PIXELS_PER_BYTE * len(data))):
    raise ValueError(
      f'{height} x {width} pixels are too many for {len(data)} bytes, or '
      f'exceed {MAX_PIXELS}'
    )
  limit = MAX_SCANS * min(1, SMALL / pixels)
  # The quick count includes the scans of a film or preview after the image.
  if data[:2] != b'\xff\xd8' or data.count(b'\xff\xda') <= limit:
    return
  if (scans := _num_scans(data)) > limit:
    raise ValueError(f'{scans} scans of {height} x {width} pixels are too many')


def _num_scans(data: bytes) -> int:
  """Counts a JPEG's scans without decoding them."""
  at, scans = 2, 0
  # A marker is 0xFF followed by neither 0 (which means data) nor a restart.
  while marker := _MARKER.search(data, at):
    code, at = marker[0][-1], marker.end()
    if code == 0xD9:  # end of image; a film or preview may follow
      break
    scans += code == 0xDA  # start of scan
    at += int.from_bytes(data[at : at + 2], 'big')
  return scans


def _high_byte(image: Image.Image) -> np.ndarray:
  grey = np.asarray(image)
  if image.mode == 'F' or not 0 <= grey.min() <= grey.max() <= 65535:
    raise ValueError(f'unknown range of values in pixel mode {image.mode}')
  levels = (grey.astype(np.int32) >> 8).astype(np.uint8)
  return np.repeat(levels[..., None], 3, axis=-1)


def _upright(pixels: np.ndarray, orientation: int | None) -> np.ndarray:
  """Undoes EXIF's orientations 2 to 8."""
  if orientation in (5, 6, 7, 8):
    pixels = pixels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return np.ascontiguousarray(pixels)


def augmentation(
  data: ConfigDict, seed: int
) -> Callable[[np.ndarray, int], np.ndarray]:
  """Returns a function that augments an image for its stream position.

  Args:
    data: `config.data`. `crop` is `'inception'`, `'pad4'` (or another number of
      pixels) or `'none'`; `flip` says whether to mirror a random half of the
      images; the result has `train_image_size` pixels a side.
    seed: of the random numbers.

  Raises:
    ValueError: for an impossible crop.
  """
  crop, flip, image_size = data.crop, data.flip, data.train_image_size
  padded = re.fullmatch('pad([0-9]{1,9})', crop)
  padding = int(padded[1]) if padded else 0
  if crop not in ('inception', 'none') and not padded:
    raise ValueError(
      f"config.data.crop={crop!r}: choose 'inception', 'pad4' or 'none'"
    )
  if padding > image_size:
    raise ValueError(
      f'config.data.crop={crop!r}: the padding must not exceed the image size '
      f'of {image_size} pixels'
    )
  if crop == 'none' and not flip:  # for cached sets drawing would cost most
    return lambda image, _: resize(image, image_size, image_size)

  def augment(image: np.ndarray, position: int) -> np.ndarray:
    uniform = _uniform(seed, position, 1 + 4 * TRIES)
    mirror, draws = uniform[0], uniform[1:]
    if crop == 'inception':
      window = inception_window(*image.shape[:2], image_size, draws)
      image = cut(image, window)
    image = resize(image, image_size, image_size)
    if padding:  # CIFAR's augmentation: arXiv 1512.03385, section 4.2
      top, left = (int(u * (2 * padding + 1)) for u in draws[:2])
      black = cv2.copyMakeBorder(image, *4 * [padding], cv2.BORDER_CONSTANT)
      image = cut(black, (top, left, image_size, image_size))
    # OpenCV's flip is ten times as fast as NumPy's on three channels.
    return cv2.flip(image, 1) if flip and mirror < 0.5 else image

  return augment


def _uniform(seed: int, position: int, count: int) -> np.ndarray:
  """Returns float64 [count] in [0, 1) for one position of the stream."""
  # Positions are far apart in Philox's counter, so no two share a draw.
  bits = np.random.Philox(key=[seed, 0], counter=[0, 0, position, 0])
  return (bits.random_raw(count) >> np.uint64(11)) * 2.0**-53


def inception_window(
  height: int, width: int, image_size: int, draws: np.ndarray
) -> Window:
  """Random window of 8 % to 100 % of the area and aspect ratio 3/4 to 4/3.

  As TensorFlow's sample_distorted_bounding_box, which the release calls: the
  aspect ratio is uniform, then the height is uniform among those that the area
  allows. After 10 misses it is the padded centre crop.

  Args:
    height, width: of the image.
    image_size: of the network's input, for the centre crop.
    draws: uniform in [0, 1), [4 * TRIES].
  """
  pixels = height * width
  for u in draws.reshape(TRIES, 4):
    aspect = ASPECT[0] + u[0] * (ASPECT[1] - ASPECT[0])
    low, high = (round(math.sqrt(area * pixels / aspect)) for area in AREA)
    if round(high * aspect) > width:
      high = int((width + 0.5 - 1e-7) / aspect)
    high = min(high, height)
    low = min(low, high)
    h = low + int(u[1] * (high - low + 1))
    w = round(h * aspect)
    is_inside = 0 < w <= width and 0 < h <= height
    if is_inside and MIN_COVERED <= h * w / pixels <= AREA[1]:
      return int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w
  return centre_window(height, width, image_size)


def centre_window(height: int, width: int, image_size: int) -> Window:
  """Padded centre crop: a square of s / (s + 32) of the short side."""
  share = image_size / (image_size + 32)
  side = max(int(share * min(height, width)), 1)
  return (height - side + 1) // 2, (width - side + 1) // 2, side, side


def cut(image: np.ndarray, window: Window) -> np.ndarray:
  """Returns the window of uint8 [H, W, 3], as a view."""
  top, left, height, width = window
  return image[top : top + height, left : left + width]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes uint8 [H, W, 3] for training: bicubic, no antialias, clamped.

  OpenCV's kernel has a = -0.75. The published a = -0.5 (`resize_exact`) takes
  five times as long; on photographs the two differ by half a grey level.
  """
  if image.shape[:2] == (height, width):
    return image
  return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def preparation(how: str) -> Callable[[np.ndarray, int], np.ndarray]:
  """Returns the function that prepares an image for evaluation.

  Args:
    how: 'resize_crop_32' (NFNets), 'crop_resize' (ResNets, NF-RegNets), 'none'
      (resize where the size differs), or one of timm's: 'squash_0.9' or
      'center_0.94', with any crop_pct from `MIN_SHARE` to 1. These may end in a
      filter of Pillow's, as in 'squash_0.9_bilinear'; the default is bicubic.

  Returns:
    A function from uint8 [H, W, 3] and a side s in pixels to uint8 [s, s, 3].

  Raises:
    ValueError: for an unknown name.
  """
  if how in PREPARATIONS:
    return PREPARATIONS[how]
  found = _TIMM.fullmatch(how)
  share = float(found[2]) if found else 1.0
  resampling = (found and found[3] or 'bicubic').upper()
  is_known = found and resampling in Image.Resampling.__members__
  if not is_known or share < MIN_SHARE:
    raise ValueError(
      f'eval_preprocessing {how!r} is unknown; choose one of '
      f'{", ".join(PREPARATIONS)}, squash_0.9, center_0.94, … (from '
      f'{MIN_SHARE} to 1.0)'
    )
  return functools.partial(
    _as_timm,
    squash=found[1] == 'squash',
    share=share,
    resampling=Image.Resampling[resampling],
  )


_TIMM = re.compile(r'(squash|center)_(0\.\d*[1-9]\d*|1\.0)(?:_(\w+))?')


def resize_then_crop(image: np.ndarray, image_size: int) -> np.ndarray:
  """NFNets' evaluation: resizes to s + 32 each way, crops the centre s."""
  large = resize_exact(image, image_size + 32, image_size + 32)
  return cut(large, (16, 16, image_size, image_size))


def crop_then_resize(image: np.ndarray, image_size: int) -> np.ndarray:
  """ResNets' and NF-RegNets' evaluation: resizes the padded centre crop."""
  window = centre_window(*image.shape[:2], image_size)
  return resize_exact(cut(image, window), image_size, image_size)


def _as_timm(
  image: np.ndarray,
  image_size: int,
  squash: bool,
  share: float,
  resampling: Image.Resampling,
) -> np.ndarray:
  """timm's evaluation: resizes to s / share, antialiased, crops the centre s.

  The short side gets that length, or with `squash` both. The long side of an
  extremely thin image is shortened to what `MAX_PIXELS` allows.
  """
  height, width, _ = image.shape
  side = int(image_size / share)
  short = side if squash else min(height, width)
  longest = max(side, MAX_PIXELS // side)
  new_height, new_width = (
    side if squash or n == short else min(int(side * n / short), longest)
    for n in (height, width)
  )
  large = Image.fromarray(image).resize((new_width, new_height), resampling)
  top, left = (round((n - image_size) / 2) for n in (new_height, new_width))
  return cut(np.asarray(large), (top, left, image_size, image_size))


def resize_exact(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes uint8 [H, W, 3] as tf.image.resize(method='bicubic') does.

  Keys' kernel with a = -0.5, half-pixel centres, no antialias; then rounded and
  clamped.
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
  """Returns the weights [new, old] of one axis, without taps outside of it."""
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
  'none': lambda image, size: resize_exact(image, size, size),
}
