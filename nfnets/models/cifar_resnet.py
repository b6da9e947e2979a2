"""ResNets for 32-pixel images (He et al., arXiv 1512.03385, section 4.2)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, network


@dataclasses.dataclass(eq=False)
class CIFARResNet(hk.Module):
  """6n + 2 layers: 3x3 stem, three stages of n two-convolution blocks, head.

  `normalizer` chooses one of three networks of the same depth and widths:

  - 'batch': He's, `y = relu(x' + bn(conv(relu(bn(conv(x))))))`. At a transition
    x' is x subsampled by 2 and padded with channels of zeros (option A),
    elsewhere x. 269,722 parameters for 20 layers and 10 classes.
  - 'none': He's network and initialization, with biases in place of
    normalization. 269,034 parameters. It may diverge, which is a result.
  - 'nf': `y = x' + alpha g conv(act(conv(act(x) / s)))` with `WSConv2D`, ReLU
    scaled by gamma, and s the expected std of x (paper B). At a transition x'
    is the strided conv1x1(act(x) / s). 272,483 parameters.

  Args:
    num_classes: K.
    variant: a row of `variants.CIFAR_RESNET`.
    normalizer: 'batch', 'none' or 'nf'.
    activation: name in `activations.GAMMAS`; scaled only with 'nf'.
    alpha: scale of every residual branch; only with 'nf'.
    skipinit_gain: initial `skip_gain`, a number or initializer; only with 'nf'.
    ws_eps: see `layers.standardize`.
    cross_replica_axis: see `layers.BatchNorm`.
  """

  num_classes: int
  variant: Mapping
  _: dataclasses.KW_ONLY
  normalizer: str = 'batch'
  activation: str = 'relu'
  alpha: float = 0.2
  skipinit_gain: float | layers.Initializer = 0.0
  ws_eps: str = 'published'
  cross_replica_axis: str | None = None
  name: str = 'CIFAR_ResNet'

  def __post_init__(self) -> None:
    super().__post_init__()
    layers.check_choice('normalizer', self.normalizer, ('batch', 'none', 'nf'))
    self.is_nf = self.normalizer == 'nf'
    self.activate = activations.get(self.activation, scaled=self.is_nf)
    norm = lambda name: lambda x, is_training: x
    if self.is_nf:
      conv = functools.partial(layers.WSConv2D, eps=self.ws_eps)
      block = functools.partial(
        NFBasicBlock, alpha=self.alpha, skipinit_gain=self.skipinit_gain
      )
    else:
      has_norm = self.normalizer == 'batch'
      conv = functools.partial(layers.Conv2D, with_bias=not has_norm)
      if has_norm:
        norm = functools.partial(layers.BatchNorm, self.cross_replica_axis)
      block = functools.partial(BasicBlock, norm=norm)
    self.initial_conv = conv(16, 3, name='initial_conv')
    self.initial_norm = norm(name='initial_bn')
    self.stages = network.Stages(
      functools.partial(block, conv=conv, activation=self.activate),
      self.variant,
      16,
      strides=(1, 2, 2),
      stem_stride=1,
      alpha=self.alpha if self.is_nf else None,
    )
    init = hk.initializers.RandomNormal(0.01) if self.is_nf else None
    self.linear = layers.Linear(self.num_classes, init, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images `[N, H, W, 3]`, see `nfnet.NFNet`."""
    key = hk.maybe_next_rng_key()
    x = self.initial_norm(self.initial_conv(images), is_training)
    x = x if self.is_nf else self.activate(x)
    x, features = self.stages(x, key, is_training)
    x = self.activate(x) if self.is_nf else x
    return network.classify(self, x, key, is_training, features)


@dataclasses.dataclass(eq=False)
class NFBasicBlock(hk.Module):
  """shortcut + alpha g conv1(act(conv0(act(x) / expected_std))), paper B."""

  in_channels: int
  out_channels: int
  stride: int
  _: dataclasses.KW_ONLY
  conv: Callable[..., hk.Module]
  activation: activations.Activation
  alpha: float
  skipinit_gain: float | layers.Initializer
  name: str = 'nf_block'

  def __post_init__(self) -> None:
    super().__post_init__()
    channels, stride = self.out_channels, self.stride
    self.conv0 = self.conv(channels, 3, stride, name='conv0')
    self.conv1 = self.conv(channels, 3, name='conv1')
    self.conv_shortcut = None
    if stride > 1 or self.in_channels != channels:
      self.conv_shortcut = self.conv(channels, 1, stride, name='conv_shortcut')

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
    branch = layers.stoch_depth(branch, stochdepth_rate, key, is_training)
    gain = layers.skip_gain(self.skipinit_gain)
    branch = branch * (gain * self.alpha).astype(branch.dtype)
    return shortcut + branch

  def branch(self, act: jax.Array) -> jax.Array:
    """The residual branch before stochastic depth, gain and alpha."""
    return self.conv1(self.activation(self.conv0(act)))


@dataclasses.dataclass(eq=False)
class BasicBlock(hk.Module):
  """relu(shortcut + conv(relu(conv(x)))), batch-normalized or with biases."""

  in_channels: int
  out_channels: int
  stride: int
  _: dataclasses.KW_ONLY
  conv: Callable[..., hk.Module]
  norm: Callable[[str], Callable[[jax.Array, bool], jax.Array]]
  activation: activations.Activation
  name: str = 'block'

  def __post_init__(self) -> None:
    super().__post_init__()
    self.conv0 = self.conv(self.out_channels, 3, self.stride, name='conv0')
    self.conv1 = self.conv(self.out_channels, 3, name='conv1')
    self.norm0, self.norm1 = self.norm(name='bn0'), self.norm(name='bn1')

  def __call__(
    self,
    x: jax.Array,
    is_training: bool,
    key: jax.Array | None,
    stochdepth_rate: float,
  ) -> jax.Array:
    """`[N, H, W, C]` to `[N, H / stride, W / stride, O]`."""
    branch = self.branch(x, is_training)
    branch = layers.stoch_depth(branch, stochdepth_rate, key, is_training)
    return self.activation(self.shortcut(x) + branch)

  def branch(self, x: jax.Array, is_training: bool) -> jax.Array:
    """The residual branch before stochastic depth."""
    x = self.activation(self.norm0(self.conv0(x), is_training))
    return self.norm1(self.conv1(x), is_training)

  def shortcut(self, x: jax.Array) -> jax.Array:
    """Option A: the input, subsampled and padded with channels of zeros."""
    x = x[:, :: self.stride, :: self.stride]
    new = self.out_channels - self.in_channels
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, new)))
