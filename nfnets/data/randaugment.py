"""RandAugment on the device: L layers, each one of 16 operations per image.

Every layer picks an operation uniformly and always applies it, at a fixed
magnitude (arXiv 1909.13719, as in the release of arXiv 2102.06171).

Operations take one image of whole grey levels, int32 [3, H, W], and compute as
Pillow does (`ImageOps`, `ImageEnhance`), rounding included. The release differs
from Pillow, and so from this file, in three places: its Contrast blends with
the number of pixels / 256 (144 at 192 px) where Pillow takes the mean grey
level, its Sharpness truncates the smoothed image where Pillow rounds, and its
grey weights are the same luma in floating point.

Geometry follows the release: the output pixel (x, y), in whole numbers, takes
the input pixel nearest to A (x, y), rounding halves up, or 128 where that is
outside the image. Rotation is about ((W - 1) / 2, (H - 1) / 2), as in Pillow; a
shear keeps row (column) 0 in place, where Pillow's affine map on pixel centres
would shift it by half the shear.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FILL = 128  # grey level outside the image and in cutouts: the release's
_FRACTION_BITS = 18  # of coordinates: integers are equal on every backend


class Draws(NamedTuple):
  """The random numbers of the policy for L layers and N images.

  Attributes:
    slot: [L, N] int32, the image's place in a batch that is sorted by operation
      and has ceil(N / 16) places for each.
    sign: [L, N] int32, 1 or -1, the direction of a rotation, shear or shift.
    centre: [L, N, 2] float32 in [0, 1), row and column of the cutout's centre
      as fractions of the image's sides.
  """

  slot: jax.Array
  sign: jax.Array
  centre: jax.Array


# From an argument, an image [3, H, W] and the image's draws to an image.
Operation = Callable[[Any, jax.Array, Draws], jax.Array]


def draw(key: jax.Array, n: int, layers: int) -> Draws:
  """Draws the operations and their randomness for n images from a jax key.

  Each layer shuffles the batch into 16 groups of equal size, one for each
  operation. Each image by itself has the published distribution; within a
  layer, at most ceil(N / 16) images get the same operation.
  """
  slot_key, key = jax.random.split(key)
  sign, *centre = jax.random.uniform(key, (3, layers, n))
  places = _group_size(n) * len(OPERATIONS)
  order = jax.random.uniform(slot_key, (layers, places))
  slot = jnp.argsort(order)[:, :n].astype(jnp.int32)
  sign = jnp.where(sign < 0.5, -1, 1)
  return Draws(slot, sign, jnp.stack(centre, axis=-1))


def apply(draws: Draws, images: jax.Array, magnitude: float) -> jax.Array:
  """Applies what was drawn to a batch.

  Args:
    draws: of `draw`.
    images: [N, H, W, 3] grey levels, uint8 or float32; clipped to 0..255 and
      truncated to whole numbers, as the release's cast to uint8 does.
    magnitude: M, the same for all; `OPERATIONS` says what it means.

  Returns:
    [N, H, W, 3] uint8.
  """
  n = images.shape[0]
  size = _group_size(n)

  def layer(planes: jax.Array, drawn: Draws) -> tuple[jax.Array, None]:
    # Places left over repeat image 0; their results are dropped.
    places = jnp.zeros(size * len(OPERATIONS), jnp.int32)
    image_at = places.at[drawn.slot].set(jnp.arange(n))
    done = []
    for name, group in zip(OPERATIONS, jnp.split(image_at, len(OPERATIONS))):
      operation, value_at = OPERATIONS[name]
      operate = jax.vmap(functools.partial(operation, value_at(magnitude)))
      one = Draws(*(x[group] for x in drawn))
      result = operate(planes[group].astype(jnp.int32), one)
      done.append(result.astype(jnp.uint8))
    return jnp.concatenate(done)[drawn.slot], None

  planes = jnp.moveaxis(images, -1, 1)
  if images.dtype != jnp.uint8:
    planes = jnp.clip(planes, 0, 255).astype(jnp.uint8)
  planes, _ = jax.lax.scan(layer, planes, draws)
  return jnp.moveaxis(planes, 1, -1)


def _group_size(n: int) -> int:
  return -(-n // len(OPERATIONS))


def _auto_contrast(_: None, image: jax.Array, drawn: Draws) -> jax.Array:
  low, high = (f(image, (1, 2), keepdims=True) for f in (jnp.min, jnp.max))
  span = (high - low).astype(jnp.float32)
  # Adding 0.5 keeps exact quotients from being rounded down by float error.
  stretched = ((image - low) * 255 + 0.5) / jnp.maximum(span, 1)
  return jnp.where(high > low, stretched.astype(jnp.int32), image)


def _equalize(_: None, image: jax.Array, drawn: Draws) -> jax.Array:
  @jax.vmap
  def equalize(plane: jax.Array) -> jax.Array:
    counts = jnp.bincount(plane.reshape(-1), length=256)
    step = (plane.size - counts[plane.max()]) // 255
    below = jnp.cumsum(counts) - counts
    table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table[plane], plane)

  return equalize(image)


def _invert(_: None, image: jax.Array, drawn: Draws) -> jax.Array:
  return 255 - image


def _rotate(degrees: float, image: jax.Array, drawn: Draws) -> jax.Array:
  cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
  matrix = (cos, -sin, 0), (sin, cos, 0)
  return _affine(matrix, image, drawn, about_centre=True)


def _posterize(bits: int, image: jax.Array, drawn: Draws) -> jax.Array:
  return image & ~((1 << (8 - min(bits, 8))) - 1)


def _solarize(threshold: int, image: jax.Array, drawn: Draws) -> jax.Array:
  return jnp.where(image < threshold, image, 255 - image)


def _color(factor: float, image: jax.Array, drawn: Draws) -> jax.Array:
  return _blend(_grey(image)[None], image, factor)


def _contrast(factor: float, image: jax.Array, drawn: Draws) -> jax.Array:
  grey = _grey(image)
  return _blend((2 * grey.sum() + grey.size) // (2 * grey.size), image, factor)


def _brightness(factor: float, image: jax.Array, drawn: Draws) -> jax.Array:
  return _blend(0, image, factor)


def _sharpness(factor: float, image: jax.Array, drawn: Draws) -> jax.Array:
  if min(image.shape[1:]) < 3:
    return image
  inner = image[:, 1:-1, 1:-1]
  rows = image[:, :-2] + image[:, 1:-1] + image[:, 2:]
  total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inner
  smooth = ((total + 6.5) / 13).astype(jnp.int32)
  return image.at[:, 1:-1, 1:-1].set(_blend(smooth, inner, factor))


def _cutout(half_side: int, image: jax.Array, drawn: Draws) -> jax.Array:
  inside = jnp.bool(True)
  for axis, size in enumerate(image.shape[1:]):
    centre = (drawn.centre[axis] * size).astype(jnp.int32)
    index = jnp.arange(size)
    span = (index >= centre - half_side) & (index < centre + half_side)
    inside &= jnp.expand_dims(span, 1 - axis)
  return jnp.where(inside[None], FILL, image)


def _solarize_add(addition: int, image: jax.Array, drawn: Draws) -> jax.Array:
  return jnp.where(image < 128, jnp.minimum(image + addition, 255), image)


def _grey(image: jax.Array) -> jax.Array:
  red, green, blue = image
  # ITU-R 601 luma in 16 fractional bits, rounded: Pillow's mode 'L'.
  return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _blend(base: jax.Array | int, image: jax.Array, factor: float) -> jax.Array:
  """base + factor (image - base), clipped, truncated: Pillow's Image.blend."""
  value = base + jnp.float32(factor) * (image - base).astype(jnp.float32)
  return jnp.clip(value, 0, 255).astype(jnp.int32)


