"""nfnets/data/crops.py: windows stay inside and are as published."""

import numpy as np
import pytest
from PIL import Image

from nfnets.data import crops


def windows(height, width, count, image_size=192, seed=0):
  draws = np.random.RandomState(seed).random_sample((count, 40))
  return np.array(
    [crops.inception_window(height, width, image_size, u) for u in draws]
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
  expected = crops.centre_window(100, 2000, 192)
  assert expected == (8, 958, 85, 85)  # 85 = 100 * 192 / 224
  assert {tuple(w) for w in windows(100, 2000, 50)} == {expected}


def test_padded_cut_shows_the_image_shifted_over_black():
  image = np.arange(1, 37, dtype=np.uint8).reshape(3, 4, 3)
  seen = set()
  for u in np.random.RandomState(0).random_sample((300, 2)):
    cut = crops.padded_cut(image, 1, u)
    dy, dx = (int(v * 3) - 1 for v in u)
    expected = np.zeros_like(image)
    for y in range(3):
      for x in range(4):
        if 0 <= y + dy < 3 and 0 <= x + dx < 4:
          expected[y, x] = image[y + dy, x + dx]
    np.testing.assert_array_equal(cut, expected)
    seen.add((dy, dx))
  assert len(seen) == 9


@pytest.mark.parametrize('shape', [(5, 8), (4, 1), (192, 192)])
def test_mirrored_exchanges_left_and_right(shape):
  image = np.random.RandomState(0).randint(0, 256, (*shape, 3), np.uint8)
  np.testing.assert_array_equal(crops.mirrored(image), image[:, ::-1])


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
    np.abs(crops.resize_exact(image, size, size + 2) - expected).max() < 0.501
  )


def test_exact_resize_equals_pillow_when_enlarging():
  # Middling levels: Pillow clamps between its two passes.
  image = np.random.RandomState(0).randint(64, 192, (13, 17, 3), np.uint8)
  pillow = Image.fromarray(image).resize((40, 31), Image.Resampling.BICUBIC)
  ours = crops.resize_exact(image, 31, 40).astype(int)
  assert np.abs(ours - np.asarray(pillow)).max() <= 1  # Pillow rounds twice


@pytest.mark.parametrize('resize', [crops.resize, crops.resize_exact])
def test_resizing_keeps_a_constant_and_the_same_size(resize):
  flat = np.full((9, 7, 3), 123, np.uint8)
  assert (resize(flat, 20, 4) == 123).all()
  noise = np.random.RandomState(0).randint(0, 256, (9, 7, 3), np.uint8)
  np.testing.assert_array_equal(resize(noise, 9, 7), noise)


@pytest.mark.parametrize(
  'prepare', [crops.resize_then_crop, crops.crop_then_resize]
)
@pytest.mark.parametrize('shape', [(300, 400), (31, 17), (1, 1)])
def test_evaluation_gives_the_asked_size(prepare, shape):
  image = np.zeros((*shape, 3), np.uint8)
  assert prepare(image, 64).shape == (64, 64, 3)


def test_nfnets_evaluation_squashes_then_takes_the_centre():
  # At twice the size each way and no smoothing, 0.875 of each axis remains.
  y, x = np.mgrid[0:64, 0:512]
  image = np.stack([4 * y, x // 2, 0 * x], -1).astype(np.uint8)
  out = crops.resize_then_crop(image, 224)
  assert abs(int(out[0, 0, 0]) - 4 * 64 / 16) < 4
  assert abs(int(out[0, -1, 1]) - 256 * 15 / 16) < 4


def test_resnets_evaluation_keeps_the_aspect():
  y, x = np.mgrid[0:256, 0:512]
  image = np.stack([y, x // 2, 0 * x], -1).astype(np.uint8)
  out = crops.crop_then_resize(image, 224)  # the centre 224 x 224, unresized
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


@pytest.mark.slow
def test_resizes_are_tensorflows_to_less_than_a_grey_level():
  tf = pytest.importorskip('tensorflow')
  from test_decode import photographs

  from nfnets.data.decode import decode

  exact, fast = [], []
  for data in photographs(100):
    image = decode(data)
    reference = tf.image.resize(image, (192, 192), 'bicubic').numpy()
    reference = np.clip(reference, 0, 255)
    exact.append(np.abs(crops.resize_exact(image, 192, 192) - reference).mean())
    fast.append(np.abs(crops.resize(image, 192, 192) - reference).mean())
  print(f'exact {np.mean(exact):.3f}, fast {np.mean(fast):.3f} grey levels')
  assert max(exact) < 0.3  # rounding to whole levels costs 0.25
  assert np.mean(fast) < 1
