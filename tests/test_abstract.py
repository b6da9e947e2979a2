"""Counting a program from its trace: FLOPs, bytes, collectives, memory."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from nfnets.analysis import counts
from nfnets.models import create, layers
from nfnets.plan import abstract


def work(function, *shapes):
  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return abstract.work(jax.make_jaxpr(function)(*shapes))


def test_a_matrix_product_takes_two_flops_a_multiply_add():
  found = work(lambda a, b: a @ b, (5, 7), (7, 3))
  assert found.flops == 2 * 5 * 7 * 3
  assert found.bytes_accessed == 4 * (5 * 7 + 7 * 3 + 5 * 3)
  assert found.temporaries == 0  # the result isn't one


@pytest.mark.parametrize(('stride', 'groups'), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_a_convolutions_gradients_cost_as_much_as_itself(stride, groups):
  def loss(images, weights):
    with layers.traced_for('tpu'):
      out = layers.conv2d(images, weights, stride, groups)
    return jnp.sum(out**2)

  shapes = (2, 8, 8, 16), (3, 3, 16 // groups, 8)
  once = work(loss, *shapes).flops
  assert once == 2 * 2 * (8 // stride) ** 2 * 8 * 9 * 16 // groups
  for argnums, times in ((0, 2), (1, 2), ((0, 1), 3)):
    assert work(jax.grad(loss, argnums), *shapes).flops == times * once


def test_what_nothing_depends_on_is_not_counted():
  found = work(lambda a: (a @ a, jnp.sin(a))[1], (4, 4))
  assert found.flops == 0


def test_a_scan_counts_its_body_so_many_times():
  def loop(a):
    return lax.scan(lambda c, _: (c @ a, None), a, None, length=7)[0]

  assert work(loop, (4, 4)).flops == 7 * 2 * 4**3


def test_a_call_made_twice_is_counted_twice():
  inner = jax.jit(lambda a: a @ a)
  assert work(lambda a: inner(inner(a)), (4, 4)).flops == 2 * 2 * 4**3


def test_elementwise_chains_are_fused_into_what_reads_them():
  plain = work(lambda a, b: a @ b, (64, 64), (64, 64))
  fused = work(lambda a, b: jnp.tanh(a * 2 + 1) @ b, (64, 64), (64, 64))
  assert fused.bytes_accessed == plain.bytes_accessed
  assert fused.temporaries == plain.temporaries


def test_collectives_count_what_each_device_gives():
  mesh = AbstractMesh((8,), ('data',), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    lambda x: lax.psum(x, 'data'),
    mesh=mesh,
    in_specs=PartitionSpec('data'),
    out_specs=PartitionSpec(),
    check_vma=False,
  )
  assert work(mapped, (8 * 5, 3)).collective_bytes == 4 * 5 * 3


def test_a_chain_keeps_two_arrays_and_its_gradient_all():
  def chain(x, w):
    for _ in range(6):
      x = jnp.tanh(x @ w)
    return jnp.sum(x @ w)

  size = 4 * 64 * 64
  shapes = (64, 64), (64, 64)
  assert work(chain, *shapes).temporaries == pytest.approx(2 * size, rel=0.01)
  kept = work(jax.grad(chain), *shapes).temporaries
  assert 6 * size <= kept <= 8 * size
  again = jax.checkpoint(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w))

  def rematerialized(x, w):
    for _ in range(3):
      x = again(x, w)
    return jnp.sum(x @ w)

  assert work(jax.grad(rematerialized), *shapes).temporaries < kept


def test_a_networks_flops_are_twice_its_counted_multiply_adds():
  network = create('cifar_resnet_20', 10, normalizer='nf')
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params, state = jax.eval_shape(
    lambda k, x: network.init(k, x, True), key, images
  )
  forward = jax.make_jaxpr(
    lambda p, s, x: network.apply(p, s, None, x, False)[0]['logits']
  )(params, state, images)
  parts = counts.parts('cifar_resnet_20', 32, normalizer='nf')
  macs = sum(part.macs for part in parts)
  assert abstract.work(forward).flops == 2 * 2 * macs
