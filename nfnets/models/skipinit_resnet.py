"""SkipInit ResNets (De & Smith, arXiv 2002.10444), paper B's comparison."""

import functools
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, network
from nfnets.models.nf_resnet import NFResBlock


class SkipInitResNet(hk.Module):
  """Pre-activation ResNet whose branches start at zero; nothing else helps.

  No weight standardization, gamma, alpha or expected std: plain convolutions
  with biases, a plain activation and a scalar gain per block.

  Args:
    num_classes: K.
    variant: a row of `variants.SKIPINIT_RESNET`.
    activation: name in `activations.GAMMAS`, unscaled.
    skipinit_gain: initial `skip_gain`, a number or an initializer.
  """

  def __init__(
    self,
    num_classes: int,
    variant: Mapping,
    *,
    activation: str = 'relu',
    skipinit_gain: float = 0.0,
    name: str = 'SkipInit_ResNet',
  ) -> None:
    super().__init__(name)
    self.activation = activations.get(activation, scaled=False)
    conv = functools.partial(
      layers.Conv2D, w_init=layers.truncated_fan_in, with_bias=True
    )
    parts = layers.Parts(True, self.activation, conv, layers.no_norm)
    self.initial_conv = layers.Conv2D(
      64, 7, 2, w_init=layers.truncated_fan_in, name='initial_conv'
    )
    block = functools.partial(
      NFResBlock, parts=parts, skipinit_gain=skipinit_gain
    )
    self.variant = variant
    self.stages = network.Stages(
      block, variant, 64, strides=(1, 2, 2, 2), stem_stride=4
    )
    self.linear = layers.Linear(num_classes, jnp.zeros, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images `[N, H, W, 3]`, see `nf_resnet.NFResNet`."""
    key = hk.maybe_next_rng_key()
    x = network.max_pool(self.initial_conv(images))
    x, features = self.stages(x, key, is_training)
    return network.classify(
      self.activation(x), self.linear, self.variant, key, is_training, features
    )
