"""MixUp and CutMix on the device: a plan is drawn from a key, then applied.

B images of height H and width W become N = B, or B / 2 with fresh pairs; labels
are over K classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MODES = ('none', 'mixup', 'cutmix', 'mixup_cutmix')  # of config.augment.mix
PAIRS = ('batch', 'fresh')


class Plan(NamedTuple):
  """Which two images make up each output, and in what proportion.

  Attributes:
    first: [N] int32, index of the first image.
    second: [N] int32, index of the second.
    blend: [N] float32, weight of the first image under MixUp; 1 under CutMix.
    box: [N, 4] int32, top, bottom, left and right (ends excluded) of the
      rectangle that CutMix takes from the second image; empty under MixUp.
    ratio: [N] float32, the first image's share of the label.
  """

  first: jax.Array
  second: jax.Array
  blend: jax.Array
  box: jax.Array
  ratio: jax.Array


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
    mode: 'mixup', 'cutmix', or 'mixup_cutmix': MixUp for the first half of the
      batch (the larger one) and CutMix for the second (arXiv 2102.06171,
      appendix A).
    pairs: 'batch' pairs each image with another of the same batch, rolled by a
      random offset from 1 to B - 1, so that each decoded image is used twice.
      'fresh' makes N outputs of 2N images, in the published layout: the first
      half of the output mixes quarters 1 and 2 of the input, and the second
      half quarters 3 and 4.
    alpha: MixUp's ratio is drawn from Beta(alpha, alpha) for each output.

  Raises:
    ValueError: an odd number of images for fresh pairs.
  """
  n, height, width = images_shape[:3]
  if pairs == 'fresh':
    if n % 2:
      raise ValueError(f"pairs='fresh' needs an even batch, not {n} images")
    n //= 2
  pair_key, blend_key, box_key = jax.random.split(key, 3)
  num_mixup = {'mixup': n, 'cutmix': 0, 'mixup_cutmix': (n + 1) // 2}[mode]
  num_cutmix = n - num_mixup
  first = jnp.arange(n)
  if pairs == 'fresh':
    is_mixup = first < num_mixup
    first += jnp.where(is_mixup, 0, num_mixup)
    second = first + jnp.where(is_mixup, num_mixup, num_cutmix)
  else:
    offset = 1 + (jax.random.uniform(pair_key) * (n - 1)).astype(jnp.int32)
    second = (first + offset) % n
  ratios = jax.random.beta(blend_key, alpha, alpha, (num_mixup,))
  blend = jnp.pad(ratios, (0, num_cutmix), constant_values=1)
  box = _cutmix_boxes(box_key, num_cutmix, height, width)
  box = jnp.pad(box, ((num_mixup, 0), (0, 0)))
  area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
  return Plan(first, second, blend, box, blend * (1 - area / (height * width)))


def _cutmix_boxes(key: jax.Array, n: int, height: int, width: int) -> jax.Array:
  """Draws rectangles [n, 4] of area share U(0, 1) and uniform centre.

  Their aspect is the image's, and the borders clip them (arXiv 1905.04899,
  section 3.1).
  """
  share, *centres = jax.random.uniform(key, (3, n))
  spans = []
  for centre, size in zip(centres, (height, width)):
    centre = (centre * size).astype(jnp.int32)
    half = (jnp.sqrt(share) * size).astype(jnp.int32) // 2
    spans += [jnp.maximum(centre - half, 0), jnp.minimum(centre + half, size)]
  return jnp.stack(spans, axis=1)


def apply(
  plan: Plan, images: jax.Array, soft_labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mixes a batch.

  Args:
    plan: of `plan`.
    images: [B, H, W, C] grey levels 0..255, float32 or uint8.
    soft_labels: [B, K] float32.

  Returns:
    Images [N, H, W, C] float32 and soft labels [N, K] float32.
  """
  top, bottom, left, right = plan.box.T[:, :, None, None, None]
  rows = jnp.arange(images.shape[1])[None, :, None, None]
  columns = jnp.arange(images.shape[2])[None, None, :, None]
  inside = (
    (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
  )
  weight = jnp.where(inside, 0.0, plan.blend[:, None, None, None])
  mixed = weight * images[plan.first].astype(jnp.float32)
  mixed += (1 - weight) * images[plan.second].astype(jnp.float32)
  ratio = plan.ratio[:, None]
  labels = ratio * soft_labels[plan.first]
  labels += (1 - ratio) * soft_labels[plan.second]
  return mixed, labels
