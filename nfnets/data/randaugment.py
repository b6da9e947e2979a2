"""RandAugment on the device: n layers, each one of 16 operations per image.

Every layer picks an operation uniformly and always applies it, at a fixed
magnitude (arXiv 1909.13719 as released with arXiv 2102.06171).

A pixel is one int32 word, red + 256 green + 65,536 blue: a geometric operation
then gathers once per pixel instead of once per channel, and arithmetic runs
over contiguous words. Grey levels are whole numbers throughout.

Each operation has PIL's arithmetic (`ImageOps`, `ImageEnhance`), rounding
included. The published host code (arXiv 2102.06171's release) differs from PIL,
and so from this file, in three places: its Contrast blends with the number of
pixels / 256 (144 at 192 px) where PIL takes the mean grey level, its Sharpness
truncates the smoothed image where PIL rounds, and its grey weights are the same
luma in floating point.

Geometry follows the published host code's sampler: the output pixel (x, y),
whole numbers, takes the input pixel nearest to A (x, y), halves upwards, and
128 where that lies outside. Rotation is about ((W - 1) / 2, (H - 1) / 2), which
equals PIL's about the pixels' corner-based centre; a shear keeps row (column) 0
in place, where PIL's affine on pixel centres would shift by half the shear.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FILL = 128  # grey level outside the image and in cutouts (the release)
_FILL_WORD = FILL * 0x010101
_FRACTION_BITS = 18  # of coordinates: integers agree on every backend


class Draw(NamedTuple):
  """One image's randomness for one operation.

  Attributes:
    sign: [] int32, 1 or -1: rotate, shear and translate either way.
    centre: [2] float32 in [0, 1): the cutout's row and column, as shares.
  """

  sign: jax.Array
  centre: jax.Array


Operation = Callable[[jax.Array, float | int | None, Draw], jax.Array]


class Draws(NamedTuple):
  """The policy's randomness for L layers and N images.

  Attributes:
    operation: [L, N] int32, place in `OPERATIONS`.
    draw: its sign [L, N] and cutout centre [L, N, 2].
    slot: [L, N] int32, the image's place in a batch that is sorted by operation
      and padded to a multiple of 16.
  """

  operation: jax.Array
  draw: Draw
  slot: jax.Array


def rand_augment(
  key: jax.Array, images: jax.Array, layers: int, magnitude: float
) -> jax.Array:
  """RandAugment of a batch; any batch size, a pure function of the key.

  Each layer shuffles the batch anew into 16 equal groups, one operation each,
  so that every image alone has the published distribution; a layer gives each
  operation to at most ceil(N / 16) images, where independent draws would vary
  more.

  Args:
    key: a jax key.
    images: [N, H, W, 3] grey levels, uint8 or float32; clipped to 0..255 and
      truncated to whole numbers first.
    layers: operations per image.
    magnitude: the fixed M; `argument` says what it means.

  Returns:
    [N, H, W, 3] uint8.
  """
  return apply(draw(key, images.shape[0], layers), images, magnitude)


def draw(key: jax.Array, n: int, layers: int) -> Draws:
  """Draws the operations and their randomness for n images."""
  slot_key, key = jax.random.split(key)
  sign, *centre = jax.random.uniform(key, (3, layers, n))
  places = _places(n)
  order = jax.random.uniform(slot_key, (layers, places))
  slot = jnp.argsort(order)[:, :n].astype(jnp.int32)
  operation = slot // (places // len(OPERATIONS))
  sign = jnp.where(sign < 0.5, -1, 1)
  return Draws(operation, Draw(sign, jnp.stack(centre, axis=-1)), slot)


def apply(draws: Draws, images: jax.Array, magnitude: float) -> jax.Array:
  """Applies drawn operations to images [N, H, W, 3]; returns uint8.

  The result is the same on every platform. A CPU takes a true branch, image
  after image: 2.6 times as fast there as a group at a time (192 pixels, 4
  layers), which has no branch, as a GPU or TPU wants it.
  """
  if images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(f'RandAugment takes [N, H, W, 3], not {images.shape}')
  operations = [
    _bind(function, argument(name, magnitude))
    for name, (function, _) in OPERATIONS.items()
  ]
  return jax.lax.platform_dependent(
    draws,
    images,
    cpu=functools.partial(_by_image, operations),
    default=functools.partial(_by_group, operations),
  )


def _by_image(operations: list, draws: Draws, images: jax.Array) -> jax.Array:
  def augment(image_and_draws: tuple) -> jax.Array:
    image, choices, drawn = image_and_draws

    def layer(words: jax.Array, choice: tuple) -> tuple:
      which, one = choice
      return jax.lax.switch(which, operations, words, one), None

    words, _ = jax.lax.scan(layer, pack(image), (choices, drawn))
    return unpack(words)

  drawn = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), draws.draw)
  return jax.lax.map(augment, (images, draws.operation.T, drawn))


def _by_group(operations: list, draws: Draws, images: jax.Array) -> jax.Array:
  n = images.shape[0]
  places = _places(n)
  size = places // len(OPERATIONS)

  def layer(words: jax.Array, choice: tuple) -> tuple:
    source, drawn = choice
    words = words[source]
    groups = []
    for i, operation in enumerate(operations):
      group = slice(i * size, (i + 1) * size)
      one = jax.tree.map(lambda x, group=group: x[group], drawn)
      groups.append(jax.vmap(operation)(words[group], one))
    return jnp.concatenate(groups), None

  image_in = jax.vmap(
    lambda slot: jnp.zeros(places, jnp.int32).at[slot].set(jnp.arange(n))
  )(draws.slot)
  # From one layer's places straight to the next's: one gather a layer.
  before = jnp.concatenate([jnp.arange(n)[None], draws.slot[:-1]])
  source = jax.vmap(lambda slot, image: slot[image])(before, image_in)
  drawn = jax.tree.map(
    lambda x: jax.vmap(lambda row, image: row[image])(x, image_in), draws.draw
  )
  words = pack(images)
  words = jnp.pad(words, ((0, places - n), (0, 0), (0, 0)))
  words, _ = jax.lax.scan(layer, words, (source, drawn))
  return unpack(words[draws.slot[-1]])


def _places(n: int) -> int:
  return -(-n // len(OPERATIONS)) * len(OPERATIONS)


def _bind(function: Operation, value: float | int | None):  # noqa: ANN202
  return lambda words, one: function(words, value, one)


def pack(images: jax.Array) -> jax.Array:
  """[..., H, W, 3] grey levels to words [..., H, W] int32.

  Fractions are cut off and values clipped to 0..255, as the published cast to
  uint8 before RandAugment does.
  """
  if images.dtype != jnp.uint8:
    images = jnp.clip(images, 0, 255)
  red, green, blue = (images[..., c].astype(jnp.int32) for c in range(3))
  return red | (green << 8) | (blue << 16)


def unpack(words: jax.Array) -> jax.Array:
  """Words [..., H, W] to images [..., H, W, 3] uint8."""
  return jnp.stack(_channels(words), axis=-1).astype(jnp.uint8)


def operate(
  name: str,
  image: jax.Array,
  magnitude: float,
  sign: int = 1,
  centre: tuple[float, float] = (0.5, 0.5),
) -> jax.Array:
  """One named operation on one image [H, W, 3]; returns uint8 [H, W, 3]."""
  if name not in OPERATIONS:
    raise ValueError(
      f'no operation {name!r}; the table has {", ".join(OPERATIONS)}'
    )
  draw = Draw(jnp.int32(sign), jnp.asarray(centre, jnp.float32))
  function = OPERATIONS[name][0]
  return unpack(function(pack(image), argument(name, magnitude), draw))


def argument(name: str, magnitude: float) -> float | int | None:
  """The table's argument for a magnitude: degrees, pixels, levels, factor."""
  if magnitude < 0:
    raise ValueError(f'RandAugment magnitude is {magnitude}; it must be >= 0')
  return OPERATIONS[name][1](magnitude)


