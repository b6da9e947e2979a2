"""NFNets (paper A, arXiv 2102.06171, section 4 and appendix C)."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import variants
from nfnets.models import layers, network


class NFNet(hk.Module):
  """NFNet-F: a stem of 3x3 convolutions, four stages of grouped bottlenecks.

  Args:
    num_classes: K.
    variant: a row of `variants.NFNET` and what `models.create` adds; widths may
      be 'default', the ResNet widths of Table 2.
    activation: name in `activations.GAMMAS`.
    alpha: scale of every residual branch.
    attention: the gate on a branch: 'se' (squeeze-excite), 'eca' (efficient
      channel attention) or 'none'.
    se_ratio: squeeze-excite's hidden share of a block's output channels.
    use_se: False is attention 'none'.
    se_activation: see `layers.attention`.
    use_two_convs: False leaves one grouped 3x3 in a block (Table 2).
    group_size: channels per group of the 3x3 convolutions.
    bottleneck_ratio: width of the 3x3 convolutions as a share of the block's.
    exact_width: keep a width of the 3x3 that the group size doesn't divide. It
      matters for stage 1 of the plus widths alone: 192 channels in one group
      give F4+ the paper's 527 M parameters, where the released code (False)
      shrinks them to 128 and has 525 M.
    final_ratio: the last convolution's width as a multiple of the last stage's.
    stem: (channels, stride) of each 3x3 convolution; None for the published
      16, 32, 64 and half the first stage's width, strided at both ends.
    skipinit_gain: initial `skip_gain`, a number or an initializer.
    normalizer: 'nf', or 'batch' for the batch-normalized twin (Table 6):
      BN before every activation, no weight standardization, gamma, alpha,
      expected std, skip gain or factor 2 on the gate.
    ws_eps: see `layers.standardize`.
    padding: see `layers.conv2d`.
    cross_replica_axis: see `layers.BatchNorm`.
  """

  def __init__(
    self,
    num_classes: int,
    variant: Mapping,
    *,
    activation: str = 'gelu',
    alpha: float = 0.2,
    attention: str = 'se',
    se_ratio: float = 0.5,
    use_se: bool = True,
    se_activation: str = 'relu',
    use_two_convs: bool = True,
    group_size: int = 128,
    bottleneck_ratio: float = 0.5,
    exact_width: bool = False,
    final_ratio: float = 2.0,
    stem: Sequence[tuple[int, int]] | None = None,
    skipinit_gain: float | Callable = 0.0,
    normalizer: str = 'nf',
    ws_eps: str = 'published',
    padding: str = 'same',
    cross_replica_axis: str | None = None,
    name: str = 'NFNet',
  ) -> None:
    super().__init__(name)
    parts = layers.parts(
      normalizer, activation, ws_eps, padding, cross_replica_axis
    )
    if variant['widths'] == 'default':
      variant = {**variant, 'widths': variants.NFNET_DEFAULT_WIDTHS}
    self.variant, self.activation = variant, parts.activation
    widths = variant['widths']
    stem = stem or ((16, 2), (32, 1), (64, 1), (widths[0] // 2, 2))
    self.stem_convs = [
      parts.conv(channels, 3, stride, name=f'stem_conv{index}')
      for index, (channels, stride) in enumerate(stem)
    ]
    self.stem_norms = [
      parts.norm(name=f'stem_bn{index}') for index in range(len(stem) - 1)
    ]
    gate = functools.partial(
      layers.attention,
      attention if use_se else 'none',
      se_ratio=se_ratio,
      se_activation=se_activation,
      activation=parts.activation,
    )
    block = functools.partial(
      NFBlock,
      parts=parts,
      alpha=alpha,
      gate=gate,
      use_two_convs=use_two_convs,
      group_size=group_size,
      bottleneck_ratio=bottleneck_ratio,
      exact_width=exact_width,
      skipinit_gain=skipinit_gain,
    )
    self.stages = network.Stages(
      block,
      variant,
      stem[-1][0],
      strides=(1, 2, 2, 2),
      stem_stride=math.prod(stride for _, stride in stem),
      alpha=alpha if parts.is_nf else None,
    )
    channels = int(final_ratio * widths[-1])
    self.final_conv = parts.conv(channels, 1, name='final_conv')
    self.final_norm = parts.norm(name='final_bn')
    init = hk.initializers.RandomNormal(0.01)
    self.linear = layers.Linear(num_classes, init, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images.

    Args:
      images: `[N, H, W, 3]`; the computation follows their type.
      is_training: whether dropout, stochastic depth and batch statistics apply.

    Returns:
      See `network.classify`; features are taken before any activation.
    """
    key = hk.maybe_next_rng_key()
    x = self.stem_convs[0](images)
    for norm, conv in zip(self.stem_norms, self.stem_convs[1:]):
      x = conv(self.activation(norm(x, is_training)))
    x, features = self.stages(x, key, is_training)
    x = self.activation(self.final_norm(self.final_conv(x), is_training))
    return network.classify(
      x, self.linear, self.variant, key, is_training, features
    )


