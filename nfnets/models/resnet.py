"""Batch-normalized pre-activation ResNets, the NF-ResNets' twins."""

import functools
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, network

ORDERS = ('bn_act', 'act_bn')


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

  def __init__(
    self,
    num_classes: int,
    variant: Mapping,
    *,
    activation: str = 'relu',
    use_se: bool = False,
    se_ratio: float = 0.25,
    order: str = 'bn_act',
    conv_init: str = 'truncated',
    cross_replica_axis: str | None = None,
    name: str = 'ResNet',
  ) -> None:
    super().__init__(name)
    if order not in ORDERS:
      raise ValueError(f'no order {order!r}: use {" or ".join(ORDERS)}.')
    conv = functools.partial(layers.Conv2D, w_init=layers.conv_init(conv_init))
    activate = functools.partial(
      NormAct,
      order=order,
      activation=activations.get(activation, scaled=False),
      cross_replica_axis=cross_replica_axis,
    )
    self.initial_conv = conv(64, 7, 2, name='initial_conv')
    block = functools.partial(
      ResBlockV2,
      conv=conv,
      activate=activate,
      se_ratio=se_ratio if use_se else None,
    )
    self.variant = variant
    self.stages = network.Stages(
      block, variant, 64, strides=(1, 2, 2, 2), stem_stride=4
    )
    self.final = activate('final_bn')
    self.linear = layers.Linear(num_classes, jnp.zeros, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images `[N, H, W, 3]`, see `nf_resnet.NFResNet`."""
    key = hk.maybe_next_rng_key()
    x = network.max_pool(self.initial_conv(images))
    x, features = self.stages(x, key, is_training)
    x = self.final(x, is_training)
    return network.classify(
      x, self.linear, self.variant, key, is_training, features
    )


class ResBlockV2(hk.Module):
  """shortcut + conv(act(bn(conv(act(bn(conv(act(bn(x)))))))))."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    conv: functools.partial,
    activate: functools.partial,
    se_ratio: float | None,
    name: str = 'res_block_v2',
  ) -> None:
    super().__init__(name)
    mid = out_channels // 4
    self.activate0 = activate('bn0')
    self.conv0 = conv(mid, 1, name='conv0')
    self.activate1 = activate('bn1')
    self.conv1 = conv(mid, 3, stride, name='conv1')
    self.activate2 = activate('bn2')
    self.conv2 = conv(out_channels, 1, name='conv2')
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      self.conv_shortcut = conv(out_channels, 1, stride, name='conv_shortcut')
    self.squeeze_excite = None
    if se_ratio is not None:
      self.squeeze_excite = layers.SqueezeExcite(out_channels, se_ratio)
    self.stoch_depth = layers.StochDepth()

  def __call__(
    self,
    x: jax.Array,
    is_training: bool,
    key: jax.Array | None,
    stochdepth_rate: float,
  ) -> jax.Array:
    """`[N, H, W, C]` to `[N, H / stride, W / stride, O]`."""
    act = self.activate0(x, is_training)
    shortcut = self.conv_shortcut(act) if self.conv_shortcut else x
    branch = self.branch(act, is_training)
    branch = self.stoch_depth(branch, stochdepth_rate, key, is_training)
    return shortcut + branch

  def branch(self, act: jax.Array, is_training: bool) -> jax.Array:
    """The residual branch before stochastic depth."""
    x = self.conv0(act)
    x = self.conv1(self.activate1(x, is_training))
    x = self.conv2(self.activate2(x, is_training))
    return x * self.squeeze_excite(x) if self.squeeze_excite else x


class NormAct:
  """Batch normalization and activation, in one order or the other."""

  def __init__(
    self,
    name: str,
    order: str,
    activation: activations.Activation,
    cross_replica_axis: str | None,
  ) -> None:
    self.norm = layers.BatchNorm(cross_replica_axis, name=name)
    self.order = order
    self.activation = activation

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """`[N, H, W, C]` to the same."""
    if self.order == 'act_bn':
      return self.norm(self.activation(x), is_training)
    return self.activation(self.norm(x, is_training))
