"""The measured drawbacks of batch normalization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_tfds

from configs import cifar_resnet20
from experiments import batchnorm_costs
from nfnets import factory, parallel, step
from nfnets.analysis import batchnorm, cost


def small(normalizer, **overrides):
  """A network of three blocks on digits of 8 pixels, its gains 1."""
  config = cifar_resnet20.get_config()
  with config.unlocked():
    config.model.depths = (1, 1, 1)
    config.model.widths = (16, 16, 16)
    config.data.train_image_size = 8
    config.data.name = 'digits'
  values = {'model.normalizer': normalizer, 'model.skipinit_gain': 1.0}
  return cost.with_overrides(config, values | overrides)


CONFIGS = {name: small(name) for name in batchnorm.NORMALIZERS}


def test_batch_mates_change_a_batch_normalized_prediction_alone():
  found = batchnorm.batch_mates(CONFIGS, batch_size=4, draws=3)
  assert found['batch']['logits'] > 0.05 and found['batch']['changed'] > 0
  assert found['nf']['logits'] < 1e-5 and found['nf']['changed'] == 0


@pytest.mark.slow
def test_training_and_inference_differ_with_batch_normalization_alone():
  found = batchnorm.train_eval_gap(CONFIGS, 5, (4, 64))
  gaps = found['batch']['logits']
  assert gaps['4'] > gaps['64'] > 0.01  # the smaller the batch, the wider
  assert max(found['nf']['logits'].values()) < 1e-5


@pytest.mark.slow
def test_the_gradient_depends_on_the_device_count_with_batch_norm_alone():
  found = batchnorm.device_count(CONFIGS, 32, (1, 2, 8))
  gaps = found['batch']['gradient']
  assert gaps['1'] == 0 and gaps['8'] > gaps['2'] > 0.01
  assert max(found['nf']['gradient'].values()) < 1e-5


def test_images_are_the_evaluated_ones_normalized_with_their_labels(tmp_path):
  tiny_tfds.write(tmp_path, 'cifar10', {'train': 4, 'test': 12}, classes=10)
  config = batchnorm_costs.get_config('batch_mates')
  config.data.data_dir = str(tmp_path)
  config.data.eval_split = 'test[:11]'
  images, labels = batchnorm.images_of(config)
  assert images.shape == (11, 32, 32, 3) and list(labels) == [*range(10), 0]
  first = -np.asarray(config.data.mean) / config.data.std  # a black picture
  np.testing.assert_allclose(images[0].mean((0, 1)), first, rtol=1e-3)


def test_all_but_time_is_measured_with_branches_that_take_part():
  for row in batchnorm_costs.RUNS:
    config = batchnorm_costs.get_config(row)
    gain = 0 if row == 'step_cost' else 1
    assert config.model.skipinit_gain == gain, row
    assert (config.data.name, config.data.eval_split) == (
      'cifar10',
      'test[:1024]',
    )


@pytest.mark.parametrize('normalizer', batchnorm.NORMALIZERS)
def test_a_split_gradient_is_that_of_real_devices(normalizer):
  config = CONFIGS[normalizer]
  images, labels = (x[:16] for x in batchnorm.images_of(config))
  targets = np.eye(10, dtype=np.float32)[labels]
  split, loss = batchnorm.split_gradient(config, images, targets, 4)

  network = factory.network_of(config)
  gradient = step.make_gradient(config, network)
  params, state = network.init(jax.random.key(0), images[:2], True)

  def per_device(variables, batch, key):
    grads, (metrics, _) = gradient(*variables, key, batch)
    return parallel.mean((grads, metrics['loss']))

  mapped = parallel.map_step(per_device)
  batch = {'images': np.asarray(images), 'targets': targets}
  expected, expected_loss = mapped(
    parallel.replicate((params, state)),
    parallel.shard(batch),
    parallel.replicate(jax.random.key(0)),
  )
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
  for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.slow
def test_step_cost_compares_times_in_pairs_and_memory():
  configs = {name: small(name, batch_size=8) for name in batchnorm.NORMALIZERS}
  found = batchnorm.step_cost(configs, rounds=3)
  assert found['nf']['ratio'] == [1, 1, 1]
  for values in found.values():
    low, middle, high = values['seconds']
    assert 0 < low <= middle <= high and values['temporary'] > 0


def test_an_unknown_drawback_is_refused():
  with pytest.raises(ValueError, match="no drawback 'time': choose one of st"):
    batchnorm.measure(cifar_resnet20.get_config(), 'time')
