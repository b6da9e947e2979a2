"""NFNets (paper A, arXiv 2102.06171, section 4 and appendix C)."""

import functools
from collections.abc import Callable, Mapping, Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import variants
from nfnets.models import kit as kits
from nfnets.models import layers, stages


class NFNet(hk.Module):
  """NFNet-F: a four-convolution stem, four stages of grouped bottlenecks.

  Args:
    num_classes: K.
    variant: a row of `variants.NFNET`.
    activation: name in `activations.GAMMAS`.
    alpha: scale of every residual branch.
    se_ratio: squeeze-excite's hidden share of a block's output channels.
    use_se: False leaves squeeze-excite out.
    se_activation: 'relu', as released, or 'network' for the network's own
      scaled one, as appendix C writes it.
    use_two_convs: False leaves one grouped 3x3 in a block (Table 2).
    widths: channels per stage, or 'default' for the ResNet widths of Table 2.
    exact_width: keep a mid width that the group width of 128 doesn't divide.
      It matters for stage 1 of the plus widths alone: 192 channels in one
      group give F4+ the paper's 527 M parameters, where the released code
      (False) shrinks them to 128 and has 525 M.
    drop_rate: dropout on the pooled features; None for the variant's.
    stochdepth_rate: rate that the last block approaches; None for 0.25.
    skipinit_gain: initial `skip_gain`, a number or an initializer.
    normalizer: 'nf', or 'batch' for the batch-normalized twin (Table 6):
      BN before every activation, no weight standardization, gamma, alpha,
      expected std, skip gain or factor 2 on squeeze-excite.
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
    activation: str = 'gelu',
    alpha: float = 0.2,
    se_ratio: float = 0.5,
    use_se: bool = True,
    se_activation: str = 'relu',
    use_two_convs: bool = True,
    widths: Sequence[int] | str | None = None,
    exact_width: bool = False,
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
    name: str = 'NFNet',
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
    widths = _widths(widths, variant)
    stem = ((16, 2), (32, 1), (64, 1), (widths[0] // 2, 2))
    self.stem_convs = [
      kit.conv(channels, 3, stride, name=f'stem_conv{index}')
      for index, (channels, stride) in enumerate(stem)
    ]
    self.stem_norms = [
      kit.norm(name=f'stem_bn{index}') for index in range(len(stem) - 1)
    ]
    block = functools.partial(
      NFBlock,
      kit=kit,
      alpha=alpha,
      se_ratio=se_ratio if use_se else None,
      se_activation=se_activation,
      use_two_convs=use_two_convs,
      exact_width=exact_width,
      skipinit_gain=skipinit_gain,
    )
    depths = variant['depths']
    self.blocks = stages.build(
      block, depths, widths, widths[0] // 2, strides=(1, 2, 2, 2)
    )
    if stochdepth_rate is None:
      stochdepth_rate = variant['stochdepth_rate']
    self.numbers = stages.numbers(
      depths, stochdepth_rate, alpha if kit.is_nf else None
    )
    self.final_conv = kit.conv(2 * widths[-1], 1, name='final_conv')
    self.final_norm = kit.norm(name='final_bn')
    init = hk.initializers.RandomNormal(0.01)
    self.linear = layers.Linear(num_classes, init, name='linear')

  def __call__(
    self, images: jax.Array, is_training: bool
  ) -> dict[str, jax.Array]:
    """Classifies images.

    Args:
      images: `[N, H, W, 3]`; the computation follows their type.
      is_training: whether dropout, stochastic depth and batch statistics apply.

    Returns:
      'logits' `[N, K]` (float32), 'pool' `[N, C]`, and with `features`
      'features': stride to stage output `[N, H / stride, W / stride, C]`,
      before any activation.
    """
    key = hk.maybe_next_rng_key()
    x = self.stem_convs[0](images)
    for norm, conv in zip(self.stem_norms, self.stem_convs[1:]):
      x = conv(self.activation(norm(x, is_training)))
    x, outputs = stages.run(
      self.blocks, self.numbers, x, key, is_training, self.remat, self.scan
    )
    x = self.final_norm(self.final_conv(x), is_training)
    key = stages.fold_in(key, sum(map(len, self.blocks)))
    result = stages.classify(
      self.activation(x), self.linear, self.drop_rate, key, is_training
    )
    if self.features:
      result['features'] = stages.with_strides(outputs, first=4)
    return result


class NFBlock(hk.Module):
  """shortcut + alpha g f(activation(x) / expected_std) (paper A, section 2)."""

  GROUP_SIZE = 128

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    kit: kits.Kit,
    alpha: float,
    se_ratio: float | None,
    se_activation: str,
    use_two_convs: bool,
    exact_width: bool,
    skipinit_gain: float | Callable,
    name: str = 'nf_block',
  ) -> None:
    super().__init__(name)
    self.kit = kit
    self.alpha = alpha
    self.skipinit_gain = skipinit_gain
    self.stride = stride
    groups = max(1, out_channels // 2 // self.GROUP_SIZE)
    mid = out_channels // 2 if exact_width else groups * self.GROUP_SIZE
    self.convs = [
      kit.conv(mid, 1, name='conv0'),
      kit.conv(mid, 3, stride, groups, name='conv1'),
    ]
    if use_two_convs:
      self.convs.append(kit.conv(mid, 3, 1, groups, name='conv1b'))
    self.convs.append(kit.conv(out_channels, 1, name='conv2'))
    self.norms = [
      kit.norm(name=conv.name.replace('conv', 'bn')) for conv in self.convs
    ]
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      self.conv_shortcut = kit.conv(out_channels, 1, name='conv_shortcut')
    self.squeeze_excite = None
    if se_ratio is not None:
      self.squeeze_excite = layers.SqueezeExcite(
        out_channels, se_ratio, kits.se_activation(se_activation, kit)
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
    # Factors are combined first: the branch itself is multiplied once.
    factor = self.gate(branch)
    if self.kit.is_nf:
      gain = kits.skip_gain(self.skipinit_gain)
      factor = factor * (gain * self.alpha).astype(factor.dtype)
    factor = self.stoch_depth(factor, stochdepth_rate, key, is_training)
    return self.shortcut(x, act) + branch * factor

  def branch(self, act: jax.Array, is_training: bool) -> jax.Array:
    """The residual branch before its gate, gain, alpha and stochastic depth."""
    x = self.convs[0](act)
    for norm, conv in zip(self.norms[1:], self.convs[1:]):
      x = conv(self.kit.activation(norm(x, is_training)))
    return x

  def gate(self, branch: jax.Array) -> jax.Array:
    """What multiplies the branch: `[N, 1, 1, O]`, or ones `[N, 1, 1, 1]`."""
    if self.squeeze_excite is None:
      return jnp.ones((len(branch), 1, 1, 1), branch.dtype)
    # Squeeze-excite is about 1/2 at initialization; 2 keeps the branch's scale.
    return self.squeeze_excite(branch) * (2 if self.kit.is_nf else 1)

  def shortcut(self, x: jax.Array, act: jax.Array) -> jax.Array:
    """The input, or a projection of what the activation made of it."""
    if self.conv_shortcut is None:
      return x
    return self.conv_shortcut(stages.avg_pool(act) if self.stride > 1 else act)


def _widths(widths: Sequence[int] | str | None, variant: Mapping) -> tuple:
  if widths == 'default':
    return variants.NFNET_DEFAULT_WIDTHS
  widths = tuple(variant['widths'] if widths is None else widths)
  if len(widths) != len(variant['depths']):
    raise ValueError(
      f'widths={widths}: give one width for each of the '
      f"{len(variant['depths'])} stages, or 'default'."
    )
  return widths
