"""Batch-normalized pre-activation ResNets, the twins of NF-ResNets."""

import dataclasses
import functools
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, network
from nfnets.models.nf_block import NFBlock, bottleneck


@dataclasses.dataclass(eq=False)
class ResNet(hk.Module):
  """ResNet-V2 (He et al., arXiv 1603.05027), as in paper B's Table 1.

  Args:
    num_classes: K.
    variant: a row of `variants.RESNET`.
    activation: name in `activations.GAMMAS`, unscaled.
    use_se: use squeeze-excite after a block's last convolution.
    se_ratio: hidden units of squeeze-excite as a share of a block's output.
    order: 'bn_act', as trained, or 'act_bn', the order whose signal propagation
      paper B shows in Figure 1 and NF-ResNets copy.
    conv_init: 'truncated', as released, 'he' or 'lecun'; see
      `layers.conv_init`.
    cross_replica_axis: see `layers.BatchNorm`.
  """

  num_classes: int
  variant: Mapping
  _: dataclasses.KW_ONLY
  activation: str = 'relu'
  use_se: bool = False
  se_ratio: float = 0.25
  order: str = 'bn_act'
  conv_init: str = 'truncated'
  cross_replica_axis: str | None = None
  name: str = 'ResNet'

  def __post_init__(self) -> None:
    super().__post_init__()
    layers.check_choice('order', self.order, ('bn_act', 'act_bn'))
    plain = activations.get(self.activation, scaled=False)
    w_init = layers.conv_init(self.conv_init)
    conv = functools.partial(layers.Conv2D, w_init=w_init)
    norm = functools.partial(layers.BatchNorm, self.cross_replica_axis)
    parts = layers.Parts(False, plain, conv, norm, self.order)
    block = functools.partial(
      NFBlock,
      branch_convs=bottleneck,
      parts=parts,
      attention=layers.attention(
        'se' if self.use_se else 'none', self.se_ratio, 'relu', plain
      ),
      pools_shortcut=False,
      name='res_block_v2',
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
