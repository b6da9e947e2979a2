"""CIFAR ResNets: He's network, the bare one, and the normalizer-free one."""

import golden_lib
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import models
from nfnets.models import activations, layers

KEY = jax.random.key(0)
IMAGES = np.random.RandomState(0).standard_normal((4, 32, 32, 3))
IMAGES = IMAGES.astype(np.float32)


# He et al., Table 6, millions.
@pytest.mark.parametrize(
  'layers, millions',
  [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)],
)
def test_parameters_are_he_s_count(layers, millions):
  got = golden_lib.count(f'cifar_resnet_{layers}', 10) / 1e6
  assert round(got, len(str(millions)) - 2) == millions


def test_parameters_are_what_the_docstring_says():
  got = [
    golden_lib.count('cifar_resnet_20', 10, normalizer=normalizer)
    for normalizer in ('batch', 'none', 'nf')
  ]
  assert got == [269722, 269034, 272483]


def initialized(normalizer, **overrides):
  """Feature maps of a new network, and its convolutions: `conv(name, x)`."""
  net = models.create(
    'cifar_resnet_20', 10, normalizer=normalizer, features=True, **overrides
  )

  @jax.jit
  def run():
    params, state = net.init(KEY, IMAGES, True)
    return params, net.apply(params, state, None, IMAGES, False)[0]

  params, out = run()

  def conv(name, x, stride=1):  # without biases, which start at 0
    leaf = params[f'CIFAR_ResNet/~/{name}']
    w = leaf['w']
    if normalizer == 'nf':
      w = layers.standardize(w, leaf['gain'])
    return jax.lax.conv_general_dilated(
      x, w, (stride, stride), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  return out['features'], conv


def test_a_block_of_he_s_equals_its_equation_with_option_a():
  features, conv = initialized('none')
  x = jax.nn.relu(conv('initial_conv', IMAGES))
  for index in range(4):
    path = f'block_{index}/~/' if index else 'block/~/'
    stride = 2 if index == 3 else 1
    y = jax.nn.relu(conv(path + 'conv0', x, stride))
    y = conv(path + 'conv1', y)
    if stride == 2:
      zeros = jnp.zeros((4, 16, 16, 16))
      x = jnp.concatenate([x[:, ::2, ::2], zeros], axis=-1)
    x = jax.nn.relu(x + y)
    if index == 2:
      np.testing.assert_allclose(features[1], x, rtol=1e-4, atol=1e-4)
  for index in (4, 5):
    y = jax.nn.relu(conv(f'block_{index}/~/conv0', x))
    x = jax.nn.relu(x + conv(f'block_{index}/~/conv1', y))
  np.testing.assert_allclose(features[2], x, rtol=1e-4, atol=1e-4)


def test_a_normalizer_free_transition_equals_its_equation():
  features, conv = initialized('nf', skipinit_gain=0.7)
  act = activations.get('relu')
  x = features[1]
  # Stage 1 adds 0.04 three times; the transition's shortcut starts from 1.
  for block, std in ((3, 1.12), (4, 1.04), (5, 1.08)):
    a = act(x) / std**0.5
    stride = 2 if block == 3 else 1
    y = conv(f'nf_block_{block}/~/conv0', a, stride)
    y = conv(f'nf_block_{block}/~/conv1', act(y))
    if block == 3:
      x = conv('nf_block_3/~/conv_shortcut', a, stride)
    x = x + 0.2 * 0.7 * y
  np.testing.assert_allclose(features[2], x, rtol=1e-3, atol=1e-4)