def _affine(
  matrix: Sequence[Sequence[float]],
  image: jax.Array,
  drawn: Draws,
  about_centre: bool = False,
) -> jax.Array:
  """Takes the pixel nearest to matrix (x, y, 1), or `FILL` outside the image.

  Coordinates are sums of one table per axis in fixed point, which makes them
  equal on every backend.

  Args:
    matrix: [2, 3]; the drawn sign multiplies all of it but its diagonal.
    image: [3, H, W].
    drawn: of the image.
    about_centre: whether (x, y) are relative to the image's centre.
  """
  sign, (_, height, width) = drawn.sign, image.shape
  (xx, xy, x_shift), (yx, yy, y_shift) = matrix
  middle_x, middle_y = (np.array([width, height]) - 1) / 2 * about_centre
  x = np.arange(width)[None, :] - middle_x
  y = np.arange(height)[:, None] - middle_y
  half = 1 << (_FRACTION_BITS - 1)
  column = _fixed_point(middle_x + xx * x) + half
  column = (column + sign * _fixed_point(xy * y + x_shift)) >> _FRACTION_BITS
  row = _fixed_point(middle_y + yy * y) + half
  row = (row + sign * _fixed_point(yx * x + y_shift)) >> _FRACTION_BITS
  inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
  index = jnp.where(inside, row * width + column, 0)
  # Three channels packed into a word: one gather per pixel instead of three.
  words = image[0] | (image[1] << 8) | (image[2] << 16)
  taken = words.reshape(-1).at[index].get(mode='promise_in_bounds')
  planes = jnp.stack([taken & 255, (taken >> 8) & 255, taken >> 16])
  return jnp.where(inside[None], planes, FILL)


def _fixed_point(table: np.ndarray) -> np.ndarray:
  if np.abs(table).max() >= 1 << (29 - _FRACTION_BITS):
    raise ValueError(
      'RandAugment would reach coordinates of 2048 pixels or more; use smaller '
      'images or a smaller magnitude'
    )
  return np.rint(table * (1 << _FRACTION_BITS)).astype(np.int32)


def _enhancement(magnitude: float) -> float:
  return magnitude / 10 * 1.8 + 0.1


# The release's table: an operation and its argument at magnitude m.
OPERATIONS: dict[str, tuple[Operation, Callable]] = {
  'auto_contrast': (_auto_contrast, lambda m: None),
  'equalize': (_equalize, lambda m: None),
  'invert': (_invert, lambda m: None),
  'rotate': (_rotate, lambda m: m / 10 * 30),  # degrees
  'posterize': (_posterize, lambda m: int(m / 10 * 4)),  # bits kept
  'solarize': (_solarize, lambda m: int(m / 10 * 256)),  # threshold
  'color': (_color, _enhancement),
  'contrast': (_contrast, _enhancement),
  'brightness': (_brightness, _enhancement),
  'sharpness': (_sharpness, _enhancement),
  'shear_x': (_affine, lambda m: ((1, m / 10 * 0.3, 0), (0, 1, 0))),
  'shear_y': (_affine, lambda m: ((1, 0, 0), (m / 10 * 0.3, 1, 0))),
  'translate_x': (_affine, lambda m: ((1, 0, m / -10 * 100), (0, 1, 0))),
  'translate_y': (_affine, lambda m: ((1, 0, 0), (0, 1, m / -10 * 100))),
  'cutout': (_cutout, lambda m: int(m / 10 * 40)),  # half side, pixels
  'solarize_add': (_solarize_add, lambda m: int(m / 10 * 110)),
}
