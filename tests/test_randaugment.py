"""RandAugment: operations against PIL or a NumPy loop; the policy's draws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import photographs
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy import stats

from nfnets.data import randaugment

# (height, width, magnitude): odd sizes, upright and lying, the paper's M.
CASES = [(97, 131, 5), (131, 97, 10), (64, 75, 15)]
CENTRE = (0.8, 0.1)  # a cutout that two borders cut
NAMES = list(randaugment.OPERATIONS)

# PAPER_FACTS 2.2, arguments at magnitudes 5, 10 and 15.
PUBLISHED = {
  **dict.fromkeys(('auto_contrast', 'equalize', 'invert'), 3 * (None,)),
  'rotate': (15, 30, 45),
  'posterize': (2, 4, 6),
  'solarize': (128, 256, 384),
  **dict.fromkeys(
    ('color', 'contrast', 'brightness', 'sharpness'), (1.0, 1.9, 2.8)
  ),
  **dict.fromkeys(('shear_x', 'shear_y'), (0.15, 0.30, 0.45)),
  **dict.fromkeys(('translate_x', 'translate_y'), (50, 100, 150)),
  'cutout': (20, 40, 60),
  'solarize_add': (55, 110, 165),
}
EXACT = ['equalize', 'invert', 'posterize', 'solarize', 'cutout']
GEOMETRIC = ['rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y']
POINTWISE = [name for name in NAMES if name not in GEOMETRIC]


@functools.cache
def everything(height: int, width: int, magnitude: int) -> tuple:
  """Photographs [P, H, W, 3] and all results [P, 16, 2 signs, H, W, 3]."""
  photos = photographs.batch(4, height, width)
  count = len(photos)
  return photos, _run(photos, magnitude).reshape(
    count, len(NAMES), 2, height, width, 3
  )


def _run(photos: np.ndarray, magnitude: float) -> np.ndarray:
  n = len(photos) * len(NAMES) * 2
  which = np.tile(np.repeat(np.arange(len(NAMES)), 2), len(photos))
  draws = randaugment.Draws(
    slots(which),
    jnp.asarray(np.tile([1, -1], n // 2)[None]),
    jnp.tile(jnp.asarray(CENTRE), (1, n, 1)),
  )
  images = np.repeat(photos, n // len(photos), axis=0)
  run = jax.jit(randaugment.apply, static_argnums=2)
  return np.asarray(run(draws, images, magnitude))


def slots(which: np.ndarray) -> jax.Array:
  """[1, N] places in a batch sorted by operation, each as often as another."""
  return jnp.asarray(np.argsort(np.argsort(which, kind='stable'))[None])


def oracle(name: str, photo: Image.Image, value: float) -> np.ndarray:
  array = np.asarray(photo).astype(int)
  match name:
    case 'auto_contrast':
      return np.asarray(ImageOps.autocontrast(photo))
    case 'equalize' | 'invert':
      return np.asarray(getattr(ImageOps, name)(photo))
    case 'posterize' | 'solarize':
      return np.asarray(getattr(ImageOps, name)(photo, value))
    case 'solarize_add':
      return np.where(array < 128, np.minimum(array + value, 255), array)
    case 'cutout':
      row = int(np.float32(CENTRE[0]) * photo.height)
      column = int(np.float32(CENTRE[1]) * photo.width)
      cut = photo.copy()
      ImageDraw.Draw(cut).rectangle(
        (column - value, row - value, column + value - 1, row + value - 1),
        fill=(128, 128, 128),
      )
      return np.asarray(cut)
    case 'color' | 'contrast' | 'brightness' | 'sharpness':
      enhancer = getattr(ImageEnhance, name.capitalize())
      return np.asarray(enhancer(photo).enhance(value))
  raise AssertionError(name)


def matrix(name: str, value: float, height: int, width: int) -> np.ndarray:
  """[2, 3]: whole output pixel (x, y, 1) to input coordinates."""
  middle = np.array([(width - 1) / 2, (height - 1) / 2])
  if name == 'rotate':
    angle = math.radians(value)
    turn = np.array(
      [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return np.column_stack([turn, middle - turn @ middle])
  out, row = np.eye(2, 3), int(name.endswith('y'))
  if name.startswith('translate'):
    out[row, 2] = -value
  else:
    out[row, 1 - row] = value
  return out


@pytest.mark.parametrize('name', NAMES)
def test_arguments_are_the_published_ones(name):
  assert len(NAMES) == len(PUBLISHED) == 16
  for magnitude, published in zip((5, 10, 15), PUBLISHED[name]):
    mine = randaugment.OPERATIONS[name][1](magnitude)
    if name in GEOMETRIC and name != 'rotate':
      mine, published = np.array(mine), matrix(name, published, 1, 1)
    assert mine == pytest.approx(published, abs=1e-12)


@pytest.mark.parametrize('name', POINTWISE)
@pytest.mark.parametrize('case', CASES)
def test_operation_equals_pil_but_for_a_rounding(name, case):
  photos, results = everything(*case)
  value = PUBLISHED[name][case[2] // 5 - 1]
  limit = 0 if name in EXACT else 1  # grey levels
  for photo, by_sign in zip(photos, results[:, NAMES.index(name)]):
    expected = oracle(name, Image.fromarray(photo), value).astype(int)
    for mine in by_sign:
      assert np.abs(mine.astype(int) - expected).max() <= limit


@pytest.mark.parametrize('name', GEOMETRIC)
@pytest.mark.parametrize('case', CASES)
def test_geometry_takes_the_nearest_pixel_and_fills_with_128(name, case):
  height, width, magnitude = case
  photos, results = everything(*case)
  y, x = np.mgrid[:height, :width]
  for i, sign in enumerate((1, -1)):
    value = sign * PUBLISHED[name][magnitude // 5 - 1]
    a = matrix(name, value, height, width)
    at = np.einsum('ij,jhw->ihw', a, np.stack([x, y, np.ones_like(x)]))
    # Exactly between two pixels float noise decides; nowhere else.
    decided = (np.abs(at + 0.5 - np.rint(at + 0.5)) > 2e-4).all(0)
    if name != 'rotate':
      decided[:] = True  # slopes are short decimals: ties round up
      at = np.rint(at * 1e9) / 1e9
    column, row = np.floor(at + 0.5).astype(int)
    inside = ((column >= 0) & (column < width) & (row >= 0) & (row < height))[
      ..., None
    ]
    assert decided.mean() > 0.98
    for photo, by_sign in zip(photos, results[:, NAMES.index(name)]):
      taken = photo[row.clip(0, height - 1), column.clip(0, width - 1)]
      expected = np.where(inside, taken, 128)
      np.testing.assert_array_equal(by_sign[i][decided], expected[decided])


def test_positive_rotation_is_pil_s_counterclockwise():
  photos, results = everything(*CASES[1])
  for photo, mine in zip(photos, results[:, NAMES.index('rotate'), 0]):
    pil = Image.fromarray(photo).rotate(30, fillcolor=(128, 128, 128))
    # PIL's own rotation has 16-bit coordinates: a few pixels fall elsewhere.
    assert (mine == np.asarray(pil)).all(-1).mean() > 0.98


@pytest.mark.parametrize('shape', [(1, 7), (2, 2)])
def test_tiny_images_pass_every_operation(shape):
  photos = photographs.batch(2, *shape)
  results = _run(photos, 10).reshape(2, len(NAMES), 2, *shape, 3)
  for name in ('equalize', 'invert', 'posterize', 'sharpness', 'contrast'):
    value = PUBLISHED[name][1]
    for photo, by_sign in zip(photos, results[:, NAMES.index(name)]):
      expected = oracle(name, Image.fromarray(photo), value).astype(int)
      assert np.abs(by_sign[0].astype(int) - expected).max() <= 1


def one(name, image, magnitude):
  """An operation on one image [H, W, 3]."""
  draws = randaugment.draw(jax.random.key(0), 1, 1)
  slot = jnp.full((1, 1), NAMES.index(name))
  images = jnp.asarray(image)[None]
  return randaugment.apply(draws._replace(slot=slot), images, magnitude)[0]


def test_flat_image_stays_flat_under_contrast_stretching():
  image = np.full((9, 11, 3), (7, 0, 255), np.uint8)
  for name in ('auto_contrast', 'equalize'):
    np.testing.assert_array_equal(one(name, image, 10), image)


def test_floats_are_clipped_and_truncated_as_by_the_published_cast():
  image = np.array([[[-3.0, 12.9, 255.7], [300.0, 254.999, 0.5]]], np.float32)
  inverted = one('invert', image, 10)
  np.testing.assert_array_equal(inverted, [[[255, 243, 0], [0, 1, 255]]])


def test_a_magnitude_whose_coordinates_overflow_is_refused():
  image = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(ValueError, match='smaller magnitude'):
    one('translate_x', image, 300)


def operations(n, layers, keys, seed=0):
  """[keys, layers, n] drawn operations."""
  draw = jax.jit(jax.vmap(lambda k: randaugment.draw(k, n, layers).slot))
  slot = np.asarray(draw(jax.random.split(jax.random.key(seed), keys)))
  return slot // -(-n // 16)


@pytest.mark.parametrize('n', [19, 32])
def test_every_image_draws_every_operation_equally_often(n):
  drawn = operations(n, 2, 3000)
  for image in (0, n // 2, n - 1):
    for layer in range(2):
      counts = np.bincount(drawn[:, layer, image], minlength=16)
      assert len(counts) == 16
      assert stats.chisquare(counts).pvalue > 1e-4


def test_layers_of_an_image_are_independent():
  drawn = operations(20, 2, 6000)
  pairs = drawn[:, 0, 3] * 16 + drawn[:, 1, 3]
  counts = np.bincount(pairs, minlength=256)
  assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize('n', [1, 19, 32])
def test_a_layer_gives_each_operation_to_a_sixteenth_at_most(n):
  drawn = operations(n, 1, 50)[:, 0]
  counts = np.stack([np.bincount(row, minlength=16) for row in drawn])
  assert counts.max() <= -(-n // 16)


def test_signs_and_cutout_centres_are_fair():
  draws = randaugment.draw(jax.random.key(0), 500, 4)
  sign = np.asarray(draws.sign)
  assert set(np.unique(sign)) == {-1, 1}
  assert abs(sign.mean()) < 4 / np.sqrt(sign.size)
  centre = np.asarray(draws.centre).ravel()
  assert stats.kstest(centre, 'uniform').pvalue > 1e-4


def test_layers_apply_in_order_and_always():
  image = photographs.batch(1, 27, 31)
  chosen = ['invert', 'posterize', 'solarize_add']
  slot = jnp.asarray([[NAMES.index(name)] for name in chosen])
  draws = randaugment.draw(jax.random.key(0), 1, 3)._replace(slot=slot)
  result = randaugment.apply(draws, image, 5)
  two_bits = (255 - image) & 0b11000000
  expected = np.where(two_bits < 128, two_bits + 55, two_bits)
  np.testing.assert_array_equal(result, expected)
