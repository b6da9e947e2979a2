"""NF-RegNets (paper B, arXiv 2101.08692, section 5 and appendix)."""

import functools
from collections.abc import Callable, Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import kit as kits
from nfnets.models import layers, stages


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
    se_activation: 'relu', as released, or 'network', as the paper's appendix.
    drop_rate: dropout on the pooled features; None for the variant's.
    stochdepth_rate: rate that the last block approaches; None for 0.1.
    skipinit_gain: initial `skip_gain`, a number or an initializer.
    normalizer: 'nf', or 'batch' for the batch-normalized twin: BN before every
      activation, and none of what stands in for it, as in `nfnet.NFNet`.
    ws_eps: see `layers.standardize`.
    padding: see `layers.WSConv2D`.
    folded: run weights by `nfnets.weights.fold`; inference only.
    cross_replica_axis: see `layers.BatchNorm`.
    remat: recompute each block in the backward pass.
    scan: compile equal blocks once, see `stages.run`.
    features: return each stage's output too.
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
    drop_rate: float | None = None,
    stochdepth_rate: float | None = None,
    skipinit_gain: float | Callable = 0.0,
    normalizer: str = 'nf',
    ws_eps: str = 'published',
    padding: str = 'same',
    folded: bool = False,
    cross_replica_axis: str | None = None,
    remat: bool = False,
    scan: bool = False,
    features: bool = False,
    name: str = 'NF_RegNet',
  ) -> None:
    super().__init__(name)
    kit = kits.make(
      normalizer, activation, ws_eps, cross_replica_axis, padding, folded
    )
    self.activation = kit.activation
    self.drop_rate = variant['drop_rate'] if drop_rate is None else drop_rate
    self.remat = remat
    self.scan = scan
    self.features = features
    rounded = functools.partial(_rounded, divisor=channel_divisor)
    widths = [rounded(channels * width) for channels in variant['widths']]
    self.initial_conv = kit.conv(widths[0], 3, 2, name='initial_conv')
    # The first block doesn't expand, after EfficientNet.
    expansions = iter([1.0] + [expansion] * sum(variant['depths']))

    def block(in_channels: int, out_channels: int, stride: int) -> NFBlock:
      groups = rounded(in_channels * next(expansions)) // group_size
      return NFBlock(
        in_channels,
        out_channels,
        stride,
        groups=groups,
        group_size=group_size,
        channel_divisor=channel_divisor,
        kit=kit,
        alpha=alpha,
        se_ratio=se_ratio if use_se else None,
        se_activation=se_activation,
        skipinit_gain=skipinit_gain,
      )

    depths = variant['depths']
    self.blocks = stages.build(
      block, depths, widths, widths[0], strides=(2, 2, 2, 2)
    )
    if stochdepth_rate is None:
      stochdepth_rate = variant['stochdepth_rate']
    self.numbers = stages.numbers(
      depths, stochdepth_rate, alpha if kit.is_nf else None
    )
    channels = int(1280 * widths[-1] // 440)  # EfficientNet's head, scaled
    if channel_divisor > 1:
      channels = rounded(1280 * variant['widths'][-1] // 440 * width)
    self.final_conv = kit.conv(channels, 1, name='final_conv')
    self.final_norm = kit.norm(name='final_bn')
    self.linear = layers.Linear(num_classes, jnp.zeros, name='linear')

  def __call__(
    self, images: jax.Array, is_training: bool
  ) -> dict[str, jax.Array]:
    """Classifies images `[N, H, W, 3]`, see `nfnet.NFNet`."""
    key = hk.maybe_next_rng_key()
    x = self.initial_conv(images)
    x, outputs = stages.run(
      self.blocks, self.numbers, x, key, is_training, self.remat, self.scan
    )
    x = self.activation(self.final_norm(self.final_conv(x), is_training))
    key = stages.fold_in(key, sum(map(len, self.blocks)))
    result = stages.classify(x, self.linear, self.drop_rate, key, is_training)
    if self.features:
      result['features'] = stages.with_strides(outputs, first=4)
    return result


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
    channel_divisor: int,
    kit: kits.Kit,
    alpha: float,
    se_ratio: float | None,
    se_activation: str,
    skipinit_gain: float | Callable,
    name: str = 'nf_block',
  ) -> None:
    super().__init__(name)
    self.kit = kit
    self.alpha = alpha
    self.skipinit_gain = skipinit_gain
    self.stride = stride
    mid = groups * group_size
    self.conv0 = kit.conv(mid, 1, name='conv0')
    self.conv1 = kit.conv(mid, 3, stride, groups, name='conv1')
    self.conv2 = kit.conv(out_channels, 1, name='conv2')
    self.norms = [kit.norm(name=f'bn{index}') for index in range(3)]
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      self.conv_shortcut = kit.conv(out_channels, 1, name='conv_shortcut')
    self.squeeze_excite = None
    if se_ratio is not None:
      self.squeeze_excite = layers.SqueezeExcite(
        mid,
        se_ratio,
        kits.se_activation(se_activation, kit),
        channel_divisor,
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
    act = self.kit.activation(self.norms[0](x, is_training)) / expected_std
    branch = self.branch(act, is_training)
    branch = self.stoch_depth(branch, stochdepth_rate, key, is_training)
    if self.kit.is_nf:
      gain = kits.skip_gain(self.skipinit_gain)
      branch = branch * (gain * self.alpha).astype(branch.dtype)
    return self.shortcut(x, act) + branch

  def branch(self, act: jax.Array, is_training: bool) -> jax.Array:
    """The residual branch before stochastic depth, gain and alpha."""
    x = self.conv0(act)
    x = self.conv1(self.kit.activation(self.norms[1](x, is_training)))
    if self.squeeze_excite is not None:
      x = x * self.squeeze_excite(x) * (2 if self.kit.is_nf else 1)
    return self.conv2(self.kit.activation(self.norms[2](x, is_training)))

  def shortcut(self, x: jax.Array, act: jax.Array) -> jax.Array:
    """The input, or a projection of what the activation made of it."""
    if self.conv_shortcut is None:
      return x
    return self.conv_shortcut(stages.avg_pool(act) if self.stride > 1 else act)


def _rounded(channels: float, divisor: int) -> int:
  """The nearest multiple, at least nine tenths of what was asked for."""
  if divisor == 1:
    return int(channels)
  nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return nearest + (divisor if nearest < 0.9 * channels else 0)
