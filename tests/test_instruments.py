"""What a run shows and records."""

import jax
import pytest
import tiny

from configs import nfnet_f0
from nfnets import instruments
from nfnets.analysis import counts


def test_a_step_costs_three_forward_passes_of_two_flops_a_multiply_add():
  config = nfnet_f0.get_config().copy_and_resolve_references()
  macs = counts.multiply_adds('nfnet_f0', 192)
  assert instruments.flops_per_step(config) == 6 * macs * config.batch_size
  sam = config.copy_and_resolve_references()
  sam.sam.rho, sam.sam.ascent_fraction = 0.05, 0.25
  flops = instruments.flops_per_step(sam)
  assert flops == 1.25 * instruments.flops_per_step(config)


def test_the_count_agrees_with_xlas_of_a_whole_gradient():
  config = tiny.config('batch', data__train_image_size=64)
  network, _, state = tiny.network_and_state(config)

  def loss(params, images):
    out, _ = network.apply(params, state.state, None, images, True)
    return out['logits'].sum()

  images = jax.ShapeDtypeStruct((config.batch_size, 64, 64, 3), 'float32')
  lowered = jax.jit(jax.grad(loss)).lower(state.params, images)
  xla = lowered.cost_analysis()['flops']
  # XLA leaves out the padding's products and the images' own gradient, and
  # counts normalization and activations too.
  assert instruments.flops_per_step(config) == pytest.approx(xla, rel=0.1)
