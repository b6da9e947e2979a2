"""Adaptive gradient clipping: the equation, the units, and the edges."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets.optim import agc


def noise(seed, shape, scale=1.0):
  draws = np.random.RandomState(seed).standard_normal(shape)
  return (scale * draws).astype(np.float32)


def clip(grad, param, clipping=0.01, name='w', **kwargs):
  clipper = agc.adaptive_grad_clip(clipping, **kwargs)
  params = {'net': {name: param}}
  opt_state = clipper.init(params)
  updates, _ = clipper.update({'net': {name: grad}}, opt_state, params)
  return updates['net'][name]


def test_every_output_of_a_convolution_is_clipped_by_its_own_norm():
  # Half the units lie within their bound, half beyond it.
  param = noise(0, (3, 3, 4, 6))
  grad = noise(1, (3, 3, 4, 6)) * np.array([1e-3] * 3 + [1.0] * 3, np.float32)
  got = np.asarray(clip(grad, param))
  for o in range(6):
    unit = grad[..., o].astype(np.float64)
    limit = 0.01 * np.linalg.norm(param[..., o])
    oracle = unit * min(1, limit / np.linalg.norm(unit))
    np.testing.assert_allclose(got[..., o], oracle, rtol=1e-5)
  np.testing.assert_array_equal(got[..., :3], grad[..., :3])


def test_zero_initialized_parameters_move_by_the_floor():
  for shape in ((), (4,), (3, 4)):
    moved = agc.unitwise_norm(
      clip(np.ones(shape, np.float32), jnp.zeros(shape))
    )
    np.testing.assert_allclose(moved, 0.01 * 1e-3, rtol=1e-5)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_non_finite_gradient_stays_visible_and_within_its_unit(bad):
  grad = noise(1, (6, 3))
  grad[2, 1] = bad
  clipped = clip(grad, noise(0, (6, 3)))
  assert not np.isfinite(clipped[2, 1])
  assert np.isfinite(clipped[:, [0, 2]]).all()


def test_bfloat16_gradients_keep_their_type_and_float32_norms():
  grad = jnp.full((4096, 2), 1.0, jnp.bfloat16)
  # 4096 ones: a sum in bfloat16 would stop at 256.
  np.testing.assert_allclose(agc.unitwise_norm(grad), [[64.0, 64.0]])
  assert clip(grad, noise(0, (4096, 2))).dtype == jnp.bfloat16


def test_an_unknown_rank_is_an_error_that_names_the_parameter():
  shape = (2, 3, 3, 3, 4, 8)
  with pytest.raises(ValueError, match='net/conv4d.*axes'):
    clip(jnp.ones(shape), jnp.ones(shape), name='conv4d')


@pytest.mark.parametrize(
  'shape', [(), (7,), (5, 7), (2, 5, 7), (3, 3, 5, 7), (2, 3, 3, 4, 8)]
)
def test_it_clips_as_optax_does(shape):
  """Which divides by at least 1e-6: nothing here is so small."""
  param, grad = jnp.array(noise(0, shape)), jnp.array(noise(1, shape))
  theirs = optax.adaptive_grad_clip(0.01)
  expected, _ = theirs.update(grad, theirs.init(param), param)
  np.testing.assert_allclose(clip(grad, param), expected, rtol=1e-5)


def test_complex_parameters_are_clipped_by_their_modulus():
  param, grad = noise(0, (5, 4)), noise(1, (5, 4))
  turned = clip(1j * grad, 1j * param)
  np.testing.assert_allclose(turned, 1j * clip(grad, param), rtol=1e-5)


def test_given_axes_make_units_of_a_new_kind_of_layer():
  param, grad = noise(0, (3, 2, 3, 3, 4, 8)), noise(1, (3, 2, 3, 3, 4, 8))
  got = clip(grad, param, name='conv4d', axes={'conv4d$': (0, 1, 2, 3, 4)})
  flat = clip(grad.reshape(-1, 8), param.reshape(-1, 8))
  np.testing.assert_allclose(got, flat.reshape(got.shape), rtol=1e-5)


def test_patterns_leave_parameters_alone_and_typing_errors_are_caught():
  grad, param = noise(1, (5, 4), 100), noise(0, (5, 4))
  np.testing.assert_array_equal(clip(grad, param, unclipped='net/w'), grad)
  with pytest.raises(ValueError, match='stemm'):
    clip(grad, param, unclipped=('stemm',))
  with pytest.raises(ValueError, match='attention'):
    clip(grad, param, axes={'attention': (0,)})
  with pytest.raises(ValueError, match='an empty pattern'):
    clip(grad, param, unclipped='')
  np.testing.assert_array_equal(
    clip(grad, param, unclipped=()), clip(grad, param)
  )


@pytest.mark.parametrize('kwargs', [{'clipping': 0.0}, {'eps': -1.0}])
def test_impossible_thresholds_are_refused(kwargs):
  with pytest.raises(ValueError, match='must be above 0'):
    agc.adaptive_grad_clip(**{'clipping': 0.01, **kwargs})


def test_the_global_norm_is_that_of_optax_whatever_the_ranks():
  shapes = (), (5,), (3, 4), (2, 2, 3, 4), (2, 3, 2, 3, 2, 2)
  tree = {
    'net': {f'w{i}': noise(i, shape) for i, shape in enumerate(shapes)},
    'net/stack_1_2/block': {
      'w': noise(9, (2, 3, 3, 4, 5)).astype(jnp.bfloat16)
    },
  }
  want = optax.tree.norm(jax.tree.map(lambda x: x.astype(np.float32), tree))
  assert float(agc.global_norm(tree)) == pytest.approx(float(want), rel=1e-6)
  assert agc.global_norm(tree).dtype == jnp.float32
  tree['net']['w1'][2] = np.nan
  assert np.isnan(agc.global_norm(tree))


def test_the_example_prints_a_falling_loss(run_script):
  done = run_script('examples.agc_any_optimizer', process=True)
  assert done.code == 0, done.stderr
  losses = [float(x) for x in re.findall(r'loss (\d+\.\d+)', done.stdout)]
  assert len(losses) == 6 and losses == sorted(losses, reverse=True)
  assert losses[-1] < losses[0] / 4
