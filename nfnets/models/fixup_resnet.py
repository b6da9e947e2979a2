"""FixUp ResNets (Zhang et al., arXiv 1901.09321), paper B's comparison."""

import functools
import math
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, network


class FixUpResNet(hk.Module):
  """Post-activation ResNet held together by its initialization.

  Scalar biases around every convolution, one scale per block, and branches that
  start at zero because their last convolution does.

  Args:
    num_classes: K.
    variant: a row of `variants.FIXUP_RESNET`.
    activation: name in `activations.GAMMAS`, unscaled.
  """

  def __init__(
    self,
    num_classes: int,
    variant: Mapping,
    *,
    activation: str = 'relu',
    name: str = 'FixUp_ResNet',
  ) -> None:
    super().__init__(name)
    self.activation = activations.get(activation, scaled=False)
    self.initial_conv = layers.Conv2D(
      64, 7, 2, w_init=layers.truncated_fan_in, name='initial_conv'
    )
    block = functools.partial(
      FixUpBlock, num_blocks=sum(variant['depths']), activation=self.activation
    )
    self.variant = variant
    self.stages = network.Stages(
      block, variant, 64, strides=(1, 2, 2, 2), stem_stride=4
    )
    self.linear = layers.Linear(num_classes, jnp.zeros, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images `[N, H, W, 3]`, see `nf_resnet.NFResNet`.

    A stage's output among the features is activated here.
    """
    key = hk.maybe_next_rng_key()
    x = self.initial_conv(images)
    x = network.max_pool(self.activation(x + _scalar('bias1', x)))
    x, features = self.stages(x, key, is_training)
    bias2 = _scalar('bias2', x)
    head = lambda pool: self.linear(pool + bias2)
    return network.classify(x, head, self.variant, key, is_training, features)


class FixUpBlock(hk.Module):
  """activation(shortcut(x + bias1a) + scale f(x) + bias3b)."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    num_blocks: int,
    activation: activations.Activation,
    name: str = 'res_block',
  ) -> None:
    super().__init__(name)
    self.activation = activation
    mid = out_channels // 4
    # L^(-1 / (2m - 2)) with m = 3 layers in a branch (FixUp, section 3).
    depth_scale = num_blocks**-0.25
    conv = lambda channels, kernel, stride, std, name: layers.Conv2D(
      channels,
      kernel,
      stride,
      w_init=hk.initializers.RandomNormal(std),
      name=name,
    )
    std = math.sqrt(2 / mid) * depth_scale
    self.conv0 = conv(mid, 1, 1, std, 'conv0')
    self.conv1 = conv(mid, 3, stride, std / 3, 'conv1')
    self.conv2 = conv(out_channels, 1, 1, 0.0, 'conv2')
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      std = math.sqrt(2 / out_channels)
      self.conv_shortcut = conv(out_channels, 1, stride, std, 'conv_shortcut')
    self.stoch_depth = layers.StochDepth()

  def __call__(
    self,
    x: jax.Array,
    is_training: bool,
    key: jax.Array | None,
    stochdepth_rate: float,
  ) -> jax.Array:
    """`[N, H, W, C]` to `[N, H / stride, W / stride, O]`."""
    x = x + _scalar('bias1a', x)
    shortcut = self.conv_shortcut(x) if self.conv_shortcut else x
    scale = _scalar('scale', x, init=jnp.ones)
    bias1b, bias2a, bias2b, bias3a, bias3b = (
      _scalar(name, x)
      for name in ('bias1b', 'bias2a', 'bias2b', 'bias3a', 'bias3b')
    )
    out = self.activation(self.conv0(x) + bias1b)
    out = self.activation(self.conv1(out + bias2a) + bias2b)
    out = self.branch(self.conv2(out + bias3a) * scale + bias3b)
    out = self.stoch_depth(out, stochdepth_rate, key, is_training)
    return self.activation(out + shortcut)

  def branch(self, x: jax.Array) -> jax.Array:
    """The residual branch, named so that `analysis` can look at it."""
    return x


def _scalar(
  name: str, x: jax.Array, init: layers.Initializer = jnp.zeros
) -> jax.Array:
  return hk.get_parameter(name, (), init=init).astype(x.dtype)
