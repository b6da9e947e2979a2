"""The mapped axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import parallel


def test_a_mapped_step_averages_over_devices_and_returns_unstacked_shapes():
  def step(state, batch, key):
    del key
    return state + parallel.mean(jnp.mean(batch)), parallel.total(jnp.ones(()))

  batch = np.arange(8, dtype=np.float32)
  state, count = parallel.map_step(step)(
    parallel.replicate(np.float32(1)),
    parallel.shard(batch),
    parallel.replicate(jax.random.key(0)),
  )
  assert state.shape == () and float(state) == 1 + batch.mean()
  assert int(count) == jax.device_count() == 4


def test_the_mean_keeps_dtypes_so_that_a_step_compiles_once():
  def step(state, batch, key):
    del key
    state = state['x'] + jnp.mean(batch), state['count'] + 1
    return dict(zip(('x', 'count'), parallel.mean(state)))

  mapped = parallel.map_step(step)
  state = {'x': np.float32(0), 'count': np.int32(0)}
  state = parallel.replicate(state)
  for _ in range(3):
    batch = parallel.shard(np.arange(4, dtype=np.float32))
    state = mapped(state, batch, parallel.replicate(jax.random.key(0)))
  assert state['count'].dtype == jnp.int32 and int(state['count']) == 3
  assert float(state['x']) == 4.5


def test_each_device_gets_its_own_key():
  def draw(_, batch):
    del batch
    key = parallel.device_key(jax.random.key(0))
    return jax.lax.all_gather(jax.random.bits(key), parallel.AXIS)

  bits = parallel.map_eval(draw)(
    parallel.replicate(np.float32(0)), parallel.shard(np.zeros(4))
  )
  assert len(set(parallel.to_host(bits).tolist())) == 4


def test_shard_gives_each_device_its_part_in_order():
  placed = parallel.shard({'x': np.arange(8)})['x']
  assert placed.shape == (4, 2)
  for device, shard in enumerate(placed.addressable_shards):
    assert shard.data.tolist() == [[2 * device, 2 * device + 1]]


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match='6 examples do not divide among 4'):
    parallel.shard(np.zeros((6, 2)))
