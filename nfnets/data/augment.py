"""Augmentation on the device: crop, mix, RandAugment, normalize.

It runs inside the training step and draws from the step's key.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nfnets.data import mixing

# ImageNet's channel statistics in grey levels, as in the release.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


def augment(
  config: ConfigDict, key: jax.Array, batch: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Augments one device's batch in the order of arXiv 2102.06171, appendix A.

  The CIFAR crop and flip of `augment.pad` comes first. Mixed images are
  truncated to whole grey levels before RandAugment. Label smoothing is left to
  the loss, which applies it to the mixed labels.

  Args:
    config: of the whole run; its group `augment` says what is done.
    key: a jax key; under pmap, the device's own.
    batch: `images` [B, H, W, 3] uint8, or float32 grey levels, and `labels` [B]
      int32, from 0 to K - 1.

  Returns:
    `images` [N, H, W, 3] in `config.precision` and `targets`, soft labels
    [N, K] float32; N = B, or B / 2 with fresh pairs.
  """
  data, how, images = config.data, config.augment, batch['images']
  crop_key, mix_key, policy_key = jax.random.split(key, 3)
  targets = jax.nn.one_hot(batch['labels'], data.num_classes, dtype=jnp.float32)
  if how.pad:
    images = pad_crop_flip(crop_key, images, how.pad)
  if how.mix != 'none':
    plan = mixing.plan(
      mix_key, images.shape, how.mix, pairs=how.pairs, alpha=how.mixup_alpha
    )
    images, targets = mixing.apply(plan, images, targets)
  if how.randaugment_layers:
    from nfnets.data import randaugment

    draws = randaugment.draw(
      policy_key, images.shape[0], how.randaugment_layers
    )
    images = randaugment.apply(draws, images, how.randaugment_magnitude)
  images = normalize(images, data.mean, data.std, jnp.dtype(config.precision))
  return {'images': images, 'targets': targets}


def normalize(
  images: jax.Array,
  mean: Sequence[float] = IMAGENET_MEAN,
  std: Sequence[float] = IMAGENET_STD,
  dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
  """Returns (images - mean) / std per channel, computed in float32.

  Args:
    images: [..., 3] grey levels 0..255, any dtype.
    mean, std: [3] grey levels.
    dtype: of the result.
  """
  shape = (1,) * (images.ndim - 1) + (len(mean),)
  mean = np.asarray(mean, np.float32).reshape(shape)
  std = np.asarray(std, np.float32).reshape(shape)
  return ((images.astype(jnp.float32) - mean) / std).astype(dtype)


def pad_crop_flip(key: jax.Array, images: jax.Array, pad: int = 4) -> jax.Array:
  """Pads with black, crops to the old size at random, flips half of the images.

  The CIFAR augmentation of arXiv 1512.03385, section 4.2.

  Args:
    key: a jax key.
    images: [N, H, W, C], any dtype.
    pad: pixels added on each side.
  """
  n, height, width, channels = images.shape
  offset_key, flip_key = jax.random.split(key)
  offsets = jax.random.randint(offset_key, (n, 2), 0, 2 * pad + 1)
  flips = jax.random.bernoulli(flip_key, 0.5, (n,))
  padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

  def crop(image: jax.Array, offset: jax.Array, flip: jax.Array) -> jax.Array:
    start = (offset[0], offset[1], 0)
    image = jax.lax.dynamic_slice(image, start, (height, width, channels))
    return jnp.where(flip, image[:, ::-1], image)

  return jax.vmap(crop)(padded, offsets, flips)
