"""Expected stds, stochastic depth's ramp, keys of their own, loops."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import models, stacks
from nfnets.bench import programs
from nfnets.models import stages

# PAPER_FACTS 1.1, of F0 and of ResNet-50.
F0 = [1, 1.0198, 1.0198, 1.0392, 1.0198, 1.0392, 1.0583, 1.0770, 1.0954]
F0 += [1.1136, 1.0198, 1.0392]
RESNET_50 = [1, 1.0198, 1.0392, 1.0583, 1.0198, 1.0392, 1.0583, 1.0770, 1.0198]
RESNET_50 += [1.0392, 1.0583, 1.0770, 1.0954, 1.1136, 1.0198, 1.0392]


@pytest.mark.parametrize(
  'depths, want', [((1, 2, 6, 3), F0), ((3, 4, 6, 3), RESNET_50)]
)
def test_expected_stds_are_the_published_ones(depths, want):
  got = sum(stages.expected_stds(depths, 0.2), [])
  np.testing.assert_allclose(got, want, atol=5e-5)


def test_the_last_block_drops_at_the_rate_short_of_one_step():
  rows = sum(stages.numbers((1, 2, 6, 3), 0.25), [])
  rates = [row['stochdepth_rate'] for row in rows]
  assert rates[0] == 0
  assert rates[-1] == pytest.approx(0.25 * 11 / 12)
  np.testing.assert_allclose(np.diff(rates), 0.25 / 12)


class Draws(hk.Module):
  """Adds what its key gives; keeps a parameter."""

  def __call__(self, x, is_training, key, stochdepth_rate):
    w = hk.get_parameter('w', (), init=jnp.ones)
    return x * w + jax.random.uniform(key) * 10**stochdepth_rate


def draw(remat, key, extra=0):
  def forward():
    for _ in range(extra):
      hk.next_rng_key()
    blocks = stages.build(lambda *_: Draws(), (1, 2), (4, 8), 3, (1, 2))
    numbers = stages.numbers((1, 2), 0.0)
    return stages.run(blocks, numbers, jnp.zeros(()), key, True, remat)

  net = hk.transform(forward)
  params = net.init(jax.random.key(1))
  return params, net.apply(params, jax.random.key(1))


@pytest.mark.parametrize('remat', [False, True])
def test_a_block_draws_from_its_index_alone(remat):
  key = jax.random.key(7)
  want = sum(jax.random.uniform(jax.random.fold_in(key, i)) for i in range(3))
  for extra in (0, 2):
    _, (x, outputs) = draw(remat, key, extra)
    assert float(x) == pytest.approx(float(want))
    assert len(outputs) == 2


def test_remat_keeps_parameter_paths():
  plain, _ = draw(False, jax.random.key(7))
  remat, _ = draw(True, jax.random.key(7))
  assert sorted(plain) == sorted(remat) == ['draws', 'draws_1', 'draws_2']


def test_strides_double_from_stage_to_stage():
  assert list(stages.with_strides(['a', 'b', 'c'], first=4)) == [4, 8, 16]


IMAGES = np.random.RandomState(0).randn(2, 16, 16, 3).astype(np.float32)
SMALL = {'depths': (1, 3, 1, 1), 'widths': (16, 16, 16, 16)}
FAMILIES = [
  ('nfnet_f0', SMALL),
  ('nf_resnet_50', SMALL),
  ('nf_regnet_b0', {'depths': (1, 3, 1, 1)}),
  ('skipinit_resnet_50', SMALL),
  ('fixup_resnet_50', SMALL),
  ('cifar_resnet_20', {'normalizer': 'nf', 'depths': (4, 1, 1)}),
]


def loss_and_grads(name, overrides, dtype=jnp.float32, **how):
  """Training mode, everything random; also the text before compilation."""
  network = models.create(
    name, 10, drop_rate=0.2, stochdepth_rate=0.4, **overrides, **how
  )
  images = jnp.asarray(IMAGES, dtype)
  shapes, _ = jax.eval_shape(
    lambda key: network.init(key, images, True), jax.random.key(0)
  )

  def loss(params):
    key = jax.random.key(1)
    outputs, _ = network.apply(params, {}, key, images, True)
    return jnp.sum(outputs['logits'] ** 2), outputs['logits']

  lowered = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(shapes)
  (_, logits), grads = lowered.compile()(programs.filled(shapes))
  return logits, grads, lowered.as_text()


def convolutions_in(text):
  return text.count('stablehlo.convolution')


# Sums run in another order: 5e-6 of a leaf's largest entry was seen.
# A wrong key or expected std changes it by more than 1e-3.
def assert_scan_changes_nothing(name, overrides, tolerance=1e-5, **how):
  unrolled, grads, text = loss_and_grads(name, overrides, **how)
  scanned, scanned_grads, short = loss_and_grads(
    name, overrides, scan=True, **how
  )
  assert convolutions_in(short) < convolutions_in(text)
  for path in grads:  # the same paths, and the same numbers at each
    for leaf, want in grads[path].items():
      got = scanned_grads[path][leaf]
      scale = np.abs(want).max() + 1e-3 * np.abs(unrolled).max()
      np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)
  assert scanned_grads.keys() == grads.keys()
  atol = tolerance * np.abs(unrolled).max()
  np.testing.assert_allclose(scanned, unrolled, rtol=0, atol=atol)


def test_a_loop_over_equal_blocks_gives_the_unrolled_ones_outputs():
  assert_scan_changes_nothing(*FAMILIES[-1])


@pytest.mark.slow
def test_a_loop_recomputes_its_blocks_if_asked_to():
  assert_scan_changes_nothing(*FAMILIES[-1], remat=True)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'overrides'), FAMILIES[:-1])
def test_a_loop_over_equal_blocks_is_every_familys_own(name, overrides):
  assert_scan_changes_nothing(name, overrides)


@pytest.mark.slow
def test_a_loop_keeps_bfloat16():
  name, overrides = FAMILIES[-1]
  assert_scan_changes_nothing(name, overrides, 0.02, dtype=jnp.bfloat16)


def test_a_loop_keeps_parameters_and_their_paths():
  shapes = [
    jax.eval_shape(
      lambda key, scan=scan: models.create('nfnet_f0', 10, scan=scan).init(
        key, IMAGES, True
      ),
      jax.random.key(0),
    )
    for scan in (False, True)
  ]
  assert shapes[0] == shapes[1]


def test_blocks_with_state_are_not_looped_over():
  network = models.create('cifar_resnet_20', 10, scan=True)
  params, state = jax.eval_shape(
    lambda key: network.init(key, IMAGES, True), jax.random.key(0)
  )
  whole = stacks.stack((params, state), stacks.equal_blocks(params, (3, 3, 3)))
  for variables in ((params, state), whole):
    with pytest.raises(ValueError, match='scan=True .* take scan=False'):
      jax.eval_shape(
        lambda p, s: network.apply(p, s, None, IMAGES, True), *variables
      )


@pytest.mark.slow
def test_f6s_step_has_hardly_more_convolutions_than_f0s():
  def convolutions(name, scan):
    network = models.create(name, 10, scan=scan)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params, _ = jax.eval_shape(
      lambda key, images: network.init(key, images, True),
      jax.random.key(0),
      images,
    )

    def loss(params, images):
      outputs, _ = network.apply(params, {}, jax.random.key(1), images, True)
      return jnp.sum(outputs['logits'])

    text = jax.jit(jax.grad(loss)).lower(params, images).as_text()
    return convolutions_in(text)

  f0, f6 = convolutions('nfnet_f0', True), convolutions('nfnet_f6', True)
  assert f0 < convolutions('nfnet_f0', False)
  # F6 has 84 blocks and F0 12; a loop's body stands for 6 to 41 of them.
  assert f6 < 1.3 * f0
