"""The measured drawbacks of batch normalization."""

import jax
import numpy as np
import optax
import pytest
import tiny_tfds

from configs import cifar_resnet20
from experiments import batchnorm_costs
from nfnets import factory, parallel


def small(normalizer):
  """A network of three blocks on digits of 8 pixels, its gains 1."""
  config = cifar_resnet20.get_config().copy_and_resolve_references()
  with config.unlocked():
    config.model.depths = (1, 1, 1)
    config.model.widths = (16, 16, 16)
    config.model.normalizer = normalizer
    config.model.skipinit_gain = 1.0
    config.data.train_image_size = 8
    config.data.name = 'digits'
    config.batch_size = 8
  return config


CONFIGS = {name: small(name) for name in ('batch', 'nf')}


def of_each(measure, *arguments):
  return [measure(config, *arguments) for config in CONFIGS.values()]


def test_batch_mates_change_a_batch_normalized_prediction_alone():
  batch, nf = of_each(batchnorm_costs.batch_mates, 4, 3)
  assert batch['logits'] > 0.05 and batch['changed'] > 0
  assert nf['logits'] < 1e-5 and nf['changed'] == 0


@pytest.mark.slow
def test_training_and_inference_differ_with_batch_normalization_alone():
  batch, nf = of_each(batchnorm_costs.train_eval_gap, 5, (4, 64))
  gaps = batch['logits']
  assert gaps['4'] > gaps['64'] > 0.01  # the smaller the batch, the wider
  assert max(nf['logits'].values()) < 1e-5


@pytest.mark.slow
def test_the_gradient_depends_on_the_device_count_with_batch_norm_alone():
  batch, nf = of_each(batchnorm_costs.device_count, 32, (1, 2, 8))
  gaps = batch['gradient']
  assert gaps['1'] == 0 and gaps['8'] > gaps['2'] > 0.01
  assert max(nf['gradient'].values()) < 1e-5


def test_images_are_the_evaluated_ones_normalized_with_their_labels(tmp_path):
  tiny_tfds.write(tmp_path, 'cifar10', {'train': 4, 'test': 12}, classes=10)
  config = batchnorm_costs.get_config('batch_mates')
  config.data.data_dir = str(tmp_path)
  config.data.eval_split = 'test[:11]'
  network = batchnorm_costs.Untrained(config)
  images, labels = network.images, network.labels
  assert images.shape == (11, 32, 32, 3) and list(labels) == [*range(10), 0]
  first = -np.asarray(config.data.mean) / config.data.std  # a black picture
  np.testing.assert_allclose(images[0].mean((0, 1)), first, rtol=1e-3)


@pytest.mark.parametrize('normalizer', CONFIGS)
def test_a_split_gradient_is_that_of_real_devices(normalizer):
  config = CONFIGS[normalizer]
  untrained = batchnorm_costs.Untrained(config)
  images, labels = untrained.images[:16], untrained.labels[:16]
  split = untrained.gradient(images, labels, 4)

  network = factory.network_of(config)
  params, state = untrained.params, untrained.state

  def loss(params, batch):
    outputs, _ = network.apply(params, state, None, batch['images'], True)
    return optax.softmax_cross_entropy_with_integer_labels(
      outputs['logits'], batch['labels']
    ).mean()

  mapped = jax.pmap(
    lambda params, batch: parallel.mean(jax.grad(loss)(params, batch)),
    axis_name=parallel.AXIS, in_axes=(None, 0), out_axes=None,
  )  # fmt: skip
  batch = {'images': images, 'labels': np.int32(labels)}
  batch = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), batch)
  expected = [np.ravel(x) for x in jax.tree.leaves(mapped(params, batch))]
  expected = np.concatenate(expected)
  np.testing.assert_allclose(
    split, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max()
  )