def _auto_contrast(words: jax.Array, _: None, draw: Draw) -> jax.Array:
  def stretch(plane: jax.Array) -> jax.Array:
    low, high = plane.min(), plane.max()
    span = (high - low).astype(jnp.float32)
    # The half keeps the quotient of whole numbers off the rounding edge.
    value = ((plane - low) * 255 + 0.5) / jnp.maximum(span, 1)
    return jnp.where(high > low, value.astype(jnp.int32), plane)

  return _merge([stretch(plane) for plane in _channels(words)])


def _equalize(words: jax.Array, _: None, draw: Draw) -> jax.Array:
  planes = [plane.reshape(-1) for plane in _channels(words)]
  levels = jnp.arange(256)
  out = 0
  for shift, plane in zip((0, 8, 16), planes):
    counts = (
      jnp.zeros(256, jnp.int32).at[plane].add(1, mode='promise_in_bounds')
    )
    last = jnp.max(jnp.where(counts > 0, levels, 0))
    step = (plane.size - counts[last]) // 255
    below = jnp.cumsum(counts) - counts
    table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
    table = jnp.where(step > 0, table, levels) << shift
    out |= table.at[plane].get(mode='promise_in_bounds')
  return out.reshape(words.shape)


def _invert(words: jax.Array, _: None, draw: Draw) -> jax.Array:
  return words ^ 0xFFFFFF


