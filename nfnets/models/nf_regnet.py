"""NF-RegNets (paper B, arXiv 2101.08692, section 5 and appendix)."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax.numpy as jnp

from nfnets.models import layers, network
from nfnets.models.nf_block import NFBlock


@dataclasses.dataclass(eq=False)
class NFRegNet(network.Network):
  """Normalizer-free RegNet: inverted bottlenecks of 8-channel groups.

  Args:
    width: multiplier of the table's widths.
    expansion: width of a block's 3x3 convolution as a multiple of its input's;
      1 in the first block.
    group_size: channels per group of the 3x3 convolutions.
    channel_divisor: round every width to a multiple of it, as timm does (8); 1
      truncates to integers, as released.
    se_ratio: hidden units of squeeze-excite as a share of the expanded width.

  For the other arguments see `nfnet.NFNet`.
  """

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

  def design(self) -> network.Design:
    parts = layers.parts(
      self.normalizer,
      self.activation,
      self.ws_eps,
      self.padding,
      self.cross_replica_axis,
    )
    published, divisor = self.variant['widths'], self.channel_divisor
    widths = [_rounded(w * self.width, divisor) for w in published]
    # As in EfficientNet, the first block doesn't expand.
    expansions = itertools.chain([1.0], itertools.repeat(self.expansion))
    block = functools.partial(
      NFBlock,
      branch_convs=functools.partial(self._branch_convs, expansions),
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
    channels = int(1280 * widths[-1] // 440)  # EfficientNet's head, scaled
    if divisor > 1:
      channels = _rounded(1280 * published[-1] // 440 * self.width, divisor)
    return network.Design(
      widths=widths,
      parts=parts,
      stem={'initial_conv': (widths[0], 3, 2)},
      block=block,
      strides=(2, 2, 2, 2),
      alpha=self.alpha if parts.is_nf else None,
      final_channels=channels,
      head_init=jnp.zeros,
    )

  def _branch_convs(
    self,
    expansions: Iterator[float],
    in_channels: int,
    out_channels: int,
    stride: int,
  ) -> network.Convs:
    mid = _rounded(in_channels * next(expansions), self.channel_divisor)
    groups = mid // self.group_size
    mid = groups * self.group_size
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
