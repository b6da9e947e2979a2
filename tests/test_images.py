"""Decoding, windows and resizing: right pixels, or one clear error."""

import functools
import io
import os
import tarfile

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from ml_collections import ConfigDict
from photographs import ARCHIVE
from PIL import Image

from nfnets.data import images
from nfnets.data.images import decode


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


LOSSLESS = 'PNG', 'BMP', 'TIFF', 'WEBP', 'JPEG2000', 'PPM', 'TGA'


@pytest.mark.parametrize(
  ('form', 'limit'),
  [('JPEG', 2), ('GIF', 20), *((form, 0) for form in LOSSLESS)],  # 256 colours
)
def test_formats_are_told_by_content_and_decoded(form, limit):
  options = {'WEBP': {'lossless': True}, 'JPEG': {'quality': 95}}
  data = encoded(gradient(), form, **options.get(form, {}))
  assert distance(decode(data), gradient()) <= limit


@pytest.mark.parametrize('space', ['RGB', 'YCbCr'])
def test_both_jpeg_colour_spaces_give_the_same_picture(space):
  picture = Image.fromarray(gradient())
  data = encoded(picture, quality=95, keep_rgb=space == 'RGB')
  assert distance(decode(data), gradient()) < 2


@pytest.mark.parametrize(
  ('mode', 'form'),
  [*zip(('1', 'L', 'LA', 'P', 'RGBA'), 5 * ['PNG']),
   ('L', 'JPEG'), ('CMYK', 'JPEG')],
)  # fmt: skip
def test_other_pixel_modes_become_pillows_rgb(mode, form):
  data = encoded(Image.fromarray(gradient()).convert(mode), form)
  with Image.open(io.BytesIO(data)) as file:
    expected = np.array(file.convert('RGB')).astype(float)
  # libjpeg-turbo's fast transform, as TensorFlow's, is a level off the exact.
  limit = 2 if (mode, form) == ('L', 'JPEG') else 0
  assert np.abs(decode(data) - expected).max() <= limit


def test_sixteen_bit_channels_keep_their_high_byte():
  grey = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) * 64
  image = decode(encoded(grey, 'PNG'))
  np.testing.assert_array_equal(image[..., 2], grey >> 8)
  colour = gradient().astype(np.uint16) * 257 - gradient() // 2
  _, data = cv2.imencode('.png', colour[..., ::-1])
  np.testing.assert_array_equal(decode(data.tobytes()), colour >> 8)


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


@pytest.mark.parametrize('form', ['PNG', 'GIF', 'WEBP'])
def test_many_pixels_in_few_bytes_are_refused_before_they_are_decoded(form):
  flat = Image.new('L', (4000, 5000))
  with pytest.raises(ValueError, match='5000 x 4000 pixels are too many'):
    decode(encoded(flat, form))


def test_lines_of_a_million_pixels_are_refused():
  line = Image.new('L', (1, 1_000_000))
  with pytest.raises(ValueError, match='1000000 x 1 pixels: a side exceeds'):
    decode(encoded(line, 'PNG'))


def test_progressive_jpeg_of_thousands_of_scans_is_refused():
  data = encoded(gradient(), progressive=True)
  assert distance(decode(data), gradient()) < 8
  last_scan = data[data.rindex(b'\xff\xda') : -2]
  with pytest.raises(ValueError, match='3010 scans of 24 x 40 pixels'):
    decode(data[:-2] + last_scan * 3000 + data[-2:])


def test_a_film_after_the_image_is_no_scan_of_it():
  data = encoded(gradient())
  film = decode(data + 200 * b'\xff\xda')
  np.testing.assert_array_equal(film, decode(data))


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
  (tmp_path / 'zero.jpg').symlink_to('/dev/zero')
  os.mkfifo(tmp_path / 'pipe.jpg')
  for name in ('zero.jpg', 'pipe.jpg'):
    with pytest.raises(ValueError, match='not a regular file'):
      images.read(tmp_path / name)
  (tmp_path / 'hole.jpg').touch()
  os.truncate(tmp_path / 'hole.jpg', 2**40)
  with pytest.raises(ValueError, match='bytes exceed'):
    images.read(tmp_path / 'hole.jpg')
  (tmp_path / 'good.jpg').write_bytes(b'\xff\xd8')
  (tmp_path / 'link.jpg').symlink_to('good.jpg')
  assert images.read(tmp_path / 'link.jpg') == b'\xff\xd8'
  with pytest.raises(FileNotFoundError):
    images.read(tmp_path / 'none.jpg')


