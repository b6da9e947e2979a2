"""The policy: which operation, how often, on whom, in both formulations."""

import jax
import jax.numpy as jnp
import numpy as np
import photographs
import pytest
from scipy import stats

from nfnets.data import image_ops, randaugment

BOTH = ('switch', 'stratified')


def operations(formulation, n, layers, keys, seed=0):
  """[keys, layers, n] drawn operations."""
  draw = jax.jit(
    jax.vmap(lambda k: randaugment.draw(k, n, layers, formulation).operation)
  )
  return np.asarray(draw(jax.random.split(jax.random.key(seed), keys)))


@pytest.mark.parametrize('formulation', BOTH)
@pytest.mark.parametrize('n', [19, 32])
def test_every_image_draws_every_operation_equally_often(formulation, n):
  drawn = operations(formulation, n, 2, 3000)
  for image in (0, n // 2, n - 1):
    for layer in range(2):
      counts = np.bincount(drawn[:, layer, image], minlength=16)
      assert len(counts) == 16
      assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize('formulation', BOTH)
def test_layers_of_an_image_are_independent(formulation):
  drawn = operations(formulation, 20, 2, 6000)
  pairs = drawn[:, 0, 3] * 16 + drawn[:, 1, 3]
  counts = np.bincount(pairs, minlength=256)
  assert stats.chisquare(counts).pvalue > 1e-4


def test_switch_draws_images_independently_and_stratified_evens_counts_out():
  free = operations('switch', 32, 1, 2000)[:, 0]
  even = operations('stratified', 32, 1, 50)[:, 0]
  both_first = ((free[:, 0] == 0) & (free[:, 1] == 0)).mean()
  assert abs(both_first - 1 / 256) < 4 * np.sqrt(1 / 256 / 2000)
  counts = np.stack([np.bincount(row, minlength=16) for row in even])
  np.testing.assert_array_equal(counts, 2)
  uneven = operations('stratified', 19, 1, 50)[:, 0]
  counts = np.stack([np.bincount(row, minlength=16) for row in uneven])
  assert counts.max() == 2 and counts.min() == 0


@pytest.mark.parametrize('formulation', BOTH)
def test_signs_and_cutout_centres_are_fair(formulation):
  draws = randaugment.draw(jax.random.key(0), 500, 4, formulation)
  sign = np.asarray(draws.draw.sign)
  assert set(np.unique(sign)) == {-1, 1}
  assert abs(sign.mean()) < 4 / np.sqrt(sign.size)
  centre = np.asarray(draws.draw.centre).ravel()
  assert stats.kstest(centre, 'uniform').pvalue > 1e-4


def test_formulations_agree_on_equal_draws():
  n = 19
  images = photographs.batch(n, 27, 31)
  draws = randaugment.draw(jax.random.key(4), n, 3, 'stratified')
  apply = jax.jit(randaugment.apply, static_argnums=2)
  stratified = apply(draws, images, 15)
  switch = apply(draws._replace(slot=None), images, 15)
  np.testing.assert_array_equal(stratified, switch)
  assert (np.asarray(switch) != images).any()


def test_layers_apply_in_order_and_always():
  images = photographs.batch(3, 27, 31)
  names = list(image_ops.OPERATIONS)
  chosen = ['invert', 'posterize', 'solarize_add']
  operation = jnp.asarray([[names.index(c)] * 3 for c in chosen])
  draws = randaugment.draw(jax.random.key(0), 3, 3, 'switch')
  result = randaugment.apply(draws._replace(operation=operation), images, 5)
  two_bits = (255 - images) & 0b11000000
  expected = np.where(two_bits < 128, two_bits + 55, two_bits)
  np.testing.assert_array_equal(result, expected)


def test_result_is_a_function_of_the_key():
  images = photographs.batch(3, 16, 15)
  run = jax.jit(lambda key: randaugment.rand_augment(key, images, 2, 10))
  first = run(jax.random.key(1))
  assert first.dtype == jnp.uint8 and first.shape == images.shape
  np.testing.assert_array_equal(first, run(jax.random.key(1)))
  assert (np.asarray(first) != np.asarray(run(jax.random.key(2)))).any()


def equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      for inner in value if isinstance(value, tuple) else (value,):
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from equations(inner)


def trace(formulation, n):
  images = jnp.zeros((n, 24, 24, 3), jnp.uint8)
  return list(
    equations(
      jax.make_jaxpr(
        lambda key: randaugment.rand_augment(
          key, images, 4, 10, formulation=formulation
        )
      )(jax.random.key(0)).jaxpr
    )
  )


def test_switch_is_a_true_branch_that_sees_one_image():
  (branch,) = [e for e in trace('switch', 8) if e.primitive.name == 'cond']
  assert len(branch.params['branches']) == 16
  assert branch.outvars[0].aval.shape == (24, 24)


def test_stratified_runs_each_operation_on_a_sixteenth_without_branches():
  n = 64
  found = trace('stratified', n)
  assert not [e for e in found if e.primitive.name == 'cond']
  whole = [
    e.primitive.name
    for e in found
    if any(v.aval.shape == (n, 24, 24) for v in e.outvars)
    and e.primitive.name not in ('jit', 'scan', 'pjit')
  ]
  # Packing, unpacking, and in a layer only the shuffle and the gathering in.
  assert whole.count('concatenate') == 1
  in_layer = [name for name in whole if name in ('gather', 'concatenate')]
  assert len(in_layer) <= 3
  sixteenth = [
    e for e in found if any(v.aval.shape == (4, 24, 24) for v in e.outvars)
  ]
  assert len(sixteenth) > 16 * 4


@pytest.mark.parametrize(
  ('platform', 'n', 'like'),
  [('cpu', 16, 'switch'), ('tpu', 16, 'stratified'), ('tpu', 15, 'switch')],
)
def test_auto_chooses_by_size_and_the_platform_lowered_for(platform, n, like):
  key = jax.random.key(0)
  images = jax.ShapeDtypeStruct((n, 8, 8, 3), jnp.uint8)

  def text(formulation):
    run = jax.jit(
      lambda key, images: randaugment.rand_augment(
        key, images, 1, 5, formulation=formulation
      )
    )
    return (
      run.trace(key, images).lower(lowering_platforms=(platform,)).as_text()
    )

  # Stratified batches are shuffled by sorting; the switch's images are mapped.
  for word in ('stablehlo.sort', 'stablehlo.while'):
    assert text('auto').count(word) == text(like).count(word)
  assert ('stablehlo.sort' in text('auto')) == (like == 'stratified')


def test_bad_arguments_are_named():
  images = np.zeros((2, 8, 8, 3), np.uint8)
  key = jax.random.key(0)
  with pytest.raises(ValueError, match="formulation is 'vmap'"):
    randaugment.rand_augment(key, images, 1, 5, formulation='vmap')
  with pytest.raises(ValueError, match='takes \\[N, H, W, 3\\]'):
    randaugment.rand_augment(key, images[..., :1], 1, 5)
  with pytest.raises(ValueError, match='magnitude is -2'):
    randaugment.rand_augment(key, images, 1, -2)
