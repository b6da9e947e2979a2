"""SkipInit ResNets (De & Smith, arXiv 2002.10444), paper B's comparison."""

import dataclasses
import functools
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, network
from nfnets.models.nf_block import NFBlock, bottleneck


@dataclasses.dataclass(eq=False)
class SkipInitResNet(hk.Module):
  """Pre-activation ResNet that only a skip gain of zero keeps stable.

  It has plain convolutions with biases, plain activations and a scalar gain per
  block, without weight standardization, gamma, alpha or expected std.

  Args:
    num_classes: K.
    variant: a row of `variants.SKIPINIT_RESNET`.
    activation: name in `activations.GAMMAS`, unscaled.
    skipinit_gain: initial `skip_gain`, a number or an initializer.
  """

  num_classes: int
  variant: Mapping
  _: dataclasses.KW_ONLY
  activation: str = 'relu'
  skipinit_gain: float | layers.Initializer = 0.0
  name: str = 'SkipInit_ResNet'

  def __post_init__(self) -> None:
    super().__post_init__()
    conv = functools.partial(layers.Conv2D, w_init=layers.truncated_fan_in)
    parts = layers.Parts(
      True,
      activations.get(self.activation, scaled=False),
      functools.partial(conv, with_bias=True),
    )
    block = functools.partial(
      NFBlock,
      branch_convs=bottleneck,
      parts=parts,
      skipinit_gain=self.skipinit_gain,
      pools_shortcut=False,
      name='nf_res_block',
    )
    self.initial_conv = conv(64, 7, 2, name='initial_conv')
    self.stages = network.Stages(
      block, self.variant, 64, strides=(1, 2, 2, 2), stem_stride=4
    )
    self.final_activation = parts.activate('final_bn')
    self.linear = layers.Linear(self.num_classes, jnp.zeros, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images `[N, H, W, 3]`, see `nfnet.NFNet`."""
    key = hk.maybe_next_rng_key()
    x = network.max_pool(self.initial_conv(images))
    x, features = self.stages(x, key, is_training)
    x = self.final_activation(x, is_training)
    return network.classify(self, x, key, is_training, features)
