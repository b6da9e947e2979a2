"""MixUp and CutMix on the device: a plan drawn from a key, then applied.

Letters: B images come in, N go out (N = B, or B / 2 for fresh pairs), of height
H and width W, with K classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MODES = ('none', 'mixup', 'cutmix', 'mixup_cutmix')
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
  """Mixes a batch: `apply(plan(...), ...)`, for whoever needs no ratios.

  Args:
    key: a jax key; the result is a pure function of it and the batch.
    images: [B, H, W, C] grey levels 0..255, float32 or uint8.
    soft_labels: [B, K] float32.
    mode: 'none', 'mixup', 'cutmix', or 'mixup_cutmix' (first half MixUp, second
      half CutMix, arXiv 2102.06171 appendix A; an odd batch's extra image goes
      to MixUp).
    pairs: 'batch' pairs each image with another of the same batch (N = B, one
      decode per image), 'fresh' takes 2N images for N outputs: the published
      layout, where the first half of the output mixes quarters 1 and 2 of the
      input and the second half quarters 3 and 4.
    alpha: MixUp's ratio is Beta(alpha, alpha), per sample.

  Returns:
    Images [N, H, W, C] float32 and soft labels [N, K] float32.

  Raises:
    ValueError: unknown mode or pairs, alpha not positive, labels that are not
      [B, K], an odd number of fresh images, or fresh images with mode 'none'.
  """
  _check(images, soft_labels)
  drawn = plan(key, images.shape, mode, pairs=pairs, alpha=alpha)
  if mode == 'none':
    return jnp.asarray(images, jnp.float32), jnp.asarray(soft_labels)
  return apply(drawn, images, soft_labels)


def plan(
  key: jax.Array,
  images_shape: tuple[int, ...],
  mode: str = 'mixup_cutmix',
  *,
  pairs: str = 'batch',
  alpha: float = 0.2,
) -> Plan:
  """Draws the mixing of a batch of shape [B, H, W, C]; arguments as in `mix`.

  In-batch partners are the batch rolled by a random offset from 1 to B - 1, so
  that no image but a lone one meets itself.
  """
  if mode not in MODES:
    raise ValueError(f'mix is {mode!r}; choose one of {", ".join(MODES)}')
  if pairs not in PAIRS:
    raise ValueError(f'pairs is {pairs!r}; choose one of {", ".join(PAIRS)}')
  if not alpha > 0:
    raise ValueError(f'mixup alpha is {alpha}; it must be above 0')
  batch, height, width = images_shape[:3]
  if pairs == 'fresh' and mode == 'none':
    raise ValueError("pairs='fresh' needs mixing; with mix='none' say 'batch'")
  if pairs == 'fresh' and batch % 2:
    raise ValueError(f"pairs='fresh' needs an even batch, not {batch} images")
  pair_key, blend_key, box_key = jax.random.split(key, 3)
  n = batch // 2 if pairs == 'fresh' else batch
  n_mixup = {'none': 0, 'mixup': n, 'cutmix': 0}.get(mode, (n + 1) // 2)
  if pairs == 'fresh':
    first, second = _fresh_pairs(n_mixup, n)
  else:
    first, second = _rolled_pairs(pair_key, n)
  blend, box = jnp.ones((n,)), jnp.zeros((n, 4), jnp.int32)
  if n_mixup:
    ratios = jax.random.beta(blend_key, alpha, alpha, (n_mixup,))
    blend = blend.at[:n_mixup].set(ratios)
  if mode in ('cutmix', 'mixup_cutmix') and n > n_mixup:
    boxes = _cutmix_boxes(box_key, n - n_mixup, height, width)
    box = box.at[n_mixup:].set(boxes)
  if mode == 'none':
    second = first
  area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
  ratio = blend * (1 - area / (height * width))
  return Plan(first, second, blend, box, ratio)


def apply(
  drawn: Plan, images: jax.Array, soft_labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mixes images [B, H, W, C] and soft labels [B, K] as the plan says."""
  images, soft_labels = jnp.asarray(images), jnp.asarray(soft_labels)
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


def _check(images: jax.Array, soft_labels: jax.Array) -> None:
  if images.ndim != 4:
    raise ValueError(f'images must be [B, H, W, C], not {images.shape}')
  if soft_labels.ndim != 2 or soft_labels.shape[0] != images.shape[0]:
    raise ValueError(
      f'soft labels must be [{images.shape[0]}, K], not {soft_labels.shape};'
      ' one-hot integer labels first'
    )


def _rolled_pairs(key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
  index = jnp.arange(n)
  offset = 1 + (jax.random.uniform(key) * (n - 1)).astype(jnp.int32)
  return index, (index + offset) % n


def _fresh_pairs(n_mixup: int, n: int) -> tuple[jax.Array, jax.Array]:
  a = np.arange(n_mixup)
  b = 2 * n_mixup + np.arange(n - n_mixup)
  first = np.concatenate([a, b])
  second = np.concatenate([a + n_mixup, b + n - n_mixup])
  return jnp.asarray(first), jnp.asarray(second)


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
