"""The train and eval steps, on four fake devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nfnets import factory, parallel, step
from nfnets.data import augment
from nfnets.metrics import step_flops
from nfnets.models.network import is_stacked
from nfnets.optim.optimizer import OPTIMIZERS
from nfnets.optim.parameters import select
from nfnets.weights import stacked


def all_close(tree, other, rtol=2e-5, atol=2e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    tree,
    other,
  )


@pytest.mark.parametrize('clip', ['none', 'agc'])
def test_four_devices_take_the_step_of_one(clip):
  config = tiny.config(optimizer__clip=clip, ema__mode='warmup')
  four, metrics_4 = tiny.take_steps(config, jax.devices())
  one, metrics_1 = tiny.take_steps(config, jax.devices()[:1])
  all_close(parallel.to_host(four), parallel.to_host(one))
  all_close(parallel.to_host(metrics_4), parallel.to_host(metrics_1), 1e-4)


def relative_difference(tree, other):
  flat = [np.concatenate([x.ravel() for x in jax.tree.leaves(t)])
          for t in (tree, other)]  # fmt: skip
  return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])


def test_pmap_and_shard_map_take_equal_steps():
  config = tiny.config('batch', optimizer__clip='agc')
  _, _, state = tiny.network_and_state(config)
  train_step = step.make_train_step(config)
  mesh = Mesh(np.array(jax.devices()), (parallel.AXIS,))
  whole, split = PartitionSpec(), PartitionSpec(parallel.AXIS)

  def unstacked(state, batch, key):
    return train_step(state, jax.tree.map(lambda x: x[0], batch), key)

  sharded = jax.jit(
    jax.shard_map(
      unstacked,
      mesh=mesh,
      in_specs=(whole, split, whole),
      out_specs=whole,
      check_vma=False,
    )
  )
  batch = tiny.batch(16)
  placed = jax.device_put(
    jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), batch),
    NamedSharding(mesh, split),
  )
  got, _ = sharded(state, placed, jax.random.key(0))
  expected, _ = tiny.take_steps(config, jax.devices(), 1, batch)
  all_close(parallel.to_host(got), parallel.to_host(expected))


@pytest.mark.parametrize('normalizer', ['batch', 'nf'])
def test_every_device_ends_with_the_same_bits(normalizer):
  config = tiny.config(
    normalizer, model__drop_rate=0.3, ema__mode='warmup', sam__rho=0.05
  )
  state, metrics = tiny.take_steps(config, jax.devices())
  for leaf in jax.tree.leaves((state, metrics)):
    shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    assert len(shards) == 4
    for shard in shards[1:]:
      np.testing.assert_array_equal(shards[0], shard)


def test_micro_batches_equal_the_large_batch_without_batchnorm():
  config = tiny.config(optimizer__clip='agc', ema__mode='warmup')
  whole, _ = tiny.take_steps(config, jax.devices()[:1])
  config.micro_batches = 4
  parts, _ = tiny.take_steps(config, jax.devices()[:1])
  all_close(parallel.to_host(parts.params), parallel.to_host(whole.params))


def is_schedule(x):
  return isinstance(x, optax.ScaleByScheduleState)


def counted(tree, count):
  """The tree with this count in the state of its one schedule."""
  leaves, structure = jax.tree.flatten(tree, is_leaf=is_schedule)
  assert sum(map(is_schedule, leaves)) == 1
  leaves = [x._replace(count=count) if is_schedule(x) else x for x in leaves]
  return structure.unflatten(leaves)


def test_a_nonfinite_step_changes_only_the_counters():
  config = tiny.config('batch', ema__mode='warmup', stop_after_nonfinite=2)
  _, _, state = tiny.network_and_state(config)
  params = jax.tree.map(np.copy, state.params)
  params['CIFAR_ResNet/~/linear']['w'][0, 0] = np.inf
  state = state._replace(params=params)
  after, metrics = tiny.take_steps(config, jax.devices(), 1, state=state)
  assert float(metrics['nonfinite']) == 1.0
  assert int(after.step) == 1
  jax.tree.map(
    np.testing.assert_array_equal,
    parallel.to_host(after._replace(step=0)),
    counted(state._replace(step=0), 1),
  )


@pytest.mark.parametrize('finite', [True, False])
@pytest.mark.parametrize(
  'groups',
  [
    {},
    {
      'optimizer__frozen': ('stem',),
      'optimizer__learning_rate_scales': (('head', 2.0),),
    },
  ],
)
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_skipping_a_step_does_not_delay_the_schedule(name, groups, finite):
  config = tiny.config(optimizer__name=name, stop_after_nonfinite=2, **groups)
  _, _, old = tiny.network_and_state(config)
  old = old._replace(opt_state=counted(old.opt_state, 3))
  new = jax.tree.map(lambda x: x + 1, old)
  loss = jnp.float32(1 if finite else jnp.nan)
  metrics = {'grad_norm': loss, 'learning_rate': loss, 'loss': loss}
  kept, _ = step._unless_nonfinite(config, metrics, new, old)
  want = new if finite else old._replace(opt_state=counted(old.opt_state, 4))
  jax.tree.map(np.testing.assert_array_equal, kept, want)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
  config = tiny.config(precision='bfloat16', ema__mode='warmup')
  network, chain, state = tiny.network_and_state(config)
  inputs = jax.eval_shape(
    lambda key, batch: augment.augment(config, key, batch),
    jax.random.key(0),
    tiny.batch(4),
  )
  assert inputs['images'].dtype == jnp.bfloat16
  after, _ = tiny.take_steps(config, jax.devices())
  dtypes = {x.dtype for x in jax.tree.leaves(after)}
  assert dtypes == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
  exact, _ = tiny.take_steps(tiny.config(ema__mode='warmup'), jax.devices())
  drift = relative_difference(
    parallel.to_host(after.params), parallel.to_host(exact.params)
  )
  assert 0 < drift < 0.02


def test_batch_statistics_of_all_devices_are_those_of_the_whole_batch():
  config = tiny.config(
    'batch', model__cross_replica_axis=parallel.AXIS, observe_every=0
  )
  network, shapes = factory.network_of(config), step.state_shapes(config)
  plain = tiny.config('batch', observe_every=0)
  assert step_flops(config, network, shapes) == step_flops(
    plain, factory.network_of(plain), step.state_shapes(plain)
  )
  batch = tiny.batch(16)
  four, _ = tiny.take_steps(config, jax.devices(), 1, batch)
  one, _ = tiny.take_steps(plain, jax.devices()[:1], 1, batch)
  all_close(parallel.to_host(four), parallel.to_host(one), 1e-4, 1e-5)


def test_a_clipping_of_none_clips_nothing():
  config = tiny.config(
    optimizer__clip='agc', optimizer__clipping=None, observe_every=1
  )
  shapes = step.state_shapes(config)
  names = step.observed_names(config, shapes.params)
  batch = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), tiny.batch(16))
  train_step = parallel.map_step(step.make_train_step(config))
  _, metrics = jax.eval_shape(train_step, shapes, batch, jax.random.key(0))
  assert names and metrics['observed'].shape == (len(names),)


def test_the_state_is_donated():
  config = tiny.config(ema__mode='warmup')
  train_step = parallel.map_step(step.make_train_step(config))
  before = parallel.replicate(tiny.network_and_state(config)[-1])
  train_step(
    before,
    parallel.shard(tiny.batch(16)),
    parallel.replicate(jax.random.key(0)),
  )
  assert all(x.is_deleted() for x in jax.tree.leaves(before.params))


FROZEN = ('stem', 'stage_1')


@pytest.mark.parametrize(
  'normalizer', ['nf', pytest.param('batch', marks=pytest.mark.slow)]
)
def test_frozen_parameters_stay_bit_for_bit(normalizer):
  """Under decay, momentum, averaging, SAM and norm clipping; the rest moves.

  Statistics of batch normalization are no parameters: they follow the data.
  """
  config = tiny.config(
    normalizer,
    optimizer__frozen=FROZEN,
    optimizer__clip='norm',
    optimizer__weight_decay=0.1,
    optimizer__decayed='all',
    ema__mode='warmup',
    sam__rho=0.05,
  )
  _, _, before = tiny.network_and_state(config)
  after, _ = tiny.take_steps(config, jax.devices()[:1])
  after = parallel.to_host(after)
  is_frozen = jax.tree.leaves(select(before.params, FROZEN))
  assert any(is_frozen) and not all(is_frozen)
  for params in (after.params, after.ema_params):
    for frozen, old, new in zip(
      is_frozen, jax.tree.leaves(before.params), jax.tree.leaves(params)
    ):
      assert (np.asarray(old).tobytes() == np.asarray(new).tobytes()) == frozen
  if normalizer == 'batch':
    old, new = (
      s.state['CIFAR_ResNet/~/initial_bn/~/mean_ema']['average']
      for s in (before, after)
    )
    assert np.any(old != new)


def test_frozen_first_stages_need_no_backward_pass():
  def convolutions(**values):
    config = tiny.config(**values)
    gradient, state = step.make_gradient(config), step.state_shapes(config)
    batch = tiny.batch(4)
    inputs = {
      'images': jnp.zeros(batch['images'].shape, jnp.float32),
      'targets': jnp.zeros((4, 10)),
    }
    traced = jax.make_jaxpr(gradient)(
      state.params, state.state, jax.random.key(0), inputs
    )
    return str(traced).count('conv_general_dilated[')

  forward_alone = convolutions(optimizer__frozen=('.',))
  most = convolutions(optimizer__frozen=(*FROZEN, 'stage_2'))
  some = convolutions(optimizer__frozen=FROZEN)
  assert forward_alone < most < some < convolutions()


def test_the_sigmoid_loss_sums_over_classes_in_nats():
  logits = np.random.RandomState(0).standard_normal((6, 5))
  soft = np.random.RandomState(1).dirichlet(np.ones(5), 6)
  p = 1 / (1 + np.exp(-logits))
  oracle = -(soft * np.log(p) + (1 - soft) * np.log(1 - p)).sum(-1)
  found = step.LOSSES['sigmoid'](np.float32(logits), np.float32(soft))
  np.testing.assert_allclose(found, oracle, rtol=1e-5)


@pytest.mark.parametrize('k', [1, 2, 5])
def test_top_k_equals_a_stable_sort_with_ties(k):
  logits = np.random.RandomState(2).randint(0, 3, (200, 5)).astype(np.float32)
  labels = np.random.RandomState(3).randint(0, 5, 200)
  best = np.argsort(-logits, axis=-1, kind='stable')[:, :k]
  oracle = (best == labels[:, None]).any(-1)
  np.testing.assert_array_equal(step.top_k_correct(logits, labels, k), oracle)


def test_a_nan_is_never_a_correct_guess():
  logits = jnp.array([[jnp.nan, 1.0], [jnp.nan, 1.0], [jnp.nan, jnp.nan]])
  labels = jnp.array([0, 1, 0])
  assert step.top_k_correct(logits, labels, 1).tolist() == [False] * 3
  assert step.top_k_correct(logits, labels, 2).tolist() == [
    False,
    True,
    False,
  ]


@pytest.mark.parametrize(
  'name', ['lamb', 'muon', pytest.param('sgd', marks=pytest.mark.slow)]
)
def test_with_scan_an_optimizer_takes_the_unrolled_networks_step(name):
  values = {
    'optimizer__name': name,
    'optimizer__clip': 'agc',
    'optimizer__clipping': 0.1,
    'model__depths': (4, 1, 1),
  }
  devices, after = jax.devices()[:1], []
  _, _, state = tiny.network_and_state(tiny.config(**values))
  for scan in (False, True):
    config = tiny.config(model__scan=scan, **values)
    _, optimizer, own = tiny.network_and_state(config)
    params = stacked.stack_like(state.params, own.params)
    assert any(map(is_stacked, params)) == scan
    own = own._replace(params=params, opt_state=optimizer.init(params))
    new, _ = tiny.take_steps(config, devices, 1, state=own)
    after.append(stacked.unstack(parallel.to_host(new.params)))
  assert relative_difference(after[1], state.params) > 1e-3
  # Of updates, by their norms: where an element's gradient is nearly 0, LAMB's
  # first update of it is the sign of a rounding error.
  moved = [jax.tree.map(np.subtract, new, state.params) for new in after]
  for unrolled, looped in zip(*map(jax.tree.leaves, moved)):
    if norm := np.linalg.norm(unrolled):
      assert np.linalg.norm(looped - unrolled) < 3e-3 * norm
    else:
      assert not looped.any()
