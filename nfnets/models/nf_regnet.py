"""NF-RegNets (paper B, arXiv 2101.08692, section 5 and appendix)."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import layers, network
from nfnets.models.nf_block import Convs, NFBlock


@dataclasses.dataclass(eq=False)
class NFRegNet(hk.Module):
  """Normalizer-free RegNet: inverted bottlenecks of 8-channel groups.

  Args:
    num_classes: K.
    variant: a row of `variants.NF_REGNET`.
    width: multiplier of the table's widths.
    expansion: width of a block's 3x3 convolution as a multiple of its input's;
      1 in the first block.
    group_size: channels per group of the 3x3 convolutions.
    channel_divisor: round every width to a multiple of it, as timm does (8); 1
      truncates to integers, as released.
    se_ratio: hidden units of squeeze-excite as a share of the expanded width.

  For the other arguments see `nfnet.NFNet`.
  """

  num_classes: int
  variant: Mapping
  _: dataclasses.KW_ONLY
  width: float = 0.75
  expansion: float = 2.25
  group_size: int = 8
  channel_divisor: int = 1
  activation: str = 'silu'
  alpha: float = 0.2
  se_ratio: float = 0.5
  use_se: bool = True
  se_activation: str = 'relu'
  skipinit_gain: float | layers.Initializer | None = 0.0
  normalizer: str = 'nf'
  ws_eps: str = 'published'
  padding: str = 'same'
  cross_replica_axis: str | None = None
  name: str = 'NF_RegNet'

  def __post_init__(self) -> None:
    super().__post_init__()
    parts = layers.parts(
      self.normalizer,
      self.activation,
      self.ws_eps,
      self.padding,
      self.cross_replica_axis,
    )
    published, divisor = self.variant['widths'], self.channel_divisor
    widths = [_rounded(w * self.width, divisor) for w in published]
    self.initial_conv = parts.conv(widths[0], 3, 2, name='initial_conv')
    # As in EfficientNet, the first block doesn't expand.
    expansions = itertools.chain([1.0], itertools.repeat(self.expansion))
    block = functools.partial(
      NFBlock,
      branch_convs=functools.partial(_branch_convs, self, expansions),
      parts=parts,
      attention=layers.attention(
        'se' if self.use_se else 'none',
        self.se_ratio,
        self.se_activation,
        parts.activation,
        divisor,
      ),
      gates_last=False,
      alpha=self.alpha,
      skipinit_gain=self.skipinit_gain,
    )
    self.stages = network.Stages(
      block,
      {**self.variant, 'widths': widths},
      widths[0],
      strides=(2, 2, 2, 2),
      stem_stride=2,
      alpha=self.alpha if parts.is_nf else None,
    )
    channels = int(1280 * widths[-1] // 440)  # EfficientNet's head, scaled
    if divisor > 1:
      channels = _rounded(1280 * published[-1] // 440 * self.width, divisor)
    self.final_conv = parts.conv(channels, 1, name='final_conv')
    self.final_activation = parts.activate('final_bn')
    self.linear = layers.Linear(self.num_classes, jnp.zeros, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images `[N, H, W, 3]`, see `nfnet.NFNet`."""
    key = hk.maybe_next_rng_key()
    early = self.initial_conv(images)
    x, features = self.stages(early, key, is_training)
    x = self.final_conv(x)
    features = {2: early} | features | {self.stages.strides[-1]: x}
    x = self.final_activation(x, is_training)
    return network.classify(self, x, key, is_training, features)


def _branch_convs(
  net: NFRegNet,
  expansions: Iterator[float],
  in_channels: int,
  out_channels: int,
  stride: int,
) -> Convs:
  mid = _rounded(in_channels * next(expansions), net.channel_divisor)
  groups = mid // net.group_size
  mid = groups * net.group_size
  return {
    'conv0': (mid, 1),
    'conv1': (mid, 3, stride, groups),
    'conv2': (out_channels, 1),
  }


def _rounded(channels: float, divisor: int) -> int:
  """The nearest multiple of `divisor` that is at least 0.9 * channels."""
  if divisor == 1:
    return int(channels)
  nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return nearest + (divisor if nearest < 0.9 * channels else 0)
