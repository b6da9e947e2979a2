"""Batch-normalized pre-activation ResNets, the twins of NF-ResNets."""

import dataclasses
import functools

import jax.numpy as jnp

from nfnets.models import layers, network
from nfnets.models.nf_block import NFBlock, bottleneck


@dataclasses.dataclass(eq=False)
class ResNet(network.Network):
  """ResNet-V2 (He et al., arXiv 1603.05027), as in paper B's Table 1.

  Args:
    activation: name in `activations.GAMMAS`, unscaled.
    use_se: use squeeze-excite after a block's last convolution.
    se_ratio: hidden units of squeeze-excite as a share of a block's output.
    order: 'bn_act', as trained, or 'act_bn', the order whose signal propagation
      paper B shows in Figure 1 and NF-ResNets copy.
    conv_init: 'truncated', as released, 'he' or 'lecun'; see
      `layers.parts`.
    cross_replica_axis: see `layers.BatchNorm`.
  """

  _: dataclasses.KW_ONLY
  activation: str = 'relu'
  use_se: bool = False
  se_ratio: float = 0.25
  order: str = 'bn_act'
  conv_init: str = 'truncated'
  cross_replica_axis: str | None = None
  name: str = 'ResNet'

  def design(self) -> network.Design:
    parts = layers.parts(
      'batch',
      self.activation,
      cross_replica_axis=self.cross_replica_axis,
      conv_init=self.conv_init,
      order=self.order,
    )
    block = functools.partial(
      NFBlock,
      branch_convs=bottleneck,
      parts=parts,
      attention=layers.attention(
        'se' if self.use_se else 'none', self.se_ratio, 'relu', parts.activation
      ),
      pools_shortcut=False,
      name='res_block_v2',
    )
    return network.Design(
      parts=parts,
      stem={'initial_conv': (64, 7, 2)},
      pooling='same',
      stem_features=False,
      block=block,
      head_init=jnp.zeros,
    )
