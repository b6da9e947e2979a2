"""NF-RegNets (paper B, arXiv 2101.08692, section 5 and appendix)."""

import functools
import itertools
from collections.abc import Callable, Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import layers, network


class NFRegNet(hk.Module):
  """Normalizer-free RegNet: inverted bottlenecks with groups of 8 channels.

  Args:
    num_classes: K.
    variant: a row of `variants.NF_REGNET`.
    width: multiplier of the table's widths.
    expansion: of a block's input channels, the first block's (1) aside.
    group_size: channels per group of the 3x3 convolution.
    channel_divisor: round every width to a multiple of it, as timm does (8);
      1 cuts off fractions, as released.
    activation: name in `activations.GAMMAS`.
    alpha: scale of every residual branch.
    se_ratio: squeeze-excite's hidden share of the expanded channels.
    use_se: False leaves squeeze-excite out.
    se_activation: see `layers.attention`.
    skipinit_gain: initial `skip_gain`, a number or an initializer.
    normalizer: 'nf', or 'batch' for the batch-normalized twin: BN before every
      activation, and none of what stands in for it, as in `nfnet.NFNet`.
    ws_eps: see `layers.standardize`.
    padding: see `layers.conv2d`.
    cross_replica_axis: see `layers.BatchNorm`.
  """

  def __init__(
    self,
    num_classes: int,
    variant: Mapping,
    *,
    width: float = 0.75,
    expansion: float = 2.25,
    group_size: int = 8,
    channel_divisor: int = 1,
    activation: str = 'silu',
    alpha: float = 0.2,
    se_ratio: float = 0.5,
    use_se: bool = True,
    se_activation: str = 'relu',
    skipinit_gain: float | Callable = 0.0,
    normalizer: str = 'nf',
    ws_eps: str = 'published',
    padding: str = 'same',
    cross_replica_axis: str | None = None,
    name: str = 'NF_RegNet',
  ) -> None:
    super().__init__(name)
    parts = layers.parts(
      normalizer, activation, ws_eps, padding, cross_replica_axis
    )
    self.activation = parts.activation
    rounded = functools.partial(_rounded, divisor=channel_divisor)
    widths = [rounded(channels * width) for channels in variant['widths']]
    self.initial_conv = parts.conv(widths[0], 3, 2, name='initial_conv')
    # The first block doesn't expand, after EfficientNet.
    expansions = itertools.chain([1.0], itertools.repeat(expansion))

    gate = functools.partial(
      layers.attention,
      'se' if use_se else 'none',
      se_ratio=se_ratio,
      se_activation=se_activation,
      activation=parts.activation,
      divisor=channel_divisor,
    )

    def block(
      in_channels: int, out_channels: int, stride: int, **name: str
    ) -> NFBlock:
      groups = rounded(in_channels * next(expansions)) // group_size
      return NFBlock(
        in_channels,
        out_channels,
        stride,
        groups=groups,
        group_size=group_size,
        parts=parts,
        alpha=alpha,
        gate=gate,
        skipinit_gain=skipinit_gain,
        **name,
      )

    self.variant = {**variant, 'widths': widths}
    self.stages = network.Stages(
      block,
      self.variant,
      widths[0],
      strides=(2, 2, 2, 2),
      stem_stride=2,
      alpha=alpha if parts.is_nf else None,
    )
    channels = int(1280 * widths[-1] // 440)  # EfficientNet's head, scaled
    if channel_divisor > 1:
      channels = rounded(1280 * variant['widths'][-1] // 440 * width)
    self.final_conv = parts.conv(channels, 1, name='final_conv')
    self.final_norm = parts.norm(name='final_bn')
    self.linear = layers.Linear(num_classes, jnp.zeros, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images `[N, H, W, 3]`, see `nfnet.NFNet`."""
    key = hk.maybe_next_rng_key()
    x = self.initial_conv(images)
    x, features = self.stages(x, key, is_training)
    x = self.activation(self.final_norm(self.final_conv(x), is_training))
    return network.classify(
      x, self.linear, self.variant, key, is_training, features
    )


class NFBlock(hk.Module):
  """shortcut + alpha g f(activation(x) / expected_std) (paper B, section 5)."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    groups: int,
    group_size: int,
    parts: layers.Parts,
    alpha: float,
    gate: Callable[[int], hk.Module | None],
    skipinit_gain: float | Callable,
    name: str = 'nf_block',
  ) -> None:
    super().__init__(name)
    self.parts = parts
    self.alpha = alpha
    self.skipinit_gain = skipinit_gain
    self.stride = stride
    mid = groups * group_size
    self.conv0 = parts.conv(mid, 1, name='conv0')
    self.conv1 = parts.conv(mid, 3, stride, groups, name='conv1')
    self.conv2 = parts.conv(out_channels, 1, name='conv2')
    self.norms = [parts.norm(name=f'bn{index}') for index in range(3)]
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      self.conv_shortcut = parts.conv(out_channels, 1, name='conv_shortcut')
    self.squeeze_excite = gate(mid)
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
    branch = self.stoch_depth(branch, stochdepth_rate, key, is_training)
    if self.parts.is_nf:
      gain = layers.skip_gain(self.skipinit_gain)
      branch = branch * (gain * self.alpha).astype(branch.dtype)
    return self.shortcut(x, act) + branch

  def branch(self, act: jax.Array, is_training: bool) -> jax.Array:
    """The residual branch before stochastic depth, gain and alpha."""
    x = self.conv0(act)
    x = self.conv1(self.parts.activation(self.norms[1](x, is_training)))
    if self.squeeze_excite is not None:
      x = x * self.squeeze_excite(x) * (2 if self.parts.is_nf else 1)
    return self.conv2(self.parts.activation(self.norms[2](x, is_training)))

  def shortcut(self, x: jax.Array, act: jax.Array) -> jax.Array:
    """The input, or a projection of what the activation made of it."""
    if self.conv_shortcut is None:
      return x
    return self.conv_shortcut(network.avg_pool(act) if self.stride > 1 else act)


def _rounded(channels: float, divisor: int) -> int:
  """The nearest multiple, at least nine tenths of what was asked for."""
  if divisor == 1:
    return int(channels)
  nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return nearest + (divisor if nearest < 0.9 * channels else 0)
