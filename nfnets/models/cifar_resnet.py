"""ResNets for 32-pixel images (He et al., arXiv 1512.03385, section 4.2)."""

import functools
from collections.abc import Callable, Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, network

NORMALIZERS = ('batch', 'none', 'nf')


class CIFARResNet(hk.Module):
  """6n + 2 layers: 3x3 stem, three stages of n two-convolution blocks, head.

  `normalizer` chooses one of three functions f of the same depth and widths:

  - 'batch': He's network, `y = relu(x' + bn(conv(relu(bn(conv(x))))))`, where
    x' is x, at a transition subsampled by 2 and zero-padded in channels
    (option A). 269,722 parameters for 20 layers and 10 classes.
  - 'none': the same with biases in the place of normalization, and He's
    initialization. 269,034 parameters. That it may diverge is a result.
  - 'nf': `y = x' + alpha g conv(act(conv(act(x) / s)))` with `WSConv2D`, ReLU
    scaled by gamma, s the expected std of x (paper B), and at a transition
    x' = conv1x1(act(x) / s), strided. 272,483 parameters.

  Args:
    num_classes: K.
    variant: a row of `variants.CIFAR_RESNET`.
    normalizer: 'batch', 'none' or 'nf'.
    activation: name in `activations.GAMMAS`; scaled in 'nf' alone.
    alpha: scale of every residual branch; 'nf' alone.
    skipinit_gain: initial `skip_gain`, a number or an initializer; 'nf' alone.
    ws_eps: see `layers.standardize`.
    cross_replica_axis: see `layers.BatchNorm`.
  """

  def __init__(
    self,
    num_classes: int,
    variant: Mapping,
    *,
    normalizer: str = 'batch',
    activation: str = 'relu',
    alpha: float = 0.2,
    skipinit_gain: float | Callable = 0.0,
    ws_eps: str = 'published',
    cross_replica_axis: str | None = None,
    name: str = 'CIFAR_ResNet',
  ) -> None:
    super().__init__(name)
    if normalizer not in NORMALIZERS:
      raise ValueError(
        f'no normalizer {normalizer!r}: use one of {", ".join(NORMALIZERS)}.'
      )
    self.is_nf = normalizer == 'nf'
    self.activation = activations.get(activation, scaled=False)
    if self.is_nf:
      parts = layers.parts('nf', activation, ws_eps)
      self.activation = parts.activation
      block = functools.partial(
        NFBasicBlock, parts=parts, alpha=alpha, skipinit_gain=skipinit_gain
      )
      self.stem = parts.conv(16, 3, name='initial_conv')
    else:
      conv = functools.partial(
        ConvNorm, normalizer=normalizer, cross_replica_axis=cross_replica_axis
      )
      block = functools.partial(
        BasicBlock, conv=conv, activation=self.activation
      )
      self.stem = conv(16, names=('initial_conv', 'initial_bn'))
    self.variant = variant
    self.stages = network.Stages(
      block,
      variant,
      16,
      strides=(1, 2, 2),
      stem_stride=1,
      alpha=alpha if self.is_nf else None,
    )
    init = hk.initializers.RandomNormal(0.01) if self.is_nf else None
    self.linear = layers.Linear(num_classes, init, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images `[N, H, W, 3]`, see `nfnet.NFNet`."""
    key = hk.maybe_next_rng_key()
    if self.is_nf:
      x = self.stem(images)
    else:
      x = self.activation(self.stem(images, is_training))
    x, features = self.stages(x, key, is_training)
    if self.is_nf:
      x = self.activation(x)
    return network.classify(
      x, self.linear, self.variant, key, is_training, features
    )


class NFBasicBlock(hk.Module):
  """shortcut + alpha g conv1(act(conv0(act(x) / expected_std))), paper B."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    parts: layers.Parts,
    alpha: float,
    skipinit_gain: float | Callable,
    name: str = 'nf_block',
  ) -> None:
    super().__init__(name)
    self.activation = parts.activation
    self.alpha = alpha
    self.skipinit_gain = skipinit_gain
    self.conv0 = parts.conv(out_channels, 3, stride, name='conv0')
    self.conv1 = parts.conv(out_channels, 3, name='conv1')
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      self.conv_shortcut = parts.conv(
        out_channels, 1, stride, name='conv_shortcut'
      )
    self.stoch_depth = layers.StochDepth()

  def __call__(
    self,
    x: jax.Array,
    is_training: bool,
    key: jax.Array | None,
    stochdepth_rate: float,
    expected_std: float = 1.0,
  ) -> jax.Array:
    """`[N, H, W, C]` to `[N, H / stride, W / stride, O]`."""
    act = self.activation(x) / expected_std
    shortcut = self.conv_shortcut(act) if self.conv_shortcut else x
    branch = self.branch(act)
    branch = self.stoch_depth(branch, stochdepth_rate, key, is_training)
    gain = layers.skip_gain(self.skipinit_gain)
    branch = branch * (gain * self.alpha).astype(branch.dtype)
    return shortcut + branch

  def branch(self, act: jax.Array) -> jax.Array:
    """The residual branch before stochastic depth, gain and alpha."""
    return self.conv1(self.activation(self.conv0(act)))


class BasicBlock(hk.Module):
  """relu(shortcut + conv(relu(conv(x)))), normalized or with biases."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    conv: Callable[..., hk.Module],
    activation: activations.Activation,
    name: str = 'block',
  ) -> None:
    super().__init__(name)
    self.activation = activation
    self.stride = stride
    self.padding = out_channels - in_channels
    self.conv0 = conv(out_channels, stride, names=('conv0', 'bn0'))
    self.conv1 = conv(out_channels, names=('conv1', 'bn1'))
    self.stoch_depth = layers.StochDepth()

  def __call__(
    self,
    x: jax.Array,
    is_training: bool,
    key: jax.Array | None,
    stochdepth_rate: float,
  ) -> jax.Array:
    """`[N, H, W, C]` to `[N, H / stride, W / stride, O]`."""
    branch = self.branch(x, is_training)
    branch = self.stoch_depth(branch, stochdepth_rate, key, is_training)
    return self.activation(self.shortcut(x) + branch)

  def branch(self, x: jax.Array, is_training: bool) -> jax.Array:
    """The residual branch before stochastic depth."""
    x = self.activation(self.conv0(x, is_training))
    return self.conv1(x, is_training)

  def shortcut(self, x: jax.Array) -> jax.Array:
    """Option A: the input, subsampled, with new channels of zeros."""
    x = x[:, :: self.stride, :: self.stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.padding)))


class ConvNorm:
  """A 3x3 convolution and its batch normalization, or else its biases."""

  def __init__(
    self,
    channels: int,
    stride: int = 1,
    *,
    normalizer: str,
    cross_replica_axis: str | None,
    names: tuple[str, str],
  ) -> None:
    has_norm = normalizer == 'batch'
    self.conv = layers.Conv2D(
      channels, 3, stride, with_bias=not has_norm, name=names[0]
    )
    self.norm = None
    if has_norm:
      self.norm = layers.BatchNorm(cross_replica_axis, name=names[1])

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """`[N, H, W, C]` to `[N, H / stride, W / stride, O]`."""
    x = self.conv(x)
    return self.norm(x, is_training) if self.norm else x
