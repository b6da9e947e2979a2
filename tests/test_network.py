"""What every family shares: per-block numbers, stacks, derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import fill, images

from nfnets import models, weights
from nfnets.models import network

# PAPER_FACTS 1.1, of F0 and of ResNet-50.
F0 = [1, 1.0198, 1.0198, 1.0392, 1.0198, 1.0392, 1.0583, 1.0770, 1.0954]
F0 += [1.1136, 1.0198, 1.0392]
RESNET_50 = [1, 1.0198, 1.0392, 1.0583, 1.0198, 1.0392, 1.0583, 1.0770, 1.0198]
RESNET_50 += [1.0392, 1.0583, 1.0770, 1.0954, 1.1136, 1.0198, 1.0392]
IMAGES = images((2, 16, 16, 3))
SMALL = {'depths': (1, 3, 1, 1), 'widths': (16, 16, 16, 16)}
FAMILIES = {
  'nfnet_f0': SMALL,
  'nf_resnet_50': SMALL,
  'nf_regnet_b0': {'depths': (1, 3, 1, 1)},
  'resnet_50': SMALL,
  'skipinit_resnet_50': SMALL,
  'fixup_resnet_50': SMALL,
  'cifar_resnet_20': {'normalizer': 'nf', 'depths': (4, 1, 1)},
}


@pytest.mark.parametrize(
  'depths, want', [((1, 2, 6, 3), F0), ((3, 4, 6, 3), RESNET_50)]
)
def test_expected_stds_are_the_published_ones(depths, want):
  got = sum(network.expected_stds(depths, 0.2), [])
  np.testing.assert_allclose(got, want, atol=5e-5)


def test_the_last_block_drops_at_the_rate_short_of_one_step():
  rows = sum(network.block_numbers((1, 2, 6, 3), 0.25), [])
  rates = [row['stochdepth_rate'] for row in rows]
  assert rates[0] == 0
  np.testing.assert_allclose(np.diff(rates), 0.25 / 12)


@pytest.mark.parametrize('rest', ['', '/~/conv0', '/~/conv0/w'])
def test_a_stacks_path_stands_for_its_blocks(rest):
  path = f'Net/stack_9_11/nf_block{rest}'
  assert network.is_stacked(path)
  assert network.members(path) == [
    f'Net/~/nf_block_{i}{rest}' for i in (9, 10, 11)
  ]


@pytest.mark.parametrize(
  'path', ['Net/~/nf_block_9/~/conv0', 'Net/stack_9', '']
)
def test_other_paths_stand_for_themselves(path):
  assert not network.is_stacked(path)
  assert network.members(path) == [path]


def made(name, dtype=jnp.float32, **how):
  """A network's loss of its parameters, these, and its state."""
  net = models.create(name, 10, **{**FAMILIES[name], **how})
  batch = jnp.asarray(IMAGES, dtype)
  shapes, state = jax.eval_shape(
    lambda: net.init(jax.random.key(0), batch, True)
  )
  state = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), state)

  def loss(params, key=None):
    key = jax.random.key(1) if key is None else key
    out, new = net.apply(params, state, key, batch, True)
    return jnp.sum(out['logits'] ** 2), (out['logits'], new)

  return loss, fill(shapes)


@functools.cache
def gradients(name, **how):
  """Logits, new state and gradients at the public paths, with draws."""
  rates = {'drop_rate': 0.2, 'stochdepth_rate': 0.4}
  loss, params = made(name, **rates, **how)
  if how.get('scan'):  # the parameters of the unrolled network
    params = weights.stack_like(made(name)[1], params)
    assert any(map(network.is_stacked, params))
  (_, (logits, state)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    params
  )
  return logits, weights.unstack(state), weights.unstack(grads)


# Sums run in another order: 5e-6 of a leaf's largest entry was seen.
# A wrong key or expected std changes it by more than 1e-3.
def assert_equal(found, plain, tolerance=1e-5):
  largest = np.abs(plain[0]).max()
  for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(plain)):
    atol = tolerance * (np.abs(want).max() + 1e-3 * largest)
    np.testing.assert_allclose(got, want, rtol=0, atol=atol)
  assert jax.tree.structure(plain) == jax.tree.structure(found)


@pytest.mark.parametrize(
  'name',
  [n if 'cifar' in n else pytest.param(n, marks=pytest.mark.slow)
   for n in FAMILIES],
)  # fmt: skip
def test_a_loop_over_equal_blocks_is_the_unrolled_network(name):
  assert_equal(gradients(name, scan=True), gradients(name))


@pytest.mark.slow
def test_recomputing_blocks_and_bfloat16_change_no_gradient():
  # A recomputed ReLU's input may round to the other side of 0.
  of = functools.partial(gradients, 'cifar_resnet_20', activation='silu')
  assert_equal(of(remat=True), of())
  assert_equal(of(remat=True, scan=True), of())
  low = functools.partial(gradients, 'cifar_resnet_20', dtype=jnp.bfloat16)
  assert_equal(low(scan=True), low(), 0.02)


def test_pixels_that_are_not_normalized_are_refused():
  net = models.create('cifar_resnet_20', 10)
  pixels = jax.ShapeDtypeStruct((2, 32, 32, 3), np.uint8)
  with pytest.raises(TypeError, match='images are uint8, must be floats'):
    jax.eval_shape(functools.partial(net.init, is_training=True), None, pixels)


def test_a_loop_runs_parameters_at_the_public_paths_too():
  loss, params = made('cifar_resnet_20')
  scanned, _ = made('cifar_resnet_20', scan=True)
  np.testing.assert_allclose(scanned(params)[0], loss(params)[0], rtol=1e-5)


@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_is_differentiable_both_ways(name):
  loss, params = made(name, drop_rate=0.2, stochdepth_rate=0.4)
  scalar = lambda params: loss(params)[0]

  def perturbed(params):  # as sharpness-aware minimization evaluates it
    grads = jax.grad(scalar)(params)
    return jax.grad(scalar)(jax.tree.map(jnp.add, params, grads))

  _, slope = jax.eval_shape(
    lambda params: jax.jvp(perturbed, (params,), (params,)), params
  )
  assert jax.tree.leaves(slope)
  jax.eval_shape(jax.jacfwd(lambda t: scalar(_times(t, params))), 1.0)


def test_a_hessian_vector_product_is_a_central_difference_of_gradients():
  with jax.enable_x64(True):
    loss, params = made(
      'cifar_resnet_20', jnp.float64, activation='gelu', depths=(1, 1, 1)
    )
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    grad = jax.jit(jax.grad(lambda params: loss(params)[0]))
    random = np.random.RandomState(0)
    vector = jax.tree.map(lambda x: random.standard_normal(x.shape), params)
    _, product = jax.jvp(grad, (params,), (vector,))
    step = 1e-5
    moved = lambda by: jax.tree.map(lambda x, v: x + by * v, params, vector)
    ahead, behind = grad(moved(step)), grad(moved(-step))
    flat = lambda tree: np.concatenate(
      [np.ravel(x) for x in jax.tree.leaves(tree)]
    )
    want = (flat(ahead) - flat(behind)) / (2 * step)
    error = np.linalg.norm(flat(product) - want) / np.linalg.norm(want)
  assert error < 1e-3


def _times(factor, tree):
  return jax.tree.map(lambda x: factor * x, tree)
