"""MixUp and CutMix on the device: a plan drawn from a key, then applied.

Letters: B images come in, N go out (N = B, or B / 2 for fresh pairs), of height
H and width W, with K classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MODES = ('none', 'mixup', 'cutmix', 'mixup_cutmix')  # of config.augment.mix
PAIRS = ('batch', 'fresh')


class Plan(NamedTuple):
  """Who is mixed with whom, and how much.

  Attributes:
    first: [N] int32, index of each output's first image.
    second: [N] int32, index of its partner.
    blend: [N] float32, MixUp's weight of the first image; 1 under CutMix.
    box: [N, 4] int32, CutMix's rectangle of the partner as top, bottom, left,
      right (ends excluded); empty under MixUp.
    ratio: [N] float32, the first image's share of the label.
  """

  first: jax.Array
  second: jax.Array
  blend: jax.Array
  box: jax.Array
  ratio: jax.Array


def mix(
  key: jax.Array,
  images: jax.Array,
  soft_labels: jax.Array,
  mode: str = 'mixup_cutmix',
  *,
  pairs: str = 'batch',
  alpha: float = 0.2,
) -> tuple[jax.Array, jax.Array]:
  """Mixes a batch, as `plan` draws it.

  Args:
    key: a jax key; the result is a pure function of it and the batch.
    images: [B, H, W, C] grey levels 0..255, float32 or uint8.
    soft_labels: [B, K] float32.
    mode, pairs, alpha: of `plan`.

  Returns:
    Images [N, H, W, C] float32 and soft labels [N, K] float32.
  """
  images, soft_labels = jnp.asarray(images), jnp.asarray(soft_labels)
  if soft_labels.ndim != 2 or soft_labels.shape[0] != images.shape[0]:
    raise ValueError(
      f'soft labels must be [{images.shape[0]}, K], not {soft_labels.shape};'
      ' one-hot integer labels first'
    )
  drawn = plan(key, images.shape, mode, pairs=pairs, alpha=alpha)
  top, bottom, left, right = drawn.box.T[:, :, None, None, None]
  rows = jnp.arange(images.shape[1])[None, :, None, None]
  columns = jnp.arange(images.shape[2])[None, None, :, None]
  inside = (
    (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
  )
  weight = jnp.where(inside, 0.0, drawn.blend[:, None, None, None])
  mixed = weight * images[drawn.first].astype(jnp.float32)
  mixed += (1 - weight) * images[drawn.second].astype(jnp.float32)
  ratio = drawn.ratio[:, None]
  labels = ratio * soft_labels[drawn.first]
  labels += (1 - ratio) * soft_labels[drawn.second]
  return mixed, labels


def plan(
  key: jax.Array,
  images_shape: tuple[int, ...],
  mode: str = 'mixup_cutmix',
  *,
  pairs: str = 'batch',
  alpha: float = 0.2,
) -> Plan:
  """Draws the mixing of a batch.

  Args:
    key, images_shape: a jax key and [B, H, W, C].
    mode: 'mixup', 'cutmix', or 'mixup_cutmix': MixUp for the first half, which
      is the larger, and CutMix for the second (arXiv 2102.06171, appendix A).
    pairs: 'batch' pairs each image with another of the same batch, rolled by a
      random offset from 1 to B - 1 (N = B, one decode per image). 'fresh' takes
      2N images for N outputs: the published layout, where the first half of the
      output mixes quarters 1 and 2 of the input and the second half 3 and 4.
    alpha: MixUp's ratio is Beta(alpha, alpha), per sample.

  Raises:
    ValueError: naming what is unknown, not positive or odd.
  """
  if mode not in MODES[1:]:
    raise ValueError(f'mix is {mode!r}; choose one of {", ".join(MODES[1:])}')
  if pairs not in PAIRS:
    raise ValueError(f'pairs is {pairs!r}; choose one of {", ".join(PAIRS)}')
  if not alpha > 0:
    raise ValueError(f'mixup alpha is {alpha}; it must be above 0')
  n, height, width = images_shape[:3]
  if pairs == 'fresh':
    if n % 2:
      raise ValueError(f"pairs='fresh' needs an even batch, not {n} images")
    n //= 2
  pair_key, blend_key, box_key = jax.random.split(key, 3)
  num_mixup = {'mixup': n, 'cutmix': 0, 'mixup_cutmix': (n + 1) // 2}[mode]
  num_cutmix = n - num_mixup
  if pairs == 'fresh':
    first, second = _quarters(num_mixup, num_cutmix)
  else:
    first = jnp.arange(n)
    offset = 1 + (jax.random.uniform(pair_key) * (n - 1)).astype(jnp.int32)
    second = (first + offset) % n
  ratios = jax.random.beta(blend_key, alpha, alpha, (num_mixup,))
  blend = jnp.pad(ratios, (0, num_cutmix), constant_values=1)
  box = _cutmix_boxes(box_key, num_cutmix, height, width)
  box = jnp.pad(box, ((num_mixup, 0), (0, 0)))
  area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
  return Plan(first, second, blend, box, blend * (1 - area / (height * width)))


def _quarters(num_mixup: int, num_cutmix: int) -> tuple[jax.Array, jax.Array]:
  first, second = [], []
  for start, count in ((0, num_mixup), (2 * num_mixup, num_cutmix)):
    first.append(start + jnp.arange(count))
    second.append(start + count + jnp.arange(count))
  return jnp.concatenate(first), jnp.concatenate(second)


def _cutmix_boxes(key: jax.Array, n: int, height: int, width: int) -> jax.Array:
  """Rectangles [n, 4]: area share U(0, 1), centre uniform, cut at borders.

  arXiv 1905.04899, section 3.1: sides in the image's own proportion, so that
  box area / image area is the share before the borders cut it.
  """
  share, *centres = jax.random.uniform(key, (3, n))
  spans = []
  for centre, size in zip(centres, (height, width)):
    centre = (centre * size).astype(jnp.int32)
    half = (jnp.sqrt(share) * size).astype(jnp.int32) // 2
    spans += [jnp.maximum(centre - half, 0), jnp.minimum(centre + half, size)]
  return jnp.stack(spans, axis=1)
