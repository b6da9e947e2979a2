"""FixUp ResNets (Zhang et al., arXiv 1901.09321), paper B's comparison."""

import functools
import math
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, stages


class FixUpResNet(hk.Module):
  """Post-activation ResNet held together by its initialization.

  Scalar biases around every convolution, one scale per block, and branches that
  start at zero because their last convolution does.

  Args:
    num_classes: K.
    variant: a row of `variants.FIXUP_RESNET`.
    activation: name in `activations.GAMMAS`, unscaled.
    drop_rate: dropout on the pooled features; None for the variant's, 0.
    stochdepth_rate: rate that the last block approaches; None for 0.1.
    remat: recompute each block in the backward pass.
    scan: compile equal blocks once, see `stages.run`.
    features: return each stage's output too.
  """

  def __init__(
    self,
    num_classes: int,
    variant: Mapping,
    *,
    activation: str = 'relu',
    drop_rate: float | None = None,
    stochdepth_rate: float | None = None,
    remat: bool = False,
    scan: bool = False,
    features: bool = False,
    name: str = 'FixUp_ResNet',
  ) -> None:
    super().__init__(name)
    self.activation = activations.get(activation, scaled=False)
    self.drop_rate = variant['drop_rate'] if drop_rate is None else drop_rate
    self.remat = remat
    self.scan = scan
    self.features = features
    self.initial_conv = layers.Conv2D(
      64, 7, 2, w_init=layers.truncated_fan_in, name='initial_conv'
    )
    depths = variant['depths']
    block = functools.partial(
      FixUpBlock, num_blocks=sum(depths), activation=self.activation
    )
    self.blocks = stages.build(
      block, depths, variant['widths'], 64, strides=(1, 2, 2, 2)
    )
    if stochdepth_rate is None:
      stochdepth_rate = variant['stochdepth_rate']
    self.numbers = stages.numbers(depths, stochdepth_rate)
    self.linear = layers.Linear(num_classes, jnp.zeros, name='linear')

  def __call__(
    self, images: jax.Array, is_training: bool
  ) -> dict[str, jax.Array]:
    """Classifies images `[N, H, W, 3]`, see `nf_resnet.NFResNet`.

    A stage's output among the features is activated here.
    """
    key = hk.maybe_next_rng_key()
    x = self.initial_conv(images)
    x = stages.max_pool(self.activation(x + _scalar('bias1', x)))
    x, outputs = stages.run(
      self.blocks, self.numbers, x, key, is_training, self.remat, self.scan
    )
    key = stages.fold_in(key, sum(map(len, self.blocks)))
    bias2 = _scalar('bias2', x)
    head = lambda pool: self.linear(pool + bias2)
    result = stages.classify(x, head, self.drop_rate, key, is_training)
    if self.features:
      result['features'] = stages.with_strides(outputs, first=4)
    return result


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
