"""SkipInit ResNets (De & Smith, arXiv 2002.10444), paper B's comparison."""

import dataclasses
import functools

import jax.numpy as jnp

from nfnets.models import layers, network
from nfnets.models.nf_block import NFBlock, bottleneck


@dataclasses.dataclass(eq=False)
class SkipInitResNet(network.Network):
  """Pre-activation ResNet that only a skip gain of zero keeps stable.

  It has plain convolutions with biases, plain activations and a scalar gain per
  block, without weight standardization, gamma, alpha or expected std.

  Args:
    activation: name in `activations.GAMMAS`, unscaled.
    skipinit_gain: initial `skip_gain`, a number or an initializer.
  """

  _: dataclasses.KW_ONLY
  activation: str = 'relu'
  skipinit_gain: float | layers.Initializer = 0.0
  name: str = 'SkipInit_ResNet'

  def design(self) -> network.Design:
    parts = layers.parts('none', self.activation, known=('none',))
    stem_conv = functools.partial(layers.Conv2D, w_init=layers.truncated_fan_in)
    block = functools.partial(
      NFBlock,
      branch_convs=bottleneck,
      parts=parts,
      skipinit_gain=self.skipinit_gain,
      pools_shortcut=False,
      name='nf_res_block',
    )
    return network.Design(
      parts=dataclasses.replace(parts, conv=stem_conv),
      stem={'initial_conv': (64, 7, 2)},
      pooling='same',
      stem_features=False,
      block=block,
      head_init=jnp.zeros,
    )
