"""FixUp ResNets (Zhang et al., arXiv 1901.09321), paper B's comparison."""

import dataclasses
import functools
import math

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, network


@dataclasses.dataclass(eq=False)
class FixUpResNet(network.Network):
  """Post-activation ResNet that only its initialization keeps stable.

  It has scalar biases around every convolution and one scale per block; the
  last convolution of a branch starts at zero, and so does the branch.

  Args:
    activation: name in `activations.GAMMAS`, unscaled.
  """

  _: dataclasses.KW_ONLY
  activation: str = 'relu'
  name: str = 'FixUp_ResNet'

  def design(self) -> network.Design:
    plain = activations.get(self.activation, scaled=False)
    parts = layers.Parts(
      is_nf=False,
      activation=plain,
      conv=functools.partial(layers.Conv2D, w_init=layers.truncated_fan_in),
      norm=lambda name: lambda x, is_training: x + _scalar('bias1', x),
    )
    return network.Design(
      parts=parts,
      stem={'initial_conv': (64, 7, 2)},
      pooling='same',
      post_activation=True,
      stem_features=False,
      block=functools.partial(
        FixUpBlock, num_blocks=sum(self.variant['depths']), activation=plain
      ),
      head_init=jnp.zeros,
    )

  def logits(self, pool: jax.Array) -> jax.Array:
    """The head `[N, C]` to `[N, K]`, with a bias before it."""
    return self.linear(pool + _scalar('bias2', pool))


@dataclasses.dataclass(eq=False)
class FixUpBlock(hk.Module):
  """activation(shortcut(x + bias1a) + scale f(x) + bias3b)."""

  in_channels: int
  out_channels: int
  stride: int
  _: dataclasses.KW_ONLY
  num_blocks: int
  activation: activations.Activation
  name: str = 'res_block'

  def __post_init__(self) -> None:
    super().__post_init__()
    mid = self.out_channels // 4
    # L^(-1 / (2m - 2)) with m = 3 layers in a branch (FixUp, section 3).
    depth_scale = self.num_blocks**-0.25
    std = math.sqrt(2 / max(mid, 1)) * depth_scale  # conv0 refuses mid = 0
    channels, stride = self.out_channels, self.stride
    self.conv0 = _conv(mid, 1, 1, std, 'conv0')
    self.conv1 = _conv(mid, 3, stride, std / 3, 'conv1')
    self.conv2 = _conv(channels, 1, 1, 0.0, 'conv2')
    self.conv_shortcut = None
    if stride > 1 or self.in_channels != channels:
      std = math.sqrt(2 / channels)
      self.conv_shortcut = _conv(channels, 1, stride, std, 'conv_shortcut')

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
    branch = self.branch(x)
    branch = layers.stoch_depth(branch, stochdepth_rate, key, is_training)
    return self.activation(branch + shortcut)

  def branch(self, x: jax.Array) -> jax.Array:
    """The residual branch before stochastic depth."""
    bias = lambda name: _scalar(name, x)
    out = self.activation(self.conv0(x) + bias('bias1b'))
    out = self.activation(self.conv1(out + bias('bias2a')) + bias('bias2b'))
    out = self.conv2(out + bias('bias3a'))
    return out * _scalar('scale', x, init=jnp.ones) + bias('bias3b')


def _conv(
  channels: int, kernel: int, stride: int, std: float, name: str
) -> layers.Conv2D:
  init = hk.initializers.RandomNormal(std)
  return layers.Conv2D(channels, kernel, stride, w_init=init, name=name)


def _scalar(
  name: str, x: jax.Array, init: layers.Initializer = jnp.zeros
) -> jax.Array:
  return hk.get_parameter(name, (), init=init).astype(x.dtype)
