"""Stacked equal blocks: the same parameters, optimizer, steps, checkpoints."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_train import last_state, run_config

from configs import nfnet_f0
from nfnets import (
  factory,
  models,
  optim,
  parallel,
  plan,
  stacks,
  step,
  train,
  variants,
)

DEPTHS = (4, 1, 3)
LOOPED = {'model__depths': DEPTHS, 'model__scan': True}


def assert_close(tree, other, rtol=2e-5, atol=2e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    tree,
    other,
  )


def stacked(tree, params, depths=DEPTHS):
  return stacks.stack(tree, stacks.equal_blocks(params, depths))


def test_a_stacks_path_names_its_blocks():
  blocks = [f'Net/~/nf_block_{i}' for i in (9, 10, 11)]
  assert stacks.name(blocks) == 'Net/stack_9_11/nf_block'
  path = 'Net/stack_9_11/nf_block/~/conv0/w'
  assert stacks.members(path) == [f'{block}/~/conv0/w' for block in blocks]
  assert stacks.members(blocks[0]) == blocks[:1]
  assert stacks.is_stack('Net/stack_9_11/nf_block')
  assert not stacks.is_stack('Net/~/nf_block_9/~/conv0')


@pytest.mark.parametrize(
  'path', ['net/stack_1/w', 'net/stack_1_2', 'stack/b_1/w', 0]
)
def test_other_names_are_no_stacks(path):
  assert not stacks.is_stack(path)


def test_stacks_are_found_wherever_a_haiku_tree_is():
  blocks = [['net/~/block_1', 'net/~/block_2']]
  tree = {f'net/~/block_{i}': {'w': np.full(2, i)} for i in range(3)}
  for whole in (tree, {'a': tree, 'b': [tree, {}]}, ({'c': {'d': tree}}, 3)):
    there = stacks.stack(whole, blocks)
    assert not stacks.any_in(whole) and stacks.any_in(there)
    assert "'net/~/block_2'" not in str(there)
    jax.tree.map(np.testing.assert_array_equal, stacks.unstack(there), whole)


def test_trees_of_other_keys_are_nobodys_stacks():
  tree = {0: {'w': np.ones((2, 2))}, 1: {'w': np.ones((2, 2))}}
  optim.sgd(0.1, clipping=0.01).init(tree)
  assert stacks.stacked_in(tree) == []


def test_blocks_that_are_not_numbered_one_by_one_are_no_stack():
  for blocks in (['net/b_1', 'net/b_3'], ['net/b_1', 'net/c_2']):
    with pytest.raises(ValueError, match='no blocks numbered one by one'):
      stacks.name(blocks)


@pytest.mark.parametrize('kind', ['NumPy', 'JAX', 'shapes'])
@pytest.mark.parametrize('frozen', [(), ('stem',)])
def test_unstacking_a_training_state_undoes_stacking(kind, frozen):
  config = tiny.config(**LOOPED, optimizer__frozen=frozen, ema__mode='warmup')
  _, optimizer, state = tiny.network_and_state(config)
  rising = iter(range(100000))
  state = jax.tree.map(lambda x: np.full_like(x, next(rising)), state)
  if kind == 'JAX':
    state = jax.tree.map(jnp.asarray, state)
  if kind == 'shapes':
    state = jax.eval_shape(lambda: state)
  whole = factory.looped(config, state)
  own, stack = 'CIFAR_ResNet/~/nf_block_2', 'CIFAR_ResNet/stack_1_3/nf_block'
  assert own not in whole.params and stack in whole.ema_params
  assert whole.params[f'{stack}/~/conv0']['w'].shape == (3, 3, 3, 16, 16)
  if kind != 'shapes':
    np.testing.assert_array_equal(
      whole.params[stack]['skip_gain'][1], state.params[own]['skip_gain']
    )
  assert stacks.any_in(whole) and not stacks.any_in(state)
  back = stacks.unstack(whole)
  assert jax.tree.structure(back) == jax.tree.structure(state)
  for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(state)):
    if kind == 'shapes':
      assert got == want
    else:
      np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  'name',
  [
    'nfnet_f1',
    'nfnet_f0_plus',
    'nf_resnet_101',
    'nf_regnet_b1',
    'skipinit_resnet_50',
    'fixup_resnet_50',
    'cifar_resnet_44',
    'cifar_resnet_20, none',
  ],
)
def test_every_family_loops_over_the_blocks_that_are_stacked(name):
  how = {'normalizer': 'nf'} if name.startswith('cifar') else {}
  if name.endswith(', none'):  # no parameter tells where a stage begins
    name = name.removesuffix(', none')
    how = {'normalizer': 'none', 'widths': (16, 16, 32)}
  network = models.create(name, 10, scan=True, **how)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  params, _ = jax.eval_shape(
    functools.partial(network.init, is_training=True), jax.random.key(0), images
  )
  whole = stacked(params, params, variants.find(name)['depths'])
  # The network asks for each stack by its blocks and finds no block alone.
  assert len(whole) < len(params)

  def logits(params, images):
    key = jax.random.key(1)
    return network.apply(params, {}, key, images, True)[0]['logits']

  assert jax.eval_shape(logits, whole, images).shape == (1, 10)
  unrolled = models.create(name, 10, **how)
  with pytest.raises(ValueError, match='Unable to retrieve parameter'):
    jax.eval_shape(
      lambda p, x: unrolled.apply(p, {}, jax.random.key(1), x, True),
      whole,
      images,
    )


@pytest.fixture(scope='module')
def params():
  _, _, state = tiny.network_and_state(tiny.config(**LOOPED))
  return state.params


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'optimizer__frozen': ('block_2/',)}, 'all of them or none'),
    (
      {'sam__rho': 0.1, 'sam__perturbed': ('block_3/',)},
      'all of them or none',
    ),
    ({'sam__rho': 0.1, 'sam__perturbed': ('no',)}, "'no' matches no parameter"),
    ({'normalizer': 'batch'}, 'batch normalization.*scan=False'),
  ],
)
def test_a_run_that_cannot_loop_is_refused_before_it_compiles(values, message):
  with pytest.raises(ValueError, match=message):
    factory.build(run_config(**LOOPED, **values))


def test_a_loop_names_the_stacks_that_are_not_its_own(params):
  config = tiny.config(model__depths=(3, 2, 3), model__scan=True)
  network = factory.network_of(config)
  images = jnp.zeros((1, 8, 8, 3))
  with pytest.raises(ValueError, match='no parameters of .*_1 .*nf_block_1:3'):
    network.apply(stacked(params, params), {}, jax.random.key(0), images, True)


WAYS = {
  'agc': {'optimizer__clip': 'agc', 'observe_every': 2},
  'sam': {'sam__rho': 0.05, 'optimizer__clip': 'norm'},
  'sam on weights': {'sam__rho': 0.05, 'sam__perturbed': ('conv0/w', 'linear')},
  'parts': {'micro_batches': 2, 'model__remat': True},
}


@pytest.mark.parametrize(
  'way',
  [w if w == 'agc' else pytest.param(w, marks=pytest.mark.slow) for w in WAYS],
)
def test_steps_on_stacks_are_the_unrolled_networks(way):
  values = {'model__depths': (3, 1, 1), 'ema__mode': 'warmup', **WAYS[way]}
  unrolled = tiny.take_steps(tiny.config(**values), jax.devices()[:2])
  values['model__scan'] = True
  looped = tiny.take_steps(tiny.config(**values), jax.devices()[:2])
  assert stacks.any_in(looped[0])
  looped, unrolled = parallel.to_host((looped, unrolled))
  assert_close(stacks.unstack(looped[0]), unrolled[0], 2e-4, 1e-5)
  assert_close(looped[1], unrolled[1], 2e-4, 1e-5)


@pytest.mark.slow
def test_a_step_takes_unstacked_parameters_as_well():
  config = tiny.config(model__depths=(3, 1, 1), model__scan=True)
  network, optimizer, state = tiny.network_and_state(config)
  train_step = step.make_train_step(
    config, network, optimizer, factory.schedule_of(config)
  )
  mapped = parallel.map_step(train_step, jax.devices()[:1])
  batch = parallel.shard(tiny.batch(16), jax.devices()[:1])
  states = []
  for start in (state, factory.looped(config, state)):
    start = jax.tree.map(np.array, start)
    start, key = parallel.replicate(
      (start, jax.random.key(0)), jax.devices()[:1]
    )
    states.append(parallel.to_host(mapped(start, batch, key)[0]))
  assert_close(states[0], stacks.unstack(states[1]))


def test_checkpoints_of_looped_runs_hold_the_networks_own_paths(tmp_path):
  values = {'model__depths': (3, 1, 1), 'num_steps': 4, 'eval_every': 4}
  plain = run_config(**values)
  looped = run_config(**values, model__scan=True)
  want = train.train_and_evaluate(plain, tmp_path / 'plain')
  got = train.train_and_evaluate(looped, tmp_path / 'looped')
  assert got == pytest.approx(want, abs=1e-2)
  states = [
    last_state(config, tmp_path / name)
    for config, name in ((plain, 'plain'), (looped, 'looped'))
  ]
  assert int(states[1].step) == 4 and not stacks.any_in(states[1])
  assert_close(states[1], states[0], 2e-3, 1e-4)

  # From its own half on, bit for bit.
  shutil.rmtree(tmp_path / 'looped/checkpoints/4')
  (tmp_path / 'looped/summary.json').unlink()
  assert train.train_and_evaluate(looped, tmp_path / 'looped') == got
  again = last_state(looped, tmp_path / 'looped')
  jax.tree.map(np.testing.assert_array_equal, again, states[1])


@pytest.mark.slow
def test_f6s_whole_step_has_hardly_more_operations_than_f0s():
  def operations(name):
    config = nfnet_f0.get_config()
    config.model.name, config.model.scan = name, True
    config.batch_size, config.data.train_image_size = 2, 64
    train_step, shapes = plan.step_of(config.copy_and_resolve_references())
    mapped = parallel.map_step(train_step, jax.devices()[:1])
    state, batch, key = shapes
    batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), batch
    )
    return mapped.lower(state, batch, key).as_text().count(' = ')

  # F6 has 84 blocks and F0 12; unrolled it has 6 times as many operations.
  # What is left are the observed numbers, which are a block's own.
  assert operations('nfnet_f6') < 2 * operations('nfnet_f0')
