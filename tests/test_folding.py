"""Folded networks compute the same logits without standardizing a weight."""

import functools

import golden_lib
import haiku as hk
import jax
import numpy as np
import pytest

from nfnets import models, weights
from nfnets.models import layers
from nfnets.weights import files, folding, match

SIZES = {'widths': (16, 24, 32, 32), 'depths': (2, 1, 1, 1)}
NETWORKS = {
  'nfnet': ('nfnet_f0', SIZES),
  'nf_resnet': ('nf_resnet_50', SIZES),
  'nf_regnet': ('nf_regnet_b0', SIZES | {'widths': (32, 48, 64, 64)}),
  'cifar': ('cifar_resnet_20', {'normalizer': 'nf', 'depths': (1, 2, 1)}),
}
OPTIONS = {
  'nfnet without gate': ('nfnet_f0', SIZES | {'use_se': False}),
  'nfnet with one 3x3': ('nfnet_f0', SIZES | {'use_two_convs': False}),
  'nfnet with its activation in the gate': (
    'nfnet_f0',
    SIZES | {'se_activation': 'network', 'padding': 'symmetric'},
  ),
  'nfnet as timm has it': (
    'nfnet_f0',
    SIZES | {'activation': 'gelu_erf', 'ws_eps': 'timm', 'alpha': 0.3},
  ),
  'nf_resnet with gate': ('nf_resnet_50', SIZES | {'use_se': True}),
  'nf_regnet without gate': ('nf_regnet_b0', SIZES | {'use_se': False}),
}
ALL = NETWORKS | OPTIONS
ODD = (1, 45, 37, 3)
EVEN = (2, 32, 32, 3)


@functools.cache
def _params(key):
  model, overrides = ALL[key]
  return golden_lib.fill(files.shapes(model, 5, **overrides)[0])


def _fold(key, params):
  model, overrides = ALL[key]
  return weights.fold(params, overrides.get('ws_eps', 'published'))


@functools.cache
def _program(key, is_folded, shape=ODD):
  model, overrides = ALL[key]
  network = models.create(model, 5, **overrides, folded=is_folded)
  params = _fold(key, _params(key)) if is_folded else _params(key)

  @jax.jit
  def logits(params, images):
    return network.apply(params, {}, None, images, False)[0]['logits']

  # The test compiles more than it computes.
  quickly = {'xla_backend_optimization_level': 0}
  return logits.lower(params, golden_lib.images(shape)).compile(quickly)


def _error(key, params, shape=ODD):
  images = golden_lib.images(shape)
  wanted = _program(key, False, shape)(params, images)
  found = _program(key, True, shape)(_fold(key, params), images)
  return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize('key', NETWORKS)
def test_folded_logits_are_equal(key):
  params = _params(key)
  before = jax.tree.map(np.copy, params)
  assert _error(key, params) < 1e-5
  # The trainable copy is kept.
  jax.tree.map(np.testing.assert_array_equal, params, before)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [ODD, EVEN])
@pytest.mark.parametrize('key', ALL)
def test_folded_logits_are_equal_with_every_option(key, shape):
  assert _error(key, _params(key), shape) < 1e-5


@pytest.mark.parametrize('key', NETWORKS)
def test_no_statistics_are_left_in_the_program(key):
  assert 'rsqrt' in _program(key, False).as_text()
  text = _program(key, True).as_text()
  for name in ('sqrt', 'standardize', 'variance', '_var'):
    assert name not in text


@pytest.mark.parametrize('key', NETWORKS)
def test_folded_trees_are_the_folded_networks_own(key):
  model, overrides = ALL[key]
  folded = _fold(key, _params(key))
  wanted, _ = files.shapes(model, 5, **overrides, folded=True)
  match.require(folded, wanted)


def test_a_network_that_nobody_listed_folds():
  class Fork(hk.Module):
    def __call__(self, x):
      return layers.WSConv2D(4, 3)(jax.nn.relu(layers.WSConv2D(8, 3)(x)))

  net = hk.transform(lambda x: Fork()(x))
  images = golden_lib.images((1, 8, 8, 3))
  params = golden_lib.fill(jax.eval_shape(net.init, jax.random.key(0), images))
  with layers.folded():
    found = net.apply(weights.fold(params), None, images)
  np.testing.assert_allclose(found, net.apply(params, None, images), atol=1e-5)


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


def test_what_cannot_be_folded_is_refused():
  with pytest.raises(ValueError, match='folded already'):
    weights.fold(_fold('cifar', _params('cifar')))


def test_a_file_says_that_it_is_folded(tmp_path):
  model, overrides = NETWORKS['cifar']
  kept = weights.Weights(_params('cifar'), {}, model, 5, overrides)
  assert weights.can_fold(kept)
  weights.write(tmp_path / 'w.safetensors', weights.fold_weights(kept))
  found = weights.load(tmp_path / 'w.safetensors')
  assert found.overrides == {
    'normalizer': 'nf',
    'depths': [1, 2, 1],
    'folded': True,
  }
  assert not weights.can_fold(found)
  other = weights.Weights({}, {}, 'cifar_resnet_20', 5, {})
  assert not weights.can_fold(other)
