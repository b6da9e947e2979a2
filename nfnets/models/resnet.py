"""Batch-normalized pre-activation ResNets, the NF-ResNets' twins."""

import dataclasses
import functools
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, network
from nfnets.models.nf_resnet import res_block

ORDERS = ('bn_act', 'act_bn')


@dataclasses.dataclass(eq=False)
class ResNet(hk.Module):
  """ResNet-V2 (He et al., arXiv 1603.05027), the form of paper B's Table 1.

  Args:
    num_classes: K.
    variant: a row of `variants.RESNET`.
    activation: name in `activations.GAMMAS`, unscaled.
    use_se: squeeze-excite after a block's last convolution.
    se_ratio: squeeze-excite's hidden share of a block's output channels.
    order: 'bn_act', as trained, or 'act_bn', the order in which paper B's
      Figure 1 shows the signal that NF-ResNets copy.
    conv_init: 'truncated', N(0, 1 / fan_in) cut at two deviations and not
      corrected, as released; 'he' N(0, 2 / fan_in); 'lecun' N(0, 1 / fan_in).
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
    layers.choose('order', self.order, ORDERS)
    plain = activations.get(self.activation, scaled=False)
    w_init = layers.conv_init(self.conv_init)
    conv = functools.partial(layers.Conv2D, w_init=w_init)
    activate = functools.partial(
      layers.batch_norm_activation,
      plain,
      self.cross_replica_axis,
      order=self.order,
    )
    block = functools.partial(
      res_block,
      parts=layers.Parts(False, plain, conv, activate),
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
    self.final_activation = activate('final_bn')
    self.linear = layers.Linear(self.num_classes, jnp.zeros, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images `[N, H, W, 3]`, see `nf_resnet.NFResNet`."""
    key = hk.maybe_next_rng_key()
    x = network.max_pool(self.initial_conv(images))
    x, features = self.stages(x, key, is_training)
    x = self.final_activation(x, is_training)
    return network.classify(self, x, key, is_training, features)
