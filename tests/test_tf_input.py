"""TensorFlow's side of the benchmark does the work that it stands for."""

import jax.numpy as jnp
import numpy as np
import photographs
import pytest

from nfnets.data import image_ops

pytestmark = pytest.mark.slow


def theirs(name, image, magnitude, sign, centre):
  tf = pytest.importorskip('tensorflow')
  from scripts import tf_input

  branches = tf_input.operations(
    tf.constant(image), magnitude, tf.constant(float(sign)), tf.constant(centre)
  )
  assert list(branches) == list(image_ops.OPERATIONS)
  return branches[name]().numpy()


@pytest.mark.parametrize('magnitude', [5, 15])
@pytest.mark.parametrize('name', image_ops.OPERATIONS)
def test_published_operations_are_ours_but_for_the_stated_differences(
  name, magnitude
):
  for image in photographs.batch(2, 71, 96):
    for sign in (-1, 1):
      centre = (0.2, 0.6)
      ours = np.asarray(
        image_ops.operate(name, jnp.asarray(image), magnitude, sign, centre),
        int,
      )
      other = theirs(name, image, magnitude, sign, centre).astype(int)
      if name == 'contrast':  # its "mean" is the number of pixels / 256
        mean = 71 * 96 / 256
        factor = magnitude / 10 * 1.8 + 0.1
        ours = np.clip(mean + factor * (image - mean), 0, 255).astype(int)
      off = np.abs(ours - other)
      # A sampled pixel may flip where its source lies between two.
      assert np.mean(off > 3) < 0.01, (name, off.max())


def test_mixing_takes_the_published_quarters():
  tf = pytest.importorskip('tensorflow')
  from scripts import tf_input

  images = np.arange(8, dtype=np.float32)[:, None, None, None]
  images = np.broadcast_to(images, (8, 2, 2, 1))
  masks = np.zeros((8, 2, 2, 1), np.float32)
  masks[4:, 0] = 1
  mixed, labels = tf_input.mix(
    *map(tf.constant, (images, np.eye(8, dtype=np.float32))),
    tf.constant([0.25] * 8),
    tf.constant(masks),
  )
  np.testing.assert_allclose(mixed[0], 0.25 * 0 + 0.75 * 2)
  np.testing.assert_allclose(mixed[1], 0.25 * 1 + 0.75 * 3)
  np.testing.assert_allclose(mixed[2, :, 0, 0], [6, 4])
  np.testing.assert_allclose(mixed[3, :, 0, 0], [7, 5])
  np.testing.assert_allclose(labels[3], 0.5 * np.eye(8)[5] + 0.5 * np.eye(8)[7])
