"""Equal blocks as one array each: the same step, paths and state outside."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets import optim, recipe, step
from nfnets.optim import chain, stacks
from tests import tiny

DEPTHS = (1, 3, 4)


def params(depths=DEPTHS):
  random = np.random.RandomState(0)
  tree = {
    'net/~/stem': {'w': random.randn(3, 3, 3, 4)},
    'net/~/linear': {'w': random.randn(4, 5), 'b': random.randn(5)},
  }
  for index in range(sum(depths)):
    block = 'block' + (f'_{index}' if index else '')
    tree[f'net/~/{block}/~/conv0'] = {
      'w': random.randn(3, 3, 4, 4) * 10 ** random.randn(4),
      'gain': random.randn(4),
    }
    tree[f'net/~/{block}'] = {'skip_gain': random.randn()}
  return jax.tree.map(jnp.float32, tree)


def test_a_stages_blocks_but_the_first_are_stacked_and_come_back():
  tree = params()
  found = stacks.find(tree, DEPTHS)
  assert dict(found.blocks) == {
    'block_2': ('block_2', 'block_3'),
    'block_5': ('block_5', 'block_6', 'block_7'),
  }
  assert found.names == {
    f'net/~/block_{index}{rest}'
    for index in (2, 5)
    for rest in ('/skip_gain', '/~/conv0/w', '/~/conv0/gain')
  }
  state = {'trace': tree, 'count': jnp.int32(3)}
  stacked = found.stack(state)
  shape = stacked['trace']['net/~/block_5/~/conv0']['w'].shape
  assert shape == (3, 3, 3, 4, 4)
  assert 'net/~/block_6' not in stacked['trace']
  np.testing.assert_array_equal(
    stacked['trace']['net/~/block_5/~/conv0']['w'][1],
    tree['net/~/block_6/~/conv0']['w'],
  )
  back = found.unstack(stacked)
  assert jax.tree.structure(back) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, back, state)


@pytest.mark.parametrize(
  ('entries', 'left'),
  [
    (('head', 'stage_1'), 2),
    (('gain',), 2),
    (('block_6',), 1),
    (('block_3/~/conv0', 'block_7/~/conv0'), 0),
  ],
)
def test_a_stage_of_which_some_blocks_are_named_is_left_as_it_is(entries, left):
  assert len(stacks.find(params(), DEPTHS, entries).blocks) == left


def test_without_depths_nothing_is_stacked():
  tree = params()
  found = stacks.find(tree)
  assert not found.blocks and not found.names
  assert found.stack(tree) == found.unstack(tree) == tree


@pytest.mark.parametrize('clip', ['agc', 'layer', 'norm', 'none'])
def test_every_clipper_gives_stacked_gradients_what_it_gives_each(clip):
  optimizer = optax.with_extra_args_support(
    optim.sgd(0.1, weight_decay=0.01, clipping=0.05, clip=clip)
  )
  tree = params()
  grads = jax.tree.map(lambda x: jnp.sin(37 * x), tree)
  state = optimizer.init(tree)
  want, want_state = optimizer.update(grads, state, tree)
  found = stacks.find(tree, DEPTHS)
  got = optimizer.update(
    *found.stack((grads, state, tree)), stacked=found.names
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    found.unstack(got),
    (want, want_state),
  )


def test_a_stack_is_not_clipped_as_one_tensor():
  tree = params()
  grads = jax.tree.map(lambda x: jnp.sin(37 * x), tree)
  found = stacks.find(tree, DEPTHS)
  clipper = chain.clip_by_layer_norm(0.5)
  stacked = found.stack(grads)
  apart, _ = clipper.update(stacked, clipper.init(tree), stacked=found.names)
  whole, _ = clipper.update(stacked, clipper.init(tree))
  path = 'net/~/block_5/~/conv0'
  norm = lambda x: float(jnp.linalg.norm(x[path]['w'].ravel()))
  assert norm(apart) == pytest.approx(0.5 * 3**0.5, rel=1e-5)
  assert norm(whole) == pytest.approx(0.5, rel=1e-5)


OPTIONS = {
  'optimizer__clip': 'agc',
  'optimizer__clipping': 0.02,
  'model__depths': (4, 1, 1),
  'ema__mode': 'warmup',
  'model__drop_rate': 0.3,
}


def compare_steps(**values):
  """States after two steps with and without the loop; paths are equal."""
  states, metrics = zip(
    *[
      tiny.take_steps(
        tiny.config('nf', **(OPTIONS | values), model__scan=scan),
        jax.devices()[:1],
      )
      for scan in (False, True)
    ]
  )
  assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
  for trees in (states, metrics):
    for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
      scale = np.abs(np.asarray(a)).max() + 1e-6
      np.testing.assert_allclose(b, a, rtol=0, atol=2e-5 * scale)


def test_a_looping_step_gives_the_unrolled_ones_state_and_metrics():
  compare_steps()


@pytest.mark.slow
@pytest.mark.parametrize(
  'values',
  [
    {'observe_every': 1},
    {'sam__rho': 0.05, 'stop_after_nonfinite': 3},
    {'optimizer__unclipped': ('head', 'block_1/'), 'observe_every': 1},
    {'optimizer__frozen': ('stem', 'block_2/')},
    {'optimizer__learning_rate_scales': (('stage_1', 0.5),)},
    {'optimizer__clip': 'norm', 'micro_batches': 2},
    {'optimizer__clip': 'layer'},
  ],
)
def test_it_does_with_every_option(values):
  compare_steps(**values)


def test_all_that_follows_the_gradient_is_traced_once_for_equal_blocks():
  def equations(scan, depth):
    config = tiny.config(
      **OPTIONS | {'model__depths': (depth, 1, 1)}, model__scan=scan
    )
    network, optimizer = recipe.network_of(config), recipe.optimizer_of(config)
    train_step = step.make_train_step(
      config, network, optimizer, recipe.schedule_of(config)
    )
    state = jax.eval_shape(
      lambda key: step.init_state(config, network, optimizer, key),
      jax.random.key(0),
    )
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tiny.batch(2)))
    return str(
      jax.make_jaxpr(train_step, axis_env=[('data', 1)])(
        state, batch, jax.random.key(0)
      )
    ).count('name=clip_units')

  assert equations(True, 3) == equations(True, 6)
  assert equations(False, 3) < equations(False, 6)
