"""Folded networks compute the same logits without standardizing a weight."""

import functools

import haiku as hk
import jax
import numpy as np
import pytest
from filling import fill, images

from nfnets import models, weights
from nfnets.models import layers
from nfnets.weights import files, folding, match

SIZES = {'widths': (16, 24, 32, 32), 'depths': (2, 1, 1, 1)}
NETWORKS = {
  'nfnet': ('nfnet_f0', SIZES | {'padding': 'symmetric'}),
  'nfnet as timm has it': (
    'nfnet_f0',
    SIZES | {'activation': 'gelu_erf', 'ws_eps': 'timm', 'alpha': 0.3},
  ),
  'nf_resnet': ('nf_resnet_50', SIZES | {'use_se': True}),
  'nf_regnet': ('nf_regnet_b0', SIZES | {'widths': (32, 48, 64, 64)}),
  'cifar': ('cifar_resnet_20', {'normalizer': 'nf', 'depths': (1, 2, 1)}),
}
SHAPE = (1, 45, 37, 3)


@functools.cache
def weights_of(key):
  model, overrides = NETWORKS[key]
  params = fill(files.shapes(model, 5, **overrides)[0])
  return weights.Weights(params, {}, model, 5, overrides)


def program(kept):
  network = models.create(kept.model, 5, **kept.overrides)

  @jax.jit
  def logits(params, images):
    return network.apply(params, {}, None, images, False)[0]['logits']

  # The test compiles more than it computes.
  quickly = {'xla_backend_optimization_level': 0}
  return logits.lower(kept.params, images(SHAPE)).compile(quickly)


@pytest.mark.parametrize('key', NETWORKS)
def test_folded_logits_are_equal_and_no_statistics_are_left(key):
  kept = weights_of(key)
  before = jax.tree.map(np.copy, kept.params)
  folded = weights.fold_weights(kept)
  # The trainable copy is kept.
  jax.tree.map(np.testing.assert_array_equal, kept.params, before)
  own, _ = files.shapes(kept.model, 5, **folded.overrides)
  match.require(folded.params, own)
  plain, faster = program(kept), program(folded)
  wanted = plain(kept.params, images(SHAPE))
  found = faster(folded.params, images(SHAPE))
  assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)
  assert 'rsqrt' in plain.as_text()
  for name in ('sqrt', 'standardize', 'variance', '_var'):
    assert name not in faster.as_text()


def test_a_network_that_nobody_listed_folds():
  class Fork(hk.Module):
    def __call__(self, x):
      return layers.WSConv2D(4, 3)(jax.nn.relu(layers.WSConv2D(8, 3)(x)))

  net = hk.transform(lambda x: Fork()(x))
  x = images((1, 8, 8, 3))
  params = fill(jax.eval_shape(net.init, jax.random.key(0), x))
  with layers.folded():
    found = net.apply(weights.fold(params), None, x)
  np.testing.assert_allclose(found, net.apply(params, None, x), atol=1e-5)


@pytest.mark.parametrize('eps', layers.WS_EPS)
def test_weights_are_standardized_as_the_networks_do(eps):
  random = np.random.RandomState(0)
  w = random.standard_normal((3, 3, 4, 6)).astype(np.float32)
  w[..., 0] = 0.5  # No variance at all.
  w[..., 1] *= 1e-3  # So little that the floor decides.
  gain = random.standard_normal(6).astype(np.float32)
  np.testing.assert_allclose(
    folding.standardize(w, gain, eps),
    layers.standardize(w, gain, eps),
    rtol=1e-5,
    atol=1e-7,
  )


def test_a_file_says_that_it_is_folded_and_is_not_folded_again(tmp_path):
  kept = weights_of('cifar')
  weights.write(tmp_path / 'w.safetensors', weights.fold_weights(kept))
  found = weights.load(tmp_path / 'w.safetensors')
  told = {'normalizer': 'nf', 'depths': (1, 2, 1), 'folded': True}
  assert found.overrides == told
  assert weights.fold_if_possible(found) is found
  with pytest.raises(ValueError, match='folded already'):
    weights.fold(found.params)
