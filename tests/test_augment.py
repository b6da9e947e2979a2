"""The whole device path: order, normalization, crop and flip, per device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import photographs
import pytest
from ml_collections import ConfigDict

from configs import base
from nfnets.data import augment, mixing, randaugment


def batch(n, height=17, width=15):
  images = photographs.batch(n, height, width)
  return images, (np.arange(n) % 10).astype(np.int32)


def augmented(key, images, labels, **values):
  config = ConfigDict(base.defaults())
  config.data.num_classes, config.precision = 10, 'float32'
  config.augment.update(values)
  run = jax.jit(functools.partial(augment.augment, config))
  found = run(key, {'images': images, 'labels': labels})
  return found['images'], found['targets']


def grey_levels(images):
  return np.asarray(images, np.float64) * augment.IMAGENET_STD + np.asarray(
    augment.IMAGENET_MEAN
  )


def test_order_is_mix_then_whole_grey_levels_then_randaugment_then_normalize():
  images, labels = batch(7)
  key = jax.random.key(5)
  published = {'mix': 'mixup_cutmix', 'randaugment_layers': 2}
  published['randaugment_magnitude'] = 10
  mine, soft = augmented(key, images, labels, **published)
  _, mix_key, policy_key = jax.random.split(key, 3)
  plan = mixing.plan(mix_key, images.shape)
  soft_labels = np.eye(10, dtype=np.float32)[labels]
  mixed, expected_labels = jax.jit(mixing.apply)(plan, images, soft_labels)
  draws = randaugment.draw(policy_key, 7, 2)
  apply = jax.jit(randaugment.apply, static_argnums=2)
  expected = apply(draws, mixed, 10)
  np.testing.assert_allclose(soft, expected_labels, atol=1e-6)
  np.testing.assert_allclose(soft.sum(1), 1, atol=1e-5)
  levels = grey_levels(mine)
  np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
  assert levels.min() > -0.01 and levels.max() < 255.01
  # Mixing may round differently inside one program: one grey level in the
  # mixed image, which an operation may spread, on a handful of pixels.
  same = np.abs(levels - np.asarray(expected, int)) < 1e-2
  assert same.mean() > 0.995


def test_without_augmentation_only_normalize_and_one_hot_remain():
  images, labels = batch(4)
  mine, soft = augmented(jax.random.key(0), images, labels)
  np.testing.assert_allclose(grey_levels(mine), images, atol=1e-3)
  np.testing.assert_array_equal(soft, np.eye(10)[labels])


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_normalize_computes_in_float32_and_returns_the_type(dtype):
  images = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
  mean, std = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
  mine = augment.normalize(images, mean, std, dtype)
  expected = ((images - np.float32(mean)) / np.float32(std)).astype(np.float32)
  assert mine.dtype == dtype
  # XLA multiplies by the reciprocal: half a bfloat16 step, or float32's.
  limit = 1e-6 if dtype == jnp.float32 else 2**-8
  np.testing.assert_allclose(
    np.asarray(mine, np.float32), expected, rtol=limit, atol=1e-6
  )


def test_crop_and_flip_gives_one_window_of_the_padded_image():
  image = np.arange(1, 5 * 6 * 3 + 1, dtype=np.uint8).reshape(5, 6, 3)
  padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
  windows = {}
  for top in range(5):
    for left in range(5):
      window = padded[top : top + 5, left : left + 6]
      windows[window.tobytes()] = (top, left, False)
      windows[window[:, ::-1].tobytes()] = (top, left, True)
  assert len(windows) == 50
  copies = np.repeat(image[None], 1500, 0)
  cropped = augment.pad_crop_flip(jax.random.key(0), copies, pad=2)
  counts = {}
  for one in np.asarray(cropped):
    place = windows[one.tobytes()]
    counts[place] = counts.get(place, 0) + 1
  assert len(counts) == 50
  assert max(counts.values()) < 30 + 6 * np.sqrt(30)


def test_crop_comes_first_and_is_off_by_default():
  images, labels = batch(3)
  key = jax.random.key(2)
  mine, _ = augmented(key, images, labels, pad=4)
  crop_key = jax.random.split(key, 3)[0]
  expected = augment.pad_crop_flip(crop_key, images)
  np.testing.assert_allclose(grey_levels(mine), expected, atol=1e-3)