@pytest.mark.parametrize(
  'data', [encoded(gradient(), 'EPS'), b'<html>404 Not Found</html>']
)
def test_neither_postscript_nor_text_is_decoded(data):
  with pytest.raises(ValueError, match='not an image in a known format'):
    decode(data)


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
  exif[0x011A] = 72.0  # a resolution
  data = encoded(stored, quality=95, exif=exif)
  assert distance(decode(data), gradient()) < 3
  # A resolution that is text harms nobody.
  broken = data.replace(b'\x01\x1a\0\5', b'\x01\x1a\0\2')
  assert broken != data
  assert distance(decode(broken), gradient()) < 3


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
  if not ARCHIVE.exists():
    pytest.skip(f'{ARCHIVE} is not here')
  with tarfile.open(ARCHIVE) as tar:
    members = tar.getmembers()
    chosen = members[:: len(members) // count][:count]
    return [tar.extractfile(member).read() for member in chosen]


@pytest.mark.slow
def test_jpegs_are_decoded_as_tensorflow_does():
  tf = pytest.importorskip('tensorflow')
  for data in photographs(200):
    expected = tf.io.decode_jpeg(data, channels=3).numpy()
    np.testing.assert_array_equal(decode(data), expected)


def windows(height, width, count, image_size=192, seed=0):
  draws = np.random.RandomState(seed).random_sample((count, 40))
  return np.array(
    [images.inception_window(height, width, image_size, u) for u in draws]
  )


@pytest.mark.parametrize('shape', [(375, 500), (500, 333), (32, 32)])
def test_inception_windows_keep_to_image_area_and_aspect(shape):
  height, width = shape
  top, left, h, w = windows(height, width, 2000).T
  assert (top >= 0).all() and (top + h <= height).all()
  assert (left >= 0).all() and (left + w <= width).all()
  area = h * w / (height * width)
  assert (area >= 0.1).all() and (area <= 1).all()
  # Sides are whole pixels, so the aspect is exact only to half a pixel.
  assert ((w + 0.5) / h >= 3 / 4).all() and ((w - 0.5) / h <= 4 / 3).all()


def test_inception_windows_reach_both_ends_of_every_range():
  top, left, h, w = windows(375, 500, 5000).T
  area, aspect = h * w / (375 * 500), w / h
  assert area.min() < 0.11 and area.max() > 0.95
  assert aspect.min() < 0.76 and aspect.max() > 1.32
  assert top.min() == 0 and (top + h).max() == 375
  assert left.min() == 0 and (left + w).max() == 500


@pytest.mark.parametrize('shape', [(1, 1), (1, 300), (2000, 3), (7, 5)])
def test_odd_shapes_give_a_window_inside(shape):
  for top, left, h, w in windows(*shape, 200):
    assert 0 <= top < top + h <= shape[0] and 0 <= left < left + w <= shape[1]


def test_ten_misses_fall_back_on_the_padded_centre_crop():
  # No window of a 10:1 strip covers a tenth of it at these aspects.
  expected = images.centre_window(100, 2000, 192)
  assert expected == (8, 958, 85, 85)  # 85 = 100 * 192 / 224
  assert {tuple(w) for w in windows(100, 2000, 50)} == {expected}


def test_padded_crop_shows_the_image_shifted_over_black():
  image = np.arange(1, 28, dtype=np.uint8).reshape(3, 3, 3)
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
  data = {'crop': 'pad1', 'flip': False, 'train_image_size': 3}
  shifts = [padded[y : y + 3, x : x + 3] for y in range(3) for x in range(3)]
  augment = images.augmentation(ConfigDict(data), seed=0)
  crops = {augment(image, position).tobytes() for position in range(300)}
  assert crops == {shift.tobytes() for shift in shifts}


def bicubic_loop(signal, size):
  """Keys' interpolation of a 1-D signal by the formula, a = -0.5."""
  out = []
  for i in range(size):
    centre = (i + 0.5) * len(signal) / size - 0.5
    total = weight = 0.0
    for j in range(len(signal)):
      x = abs(centre - j)
      if x <= 1:
        k = 1.5 * x**3 - 2.5 * x**2 + 1
      elif x < 2:
        k = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
      else:
        continue
      total, weight = total + k * signal[j], weight + k
    out.append(total / weight)
  return np.array(out)


@pytest.mark.parametrize('size', [5, 8, 13, 31])
def test_exact_resize_is_keys_interpolation_along_both_axes(size):
  image = np.random.RandomState(0).randint(0, 256, (13, 17, 3), np.uint8)
  rows = np.apply_along_axis(bicubic_loop, 0, image.astype(float), size)
  both = np.apply_along_axis(bicubic_loop, 1, rows, size + 2)
  expected = np.clip(both, 0, 255)
  assert (
    np.abs(images.resize_exact(image, size, size + 2) - expected).max() < 0.501
  )


@pytest.mark.parametrize('resize', [images.resize, images.resize_exact])
def test_resizing_keeps_a_constant_and_the_same_size(resize):
  flat = np.full((9, 7, 3), 123, np.uint8)
  assert (resize(flat, 20, 4) == 123).all()
  noise = np.random.RandomState(0).randint(0, 256, (9, 7, 3), np.uint8)
  np.testing.assert_array_equal(resize(noise, 9, 7), noise)


@pytest.mark.parametrize('how', [*images.PREPARATIONS, 'center_0.9'])
@pytest.mark.parametrize('shape', [(300, 400), (31, 17), (1, 1), (1, 65535)])
def test_evaluation_gives_the_asked_size(how, shape):
  image = np.zeros((*shape, 3), np.uint8)
  assert images.preparation(how)(image, 64).shape == (64, 64, 3)


def test_nfnets_evaluation_squashes_then_takes_the_centre():
  # At twice the size each way and no smoothing, 0.875 of each axis remains.
  y, x = np.mgrid[0:64, 0:512]
  image = np.stack([4 * y, x // 2, 0 * x], -1).astype(np.uint8)
  out = images.resize_then_crop(image, 224)
  assert abs(int(out[0, 0, 0]) - 4 * 64 / 16) < 4
  assert abs(int(out[0, -1, 1]) - 256 * 15 / 16) < 4


def test_resnets_evaluation_keeps_the_aspect():
  y, x = np.mgrid[0:256, 0:512]
  image = np.stack([y, x // 2, 0 * x], -1).astype(np.uint8)
  out = images.crop_then_resize(image, 224)  # the centre 224 x 224, unresized
  np.testing.assert_array_equal(out, image[16:240, 144:368])


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(375, 500), (500, 333), (200, 300)])
def test_windows_are_distributed_as_tensorflows(shape):
  tf = pytest.importorskip('tensorflow')
  from scipy import stats

  count = 4000
  box = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])

  @tf.function  # one trace, since i is a tensor
  def draw(i):
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
      [*shape, 3],
      box,
      seed=tf.stack([i, 1]),
      min_object_covered=0.1,
      aspect_ratio_range=(3 / 4, 4 / 3),
      area_range=(0.08, 1.0),
      max_attempts=10,
    )
    return tf.concat([begin[:2], size[:2]], 0)

  theirs = np.array([draw(i).numpy() for i in tf.range(count)]).T
  ours = windows(*shape, count).T
  for name, a, b in zip(('top', 'left', 'height', 'width'), ours, theirs):
    assert stats.ks_2samp(a, b).pvalue > 1e-3, name
  areas = [w[2] * w[3] / (shape[0] * shape[1]) for w in (ours, theirs)]
  aspects = [w[3] / w[2] for w in (ours, theirs)]
  assert stats.ks_2samp(*areas).pvalue > 1e-3
  assert stats.ks_2samp(*aspects).pvalue > 1e-3
