"""nfnets/data/decode.py: right pixels or one clear error, for any bytes."""

import functools
import io
import pathlib
import tarfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from PIL import Image

from nfnets.data.decode import Scratch, decode

SHARED = pathlib.Path(__file__).parents[1] / '..' / 'shared'
PHOTOGRAPHS = SHARED / 'data' / 'caltech101_3060.tar'


def gradient(height=24, width=40):
  """A smooth uint8 [H, W, 3] picture, the same neither mirrored nor turned."""
  y, x = np.mgrid[0:height, 0:width]
  red, green = 255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1)
  return np.stack([red, green, (red + green) / 4], -1).astype(np.uint8)


def encoded(image, form='JPEG', **options):
  file = io.BytesIO()
  if not isinstance(image, Image.Image):
    image = Image.fromarray(image)
  image.save(file, form, **options)
  return file.getvalue()


def distance(image, other):
  assert image.shape == other.shape and image.dtype == np.uint8
  return np.abs(image.astype(float) - other).mean()


def test_jpeg_is_decoded_to_within_two_levels():
  picture = gradient()
  assert distance(decode(encoded(picture, quality=95)), picture) < 2


@pytest.mark.parametrize('form', ['PNG', 'BMP', 'TIFF', 'GIF', 'WEBP'])
def test_other_formats_are_told_by_content_not_by_name(form):
  options = {'lossless': True} if form == 'WEBP' else {}
  tolerance = 20 if form == 'GIF' else 0  # 256 colours
  picture = gradient()
  image = decode(encoded(picture, form, **options))
  assert distance(image, picture) <= tolerance


def test_grey_jpeg_becomes_three_equal_channels():
  grey = gradient()[..., 0]
  image = decode(encoded(grey, quality=95))
  assert (image[..., 0] == image[..., 1]).all()
  assert (image[..., 0] == image[..., 2]).all()
  assert distance(image[..., 0], grey) < 2


@pytest.mark.parametrize('space', ['RGB', 'YCbCr'])
def test_both_jpeg_colour_spaces_give_the_same_picture(space):
  picture = Image.fromarray(gradient())
  data = encoded(picture, quality=95, keep_rgb=space == 'RGB')
  assert distance(decode(data), gradient()) < 2


def test_cmyk_jpeg_equals_pillows_conversion():
  cmyk = Image.fromarray(gradient()).convert('CMYK')
  data = encoded(cmyk, quality=95)
  with Image.open(io.BytesIO(data)) as file:
    expected = np.array(file.convert('RGB'))
  assert distance(decode(data), expected) == 0
  assert distance(decode(data), gradient()) < 4


def test_alpha_is_dropped():
  alpha = np.full((24, 40, 1), 7, np.uint8)
  rgba = np.concatenate([gradient(), alpha], -1)
  assert distance(decode(encoded(rgba, 'PNG')), gradient()) == 0


def test_palette_is_looked_up():
  palette = Image.fromarray(gradient()).quantize(16)
  expected = np.array(palette.convert('RGB'))
  assert distance(decode(encoded(palette, 'PNG')), expected) == 0


def test_sixteen_bit_grey_keeps_its_high_byte():
  grey = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) * 64
  image = decode(encoded(grey, 'PNG'))
  np.testing.assert_array_equal(image[..., 2], grey >> 8)


def test_sixteen_bit_colour_keeps_its_high_bytes():
  cv2 = pytest.importorskip('cv2')
  wide = gradient().astype(np.uint16) * 257 - gradient() // 2
  _, data = cv2.imencode('.png', wide[..., ::-1])
  np.testing.assert_array_equal(decode(data.tobytes()), wide >> 8)


def test_stray_bytes_before_a_marker_are_forgiven():
  data = encoded(gradient())
  assert data[-2:] == b'\xff\xd9'
  image = decode(data[:-2] + b'\x01\x02\x03' + data[-2:])
  np.testing.assert_array_equal(image, decode(data))


@pytest.mark.parametrize('form', ['JPEG', 'GIF'])
def test_header_that_promises_too_many_pixels_is_an_error(form):
  data = bytearray(encoded(gradient(), form))
  at = data.index(b'\xff\xc0') + 5 if form == 'JPEG' else 6
  data[at : at + 4] = b'\xfe\xfe\xfe\xfe'
  with pytest.raises(ValueError, match='pixels'):
    decode(bytes(data))