def _rotate(words: jax.Array, degrees: float, draw: Draw) -> jax.Array:
  x, y = _centred(words)
  cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
  middle_x, middle_y = -x[0], -y[0]
  return _sample(
    words, draw, middle_x + cos * x, -sin * y, sin * x, middle_y + cos * y
  )


def _posterize(words: jax.Array, bits: int, draw: Draw) -> jax.Array:
  kept = 0xFF & ~((1 << (8 - min(bits, 8))) - 1)
  return words & (kept * 0x010101)


def _solarize(words: jax.Array, threshold: int, draw: Draw) -> jax.Array:
  return _merge(
    [jnp.where(v < threshold, v, 255 - v) for v in _channels(words)]
  )


def _color(words: jax.Array, factor: float, draw: Draw) -> jax.Array:
  grey = _grey(words)
  return _merge([_blend(grey, v, factor) for v in _channels(words)])


def _contrast(words: jax.Array, factor: float, draw: Draw) -> jax.Array:
  total = _grey(words).sum()
  mean = (2 * total + words.size) // (2 * words.size)
  return _merge([_blend(mean, v, factor) for v in _channels(words)])


def _brightness(words: jax.Array, factor: float, draw: Draw) -> jax.Array:
  return _merge([_blend(0, v, factor) for v in _channels(words)])


def _sharpness(words: jax.Array, factor: float, draw: Draw) -> jax.Array:
  if min(words.shape) < 3:
    return words

  def sharpen(v: jax.Array) -> jax.Array:
    rows = v[:-2] + v[1:-1] + v[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * v[1:-1, 1:-1]
    smooth = ((total + 6.5) / 13).astype(jnp.int32)
    return _blend(smooth, v[1:-1, 1:-1], factor)

  inner = _merge([sharpen(v) for v in _channels(words)])
  return words.at[1:-1, 1:-1].set(inner)


def _shear_x(words: jax.Array, slope: float, draw: Draw) -> jax.Array:
  x, y = _indices(words)
  return _sample(words, draw, x, slope * y, 0 * x, y)


def _shear_y(words: jax.Array, slope: float, draw: Draw) -> jax.Array:
  x, y = _indices(words)
  return _sample(words, draw, x, 0 * y, slope * x, y)


def _translate_x(words: jax.Array, pixels: float, draw: Draw) -> jax.Array:
  x, y = _indices(words)
  return _sample(words, draw, x, 0 * y - pixels, 0 * x, y)


def _translate_y(words: jax.Array, pixels: float, draw: Draw) -> jax.Array:
  x, y = _indices(words)
  return _sample(words, draw, x, 0 * y, 0 * x - pixels, y)


def _cutout(words: jax.Array, half_side: int, draw: Draw) -> jax.Array:
  inside = True
  for axis, size in enumerate(words.shape):
    centre = (draw.centre[axis] * size).astype(jnp.int32)
    index = jnp.arange(size)
    span = (index >= centre - half_side) & (index < centre + half_side)
    inside &= jnp.expand_dims(span, 1 - axis)
  return jnp.where(inside, _FILL_WORD, words)


def _solarize_add(words: jax.Array, addition: int, draw: Draw) -> jax.Array:
  return _merge(
    [
      jnp.where(v < 128, jnp.minimum(v + addition, 255), v)
      for v in _channels(words)
    ]
  )


def _enhancement(magnitude: float) -> float:
  return magnitude / 10 * 1.8 + 0.1


# name: (operation, its argument at magnitude M); the release's table.
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
  'shear_x': (_shear_x, lambda m: m / 10 * 0.3),  # slope
  'shear_y': (_shear_y, lambda m: m / 10 * 0.3),
  'translate_x': (_translate_x, lambda m: m / 10 * 100),  # pixels
  'translate_y': (_translate_y, lambda m: m / 10 * 100),
  'cutout': (_cutout, lambda m: int(m / 10 * 40)),  # half side, pixels
  'solarize_add': (_solarize_add, lambda m: int(m / 10 * 110)),
}


