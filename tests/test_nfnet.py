"""NFNets: options, draws, gates."""

import golden_lib
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.analysis import counts
from nfnets.models import layers, nf_block

KEY = jax.random.key(0)
IMAGES = golden_lib.images((2, 32, 32, 3))


# PAPER_FACTS 1.3, the ablation's sizes.
@pytest.mark.parametrize(
  'overrides, millions',
  [
    ({'widths': 'default', 'use_two_convs': False}, 60.81),
    ({'use_two_convs': False}, 62.77),
    ({'widths': 'default'}, 68.64),
  ],
)
def test_ablations_of_f0_have_the_published_size(overrides, millions):
  parts = counts.parts('nfnet_f0', **overrides)
  count = sum(part.params for part in parts)
  assert round(count / 1e6, 2) == millions


def test_random_numbers_in_training_depend_only_on_the_key():
  net = golden_lib.tiny(
    'nfnet_f0', group_size=16, drop_rate=0.2, stochdepth_rate=0.25
  )
  params, state = net.init(KEY, IMAGES, True)
  params = jax.tree.map(lambda leaf: leaf + 0.5, params)
  one, _ = net.apply(params, state, KEY, IMAGES, True)
  two, _ = net.apply(params, state, KEY, IMAGES, True)
  other, _ = net.apply(params, state, jax.random.key(1), IMAGES, True)
  np.testing.assert_array_equal(one['logits'], two['logits'])
  assert np.abs(one['logits'] - other['logits']).max() > 1e-3


def test_the_design_is_arguments():
  params, _ = golden_lib.shapes(
    'nfnet_f0', depths=(1, 1, 1, 1), widths=(64, 96, 96, 128), group_size=16,
    bottleneck_ratio=0.25, final_ratio=1.5, stem=((8, 2), (24, 1)),
    attention='eca',
  )  # fmt: skip
  w = {
    path: leaves['w'].shape for path, leaves in params.items() if 'w' in leaves
  }
  root = 'NFNet/~/'
  assert w[f'{root}stem_conv1'] == (3, 3, 8, 24)
  assert f'{root}stem_conv2' not in w
  assert w[f'{root}nf_block/~/conv0'] == (1, 1, 24, 16)
  assert w[f'{root}nf_block_3/~/conv1b'] == (3, 3, 16, 32)
  assert w[f'{root}nf_block/~/channel_attention'] == (3, 1, 1)
  assert w[f'{root}final_conv'] == (1, 1, 128, 192)


@pytest.mark.parametrize('attention', ['se', 'eca', 'none'])
def test_a_gate_of_any_kind_starts_near_one(attention):
  def gate(x):
    module = layers.attention(attention, 0.5, 'relu', jax.nn.relu)(64)
    return 1.0 if module is None else 2 * module(x)

  net = hk.transform(gate)
  x = jax.random.normal(KEY, (8, 4, 4, 64))
  found = net.apply(net.init(KEY, x), None, x)
  assert np.shape(found) in ((8, 1, 1, 64), ())
  np.testing.assert_allclose(found, 1, atol=0.7)


@pytest.mark.parametrize('shape', [(1, 1, 1, 8), (8,), ()])
def test_images_are_dropped_one_by_one_whatever_the_shape_of_a_gate(shape):
  def block(x, shape):
    gate = lambda channels: lambda x: jnp.full(shape, 0.5)
    parts = layers.parts('nf', 'relu')
    made = nf_block.NFBlock(
      8, 8, 1, branch_convs=nf_block.bottleneck, parts=parts, attention=gate,
      skipinit_gain=1.0,
    )  # fmt: skip
    return made(x, True, hk.next_rng_key(), 0.5)

  net, x = (
    hk.transform(block),
    jnp.broadcast_to(IMAGES[:1, :2, :4, :1], (8, 2, 4, 8)),
  )
  params = net.init(KEY, x, (8, 1, 1, 8))
  want = net.apply(params, KEY, x, (8, 1, 1, 8))
  assert len(np.unique(want, axis=0)) == 2  # some dropped, some kept
  np.testing.assert_array_equal(net.apply(params, KEY, x, shape), want)


def test_efficient_channel_attention_is_a_window_over_channels():
  net = hk.transform(lambda x: layers.EfficientChannelAttention(6)(x))
  x = jax.random.normal(KEY, (2, 3, 3, 6))
  params = net.init(KEY, x)
  (w,) = jax.tree.leaves(params)
  pooled = np.asarray(x).mean((1, 2))
  want = [np.convolve(row, np.ravel(w)[::-1], 'same') for row in pooled]
  gate = net.apply(params, None, x)
  np.testing.assert_allclose(
    gate[:, 0, 0], 1 / (1 + np.exp(-np.array(want))), rtol=1e-5
  )


def test_a_branch_is_multiplied_once():
  """Gate, gain, alpha and what is dropped make one factor first."""

  def block(x):
    parts = layers.Parts(True, jax.nn.relu, layers.WSConv2D)
    made = nf_block.NFBlock(
      256, 256, 1, branch_convs=nf_block.bottleneck, parts=parts, alpha=0.2,
      skipinit_gain=1.0,
      attention=lambda channels: layers.SqueezeExcite(channels, 0.5),
    )  # fmt: skip
    return made(x, True, hk.next_rng_key(), 0.25, 1.0)

  x = jnp.ones((2, 4, 4, 256))
  net = hk.transform(block)
  params = net.init(jax.random.key(0), x)
  jaxpr = jax.make_jaxpr(net.apply)(params, jax.random.key(0), x)
  whole = [
    eqn
    for eqn in jaxpr.jaxpr.eqns
    if eqn.primitive.name == 'mul' and eqn.outvars[0].aval.shape == x.shape
  ]
  assert len(whole) == 1