def test_one_bit_picture_is_black_and_white():
  bits = Image.fromarray(gradient()).convert('1')
  assert set(np.unique(decode(encoded(bits, 'PNG')))) == {0, 255}


@pytest.mark.parametrize('form', ['JPEG', 'PNG'])
def test_one_pixel_picture(form):
  pixel = np.full((1, 1, 3), 200, np.uint8)
  assert distance(decode(encoded(pixel, form)), pixel) < 3


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied(orientation):
  # Stored pixels are what a viewer must turn back to the upright picture.
  undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
  upright = Image.fromarray(gradient())
  stored = upright if undo is None else upright.transpose(undo)
  exif = Image.Exif()
  exif[0x0112] = orientation
  image = decode(encoded(stored, quality=95, exif=exif))
  assert distance(image, gradient()) < 3


def test_array_passes_through_and_wrong_arrays_do_not():
  assert decode(gradient()) is not None
  np.testing.assert_array_equal(decode(gradient()), gradient())
  for wrong in (gradient()[..., :1], gradient().astype(np.float32)):
    with pytest.raises(ValueError, match='expected uint8'):
      decode(wrong)


@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'GIF', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('kept', [0, 1, 3, 30, 0.5, 0.9])
def test_truncated_file_is_an_error(form, kept):
  noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)
  data = encoded(noise, form)
  kept = kept if isinstance(kept, int) else int(kept * len(data))
  with pytest.raises(ValueError):
    decode(data[:kept])


def test_scratch_memory_changes_no_pixel_and_is_used_again():
  scratch = Scratch()
  for shape in ((24, 40), (50, 60), (8, 9)):
    data = encoded(gradient(*shape))
    image = decode(data, scratch)
    np.testing.assert_array_equal(image, decode(data))
    assert np.shares_memory(image, np.frombuffer(scratch(1), np.uint8))


def test_text_called_jpg_is_an_error():
  with pytest.raises(ValueError, match='cannot identify'):
    decode(b'<html>404 Not Found</html>')


@hypothesis.settings(max_examples=60, deadline=2000, derandomize=True)
@hypothesis.given(strategies.data())
def test_mutated_jpegs_give_a_picture_or_an_error(data):
  _fuzz(data, encoded(gradient(33, 47), quality=80))


@pytest.mark.slow
@hypothesis.settings(max_examples=1000, deadline=5000, derandomize=True)
@hypothesis.given(strategies.data())
def test_mutated_photographs_give_a_picture_or_an_error(data):
  files = photographs(40)
  _fuzz(data, data.draw(strategies.sampled_from(files)))


def _fuzz(data, file):
  """Overwrites, drops and repeats bytes; decodes what is left."""
  changed = bytearray(file)
  for _ in range(data.draw(strategies.integers(1, 4))):
    at = data.draw(strategies.integers(0, len(changed)))
    new = data.draw(strategies.binary(max_size=8))
    end = at + data.draw(strategies.sampled_from([0, 0, len(new), 100]))
    changed[at:end] = new
  try:
    image = decode(bytes(changed))
  except ValueError as error:
    assert str(error)
  else:
    assert image.dtype == np.uint8 and image.ndim == 3
    assert image.shape[-1] == 3 and image.size


@functools.cache
def photographs(count):
  """Bytes of `count` real photographs, spread over Caltech-101's classes."""
  if not PHOTOGRAPHS.exists():
    pytest.skip(f'{PHOTOGRAPHS} is not here')
  with tarfile.open(PHOTOGRAPHS) as tar:
    members = tar.getmembers()
    chosen = members[:: len(members) // count][:count]
    return [tar.extractfile(member).read() for member in chosen]


@pytest.mark.slow
def test_jpegs_are_decoded_as_tensorflow_does():
  tf = pytest.importorskip('tensorflow')
  for data in photographs(200):
    expected = tf.io.decode_jpeg(data, channels=3).numpy()
    np.testing.assert_array_equal(decode(data), expected)
