"""ResNets for 32-pixel images (He et al., arXiv 1512.03385, section 4.2)."""

import dataclasses
import functools

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import layers, network, nf_block


@dataclasses.dataclass(eq=False)
class CIFARResNet(network.Network):
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
    normalizer: 'batch', 'none' or 'nf'.
    activation: name in `activations.GAMMAS`; scaled only with 'nf'.
    alpha: scale of every residual branch; only with 'nf'.
    skipinit_gain: initial `skip_gain`, a number or initializer; only with 'nf'.
    ws_eps: see `layers.standardize`.
    cross_replica_axis: see `layers.BatchNorm`.
  """

  _: dataclasses.KW_ONLY
  normalizer: str = 'batch'
  activation: str = 'relu'
  alpha: float = 0.2
  skipinit_gain: float | layers.Initializer = 0.0
  ws_eps: str = 'published'
  cross_replica_axis: str | None = None
  name: str = 'CIFAR_ResNet'

  def design(self) -> network.Design:
    parts = layers.parts(
      self.normalizer,
      self.activation,
      self.ws_eps,
      cross_replica_axis=self.cross_replica_axis,
      conv_init='he',
      known=('batch', 'none', 'nf'),
    )
    is_nf, block, init = self.normalizer == 'nf', BasicBlock, None
    if is_nf:
      block = functools.partial(
        nf_block.NFBlock,
        branch_convs=basic,
        alpha=self.alpha,
        skipinit_gain=self.skipinit_gain,
        pools_shortcut=False,
      )
      init = hk.initializers.RandomNormal(0.01)
    return network.Design(
      parts=parts,
      stem={'initial_conv': (16, 3)},
      post_activation=not is_nf,
      block=functools.partial(block, parts=parts),
      strides=(1, 2, 2),
      alpha=self.alpha if is_nf else None,
      head_init=init,
    )


def basic(in_channels: int, out_channels: int, stride: int) -> network.Convs:
  """The branch of a normalizer-free block: two 3x3 convolutions."""
  return {'conv0': (out_channels, 3, stride), 'conv1': (out_channels, 3)}


@dataclasses.dataclass(eq=False)
class BasicBlock(hk.Module):
  """relu(shortcut + conv(relu(conv(x)))), batch-normalized or with biases."""

  in_channels: int
  out_channels: int
  stride: int
  _: dataclasses.KW_ONLY
  parts: layers.Parts
  name: str = 'block'

  def __post_init__(self) -> None:
    super().__post_init__()
    conv, norm = self.parts.conv, self.parts.norm
    if self.out_channels < self.in_channels:
      raise ValueError(
        f'{self.name}: {self.out_channels} channels after {self.in_channels}: '
        'widths must be at least 16, the width of the stem, and never decrease.'
      )
    self.conv0 = conv(self.out_channels, 3, self.stride, name='conv0')
    self.activate = self.parts.activate('bn0')
    self.conv1 = conv(self.out_channels, 3, name='conv1')
    self.norm = norm(name='bn1') if norm else None

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
    return self.parts.activation(self.shortcut(x) + branch)

  def branch(self, x: jax.Array, is_training: bool) -> jax.Array:
    """The residual branch before stochastic depth."""
    x = self.conv1(self.activate(self.conv0(x), is_training))
    return self.norm(x, is_training) if self.norm else x

  def shortcut(self, x: jax.Array) -> jax.Array:
    """Option A: the input, subsampled and padded with channels of zeros."""
    x = x[:, :: self.stride, :: self.stride]
    new = self.out_channels - self.in_channels
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, new)))