def _channels(words: jax.Array) -> list[jax.Array]:
  return [words & 255, (words >> 8) & 255, words >> 16]


def _merge(planes: list[jax.Array]) -> jax.Array:
  return planes[0] | (planes[1] << 8) | (planes[2] << 16)


def _grey(words: jax.Array) -> jax.Array:
  red, green, blue = _channels(words)
  # ITU-R 601 luma in 16 fractional bits, rounded: PIL's mode 'L'.
  return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _blend(base: jax.Array | int, plane: jax.Array, factor: float) -> jax.Array:
  """base + factor (plane - base), clipped and truncated: PIL's Image.blend."""
  if factor == 1:
    return plane
  value = base + jnp.float32(factor) * (plane - base).astype(jnp.float32)
  return jnp.clip(value, 0, 255).astype(jnp.int32)


def _indices(words: jax.Array) -> tuple[np.ndarray, np.ndarray]:
  height, width = words.shape
  return np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)


def _centred(words: jax.Array) -> tuple[np.ndarray, np.ndarray]:
  x, y = _indices(words)
  return x - x[-1] / 2, y - y[-1] / 2


def _sample(
  words: jax.Array,
  draw: Draw,
  x_of_x: np.ndarray,
  x_of_y: np.ndarray,
  y_of_x: np.ndarray,
  y_of_y: np.ndarray,
) -> jax.Array:
  """Nearest input pixel at (x_of_x + s x_of_y, s y_of_x + y_of_y), s = sign.

  The map is a sum of one table per axis, in fixed point: exact, and equal
  on every backend.
  """
  height, width = words.shape
  x_of_x, x_of_y, y_of_x, y_of_y = (
    _fixed_point(table) for table in (x_of_x, x_of_y, y_of_x, y_of_y)
  )
  half = 1 << (_FRACTION_BITS - 1)
  x = (x_of_x + half)[None, :] + (draw.sign * x_of_y)[:, None]
  y = (draw.sign * y_of_x)[None, :] + (y_of_y + half)[:, None]
  x, y = x >> _FRACTION_BITS, y >> _FRACTION_BITS
  inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
  index = jnp.where(inside, y * width + x, 0)
  values = words.reshape(-1).at[index].get(mode='promise_in_bounds')
  return jnp.where(inside, values, _FILL_WORD)


def _fixed_point(table: np.ndarray) -> np.ndarray:
  if np.abs(table).max() >= 1 << (29 - _FRACTION_BITS):
    raise ValueError(
      'RandAugment reaches coordinates of 2048 pixels or more; use smaller'
      ' images or a smaller magnitude'
    )
  return np.rint(table * (1 << _FRACTION_BITS)).astype(np.int32)