class NFBlock(hk.Module):
  """shortcut + alpha g f(activation(x) / expected_std) (paper A, section 2)."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    parts: layers.Parts,
    alpha: float,
    gate: Callable[[int], hk.Module | None],
    use_two_convs: bool,
    group_size: int,
    bottleneck_ratio: float,
    exact_width: bool,
    skipinit_gain: float | Callable,
    name: str = 'nf_block',
  ) -> None:
    super().__init__(name)
    self.parts = parts
    self.alpha = alpha
    self.skipinit_gain = skipinit_gain
    self.stride = stride
    mid = int(out_channels * bottleneck_ratio)
    groups = max(1, mid // group_size)
    mid = mid if exact_width else groups * group_size
    self.convs = [
      parts.conv(mid, 1, name='conv0'),
      parts.conv(mid, 3, stride, groups, name='conv1'),
    ]
    if use_two_convs:
      self.convs.append(parts.conv(mid, 3, 1, groups, name='conv1b'))
    self.convs.append(parts.conv(out_channels, 1, name='conv2'))
    self.norms = [
      parts.norm(name=conv.name.replace('conv', 'bn')) for conv in self.convs
    ]
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      self.conv_shortcut = parts.conv(out_channels, 1, name='conv_shortcut')
    self.attention = gate(out_channels)
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
    act = self.parts.activation(self.norms[0](x, is_training)) / expected_std
    branch = self.branch(act, is_training)
    # Factors are combined first: the branch itself is multiplied once.
    factor = self.gate(branch)
    if self.parts.is_nf:
      gain = layers.skip_gain(self.skipinit_gain)
      factor = factor * (gain * self.alpha).astype(factor.dtype)
    factor = self.stoch_depth(factor, stochdepth_rate, key, is_training)
    return self.shortcut(x, act) + branch * factor

  def branch(self, act: jax.Array, is_training: bool) -> jax.Array:
    """The residual branch before its gate, gain, alpha and stochastic depth."""
    x = self.convs[0](act)
    for norm, conv in zip(self.norms[1:], self.convs[1:]):
      x = conv(self.parts.activation(norm(x, is_training)))
    return x

  def gate(self, branch: jax.Array) -> jax.Array:
    """What multiplies the branch: `[N, 1, 1, O]`, or ones `[N, 1, 1, 1]`."""
    if self.attention is None:
      return jnp.ones((len(branch), 1, 1, 1), branch.dtype)
    # The gate is about 1/2 at initialization; 2 keeps the branch's scale.
    return self.attention(branch) * (2 if self.parts.is_nf else 1)

  def shortcut(self, x: jax.Array, act: jax.Array) -> jax.Array:
    """The input, or a projection of what the activation made of it."""
    if self.conv_shortcut is None:
      return x
    return self.conv_shortcut(network.avg_pool(act) if self.stride > 1 else act)
