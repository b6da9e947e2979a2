"""MixUp and CutMix: pairs, boxes, ratios, against loops and distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nfnets.data import mixing

MIXED = ('mixup', 'cutmix', 'mixup_cutmix')
STATIC = ('mode', 'pairs', 'alpha')
apply = jax.jit(mixing.apply)
plans = jax.jit(mixing.plan, static_argnames=('images_shape', *STATIC))


def batch(n, height=13, width=9, classes=5, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (n, height, width, 3)).astype(np.float32)
  labels = rng.dirichlet(np.ones(classes), n).astype(np.float32)
  return images, labels


def loop(plan, images, labels):
  """The plan applied pixel by pixel."""
  plan = jax.tree.map(np.asarray, plan)
  out, out_labels = [], []
  for a, b, blend, box in zip(*plan[:4]):
    image = np.empty_like(images[0])
    from_first = 0.0
    for row in range(image.shape[0]):
      for column in range(image.shape[1]):
        in_box = box[0] <= row < box[1] and box[2] <= column < box[3]
        share = 0.0 if in_box else float(blend)
        from_first += share
        image[row, column] = (
          share * images[a, row, column] + (1 - share) * images[b, row, column]
        )
    ratio = from_first / (image.shape[0] * image.shape[1])
    out.append(image)
    out_labels.append(ratio * labels[a] + (1 - ratio) * labels[b])
  return np.stack(out), np.stack(out_labels)


@pytest.mark.parametrize('mode', MIXED)
@pytest.mark.parametrize('pairs', mixing.PAIRS)
def test_images_and_labels_equal_a_loop_over_pixels(mode, pairs):
  n = 10 if pairs == 'fresh' else 7
  images, labels = batch(n)
  key = jax.random.key(n)
  plan = plans(key, images_shape=images.shape, mode=mode, pairs=pairs)
  mixed, soft = apply(plan, images, labels)
  expected, expected_labels = loop(plan, images, labels)
  np.testing.assert_allclose(mixed, expected, atol=1e-4)
  np.testing.assert_allclose(soft, expected_labels, atol=1e-6)
  assert mixed.shape[0] == (n // 2 if pairs == 'fresh' else n)
  assert mixed.dtype == soft.dtype == jnp.float32
  assert mixed.min() >= 0 and mixed.max() <= 255.001
  np.testing.assert_allclose(soft.sum(1), 1, atol=1e-5)
  assert (np.asarray(mixed) != images[: len(mixed)]).any()


@pytest.mark.parametrize('n, n_mixup', [(8, 4), (7, 4)])
def test_first_half_is_mixup_and_second_half_cutmix(n, n_mixup):
  plan = plans(jax.random.key(3), images_shape=(n, 32, 32, 3))
  assert (np.asarray(plan.blend[n_mixup:]) == 1).all()
  assert (np.asarray(plan.box[:n_mixup]) == 0).all()
  assert (np.asarray(plan.blend[:n_mixup]) < 1).all()


def test_fresh_pairs_have_the_published_quarters():
  plan = plans(jax.random.key(0), images_shape=(16, 8, 8, 3), pairs='fresh')
  np.testing.assert_array_equal(plan.first, [0, 1, 2, 3, 8, 9, 10, 11])
  np.testing.assert_array_equal(plan.second, [4, 5, 6, 7, 12, 13, 14, 15])


@pytest.mark.parametrize('mode', MIXED)
def test_fresh_pairs_use_every_image_once(mode):
  shape = (10, 13, 9, 3)  # five outputs: halves of three and two
  plan = plans(jax.random.key(0), images_shape=shape, mode=mode, pairs='fresh')
  used = np.concatenate([plan.first, plan.second])
  np.testing.assert_array_equal(np.sort(used), np.arange(10))


@pytest.mark.parametrize('n', [2, 5])
def test_partners_are_a_permutation_without_fixed_points(n):
  keys = jax.random.split(jax.random.key(0), 40)
  draw = jax.vmap(lambda key: mixing.plan(key, (n, 8, 8, 3), 'cutmix'))
  drawn = jax.jit(draw)(keys)
  for first, second in zip(np.asarray(drawn.first), np.asarray(drawn.second)):
    np.testing.assert_array_equal(first, np.arange(n))
    np.testing.assert_array_equal(np.sort(second), np.arange(n))
    assert (second != np.arange(n)).all()
  assert set(np.asarray(drawn.second[:, 0])) == set(range(1, n))


@pytest.mark.parametrize(
  'alpha', [0.2, pytest.param(3.0, marks=pytest.mark.slow)]
)
def test_mixup_ratio_is_beta_per_sample(alpha):
  plan = plans(
    jax.random.key(0), images_shape=(4000, 2, 2, 3), mode='mixup', alpha=alpha
  )
  ratio = np.asarray(plan.ratio, np.float64)
  assert stats.kstest(ratio, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
  np.testing.assert_array_equal(plan.ratio, plan.blend)


def test_cutmix_ratio_has_the_distribution_of_a_simulation():
  height, width, n = 192, 128, 6000
  shape = (n, height, width, 3)
  plan = plans(jax.random.key(0), images_shape=shape, mode='cutmix')
  rng = np.random.default_rng(1)
  ratios = []
  for _ in range(n):
    side = np.sqrt(rng.uniform())
    mask = np.ones((height, width), bool)
    row, column = rng.integers(height), rng.integers(width)
    up, left = int(side * height) // 2, int(side * width) // 2
    mask[max(row - up, 0) : row + up, max(column - left, 0) : column + left] = (
      False
    )
    ratios.append(mask.mean())
  assert stats.ks_2samp(np.asarray(plan.ratio), ratios).pvalue > 1e-3


def test_fresh_pairs_need_an_even_batch():
  with pytest.raises(ValueError, match='even batch, not 3'):
    mixing.plan(jax.random.key(0), (3, 8, 8, 3), pairs='fresh')
