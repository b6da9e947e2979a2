"""NFNets equal the published function, counts and options."""

import functools

import golden_lib
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.models import nfnet

TINY = {
  'depths': (1, 1, 1, 1),
  'widths': (128, 256, 128, 256),
  'drop_rate': 0.2,
  'stochdepth_rate': 0.25,
}


@pytest.mark.parametrize(
  'golden',
  ['nfnet_f0', pytest.param('nfnet_f0_odd', marks=pytest.mark.slow)],
)
def test_f0_equals_the_golden_numbers(golden):
  want = golden_lib.load(golden)
  difference = golden_lib.difference('nfnet_f0', want)
  assert difference < 1e-4


# PAPER_FACTS 1.3, millions.
PUBLISHED = {
  'nfnet_f0': 71.49,
  'nfnet_f1': 132.63,
  'nfnet_f2': 193.78,
  'nfnet_f0_plus': 118.82,
}
DEEP = {
  'nfnet_f3': 254.92,
  'nfnet_f4': 316.07,
  'nfnet_f5': 377.21,
  'nfnet_f6': 438.36,
  'nfnet_f7': 499.50,
  'nfnet_f4_plus': 524.95,
}


@pytest.mark.parametrize('name, millions', PUBLISHED.items())
def test_parameters_are_the_published_count(name, millions):
  assert round(golden_lib.count(name) / 1e6, 2) == millions


@pytest.mark.slow
@pytest.mark.parametrize('name, millions', DEEP.items())
def test_parameters_of_deep_variants_are_the_published_count(name, millions):
  assert round(golden_lib.count(name) / 1e6, 2) == millions


@pytest.mark.slow
def test_f4_plus_as_the_paper_counts_it_has_527_million():
  params, _ = golden_lib.shapes('nfnet_f4_plus', exact_width=True)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert round(count / 1e6, 2) == 527.03
  assert params['NFNet/~/nf_block/~/conv1']['w'].shape == (3, 3, 192, 192)


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
  assert round(golden_lib.count('nfnet_f0', **overrides) / 1e6, 2) == millions


def tiny(**overrides):
  def forward(images, is_training):
    return nfnet.NFNet(3, TINY, **overrides)(images, is_training)

  net = hk.transform_with_state(forward)
  return net._replace(
    init=jax.jit(net.init, static_argnums=2),
    apply=jax.jit(net.apply, static_argnums=4),
  )


@functools.cache
def tiny_params(normalizer='nf'):
  return tiny(normalizer=normalizer).init(KEY, IMAGES, True)


KEY = jax.random.key(0)
IMAGES = np.random.RandomState(0).standard_normal((2, 32, 32, 3))
IMAGES = IMAGES.astype(np.float32)


@pytest.mark.slow
def test_bfloat16_images_give_float32_logits_and_params_near_float32():
  params, state = tiny_params()
  net = tiny()
  low, _ = net.apply(params, state, None, jnp.bfloat16(IMAGES), False)
  high, _ = net.apply(params, state, None, IMAGES, False)
  assert low['logits'].dtype == jnp.float32
  assert low['pool'].dtype == jnp.bfloat16
  np.testing.assert_allclose(
    low['pool'].astype(jnp.float32), high['pool'], atol=0.1
  )
  init, _ = jax.eval_shape(lambda: net.init(KEY, jnp.bfloat16(IMAGES), True))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(init))


def test_training_draws_depend_on_the_key_alone():
  params, state = tiny_params()
  params = jax.tree.map(lambda leaf: leaf + 0.5, params)
  apply = tiny().apply
  one, _ = apply(params, state, KEY, IMAGES, True)
  two, _ = apply(params, state, KEY, IMAGES, True)
  other, _ = apply(params, state, jax.random.key(1), IMAGES, True)
  np.testing.assert_array_equal(one['logits'], two['logits'])
  assert np.abs(one['logits'] - other['logits']).max() > 1e-3


def test_training_without_a_key_needs_the_rates_at_zero():
  params, state = tiny_params()
  net = tiny(drop_rate=0, stochdepth_rate=0)
  jax.eval_shape(lambda: net.apply(params, state, None, IMAGES, True))
  with pytest.raises(ValueError, match='pass a key'):
    tiny().apply(params, state, None, IMAGES, True)


@pytest.mark.slow
def test_remat_changes_neither_paths_nor_gradients():
  params, state = tiny_params()

  def loss(params, remat):
    out, _ = tiny(remat=remat).apply(params, state, KEY, IMAGES, True)
    return out['logits'].sum() + out['pool'].sum()

  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  plain, remat = gradient(params, False), gradient(params, True)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    plain,
    remat,
  )


def test_features_are_the_stages_with_their_strides():
  params, state = tiny_params()
  out, _ = tiny(features=True).apply(params, state, None, IMAGES, False)
  assert {s: f.shape for s, f in out['features'].items()} == {
    s: (2, 32 // s, 32 // s, c) for s, c in zip((4, 8, 16, 32), TINY['widths'])
  }


@pytest.mark.slow
def test_the_batch_normalized_twin_has_bn_and_no_gain():
  params, state = tiny_params('batch')
  names = {name for leaves in params.values() for name in leaves}
  assert names == {'w', 'b', 'scale', 'offset'}
  out, new_state = tiny(normalizer='batch').apply(
    params, state, KEY, IMAGES, True
  )
  assert np.isfinite(out['logits']).all()
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), state, new_state)
  assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize(
  'overrides, words',
  [
    ({'normalizer': 'group'}, "no normalizer 'group'"),
    ({'widths': (64, 64)}, 'one width for each of the 4 stages'),
    ({'ws_eps': 'none'}, "no ws_eps 'none'"),
  ],
)
def test_impossible_values_are_one_clear_line(overrides, words):
  with pytest.raises(ValueError, match=words):
    tiny(**overrides).init(KEY, IMAGES, True)


def test_a_branch_is_multiplied_once(monkeypatch):
  """Gate, gain, alpha and what is dropped make one factor first."""
  monkeypatch.setattr(
    nfnet.kits.activations, 'get', lambda name, scaled=True: jax.nn.relu
  )

  def block(x):
    kit = nfnet.kits.make('nf', 'relu', 'published', None, 'same', False)
    made = nfnet.NFBlock(
      256, 256, 1, kit=kit, alpha=0.2, se_ratio=0.5, se_activation='relu',
      use_two_convs=True, exact_width=False, skipinit_gain=1.0,
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
