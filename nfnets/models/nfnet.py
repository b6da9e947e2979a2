"""NFNets (paper A, arXiv 2102.06171, section 4 and appendix C)."""

import dataclasses
import functools
from collections.abc import Sequence

import haiku as hk

from nfnets import variants
from nfnets.models import layers, network
from nfnets.models.nf_block import NFBlock


@dataclasses.dataclass(eq=False)
class NFNet(network.Network):
  """NFNet-F: a stem of 3x3 convolutions, four stages of grouped bottlenecks.

  Strides reduce the images 32-fold: 32 pixels become maps of 2x2 in stage 3 and
  1x1 in stage 4. For tiny images give the `stem` strides of 1, which makes all
  maps 4 times as wide and high (and training about 16 times as costly).

  Args:
    variant: see `network.Network`; its widths may be 'default', the ResNet
      widths of Table 2.
    activation: name in `activations.GAMMAS`.
    alpha: scale of every residual branch.
    attention: kind of the branches' gate, see `layers.attention`.
    se_ratio: hidden units of squeeze-excite as a share of a block's output.
    use_se: False means attention 'none'.
    se_activation: see `layers.attention`.
    use_two_convs: False uses one grouped 3x3 convolution per block (Table 2).
    group_size: channels per group of the 3x3 convolutions.
    bottleneck_ratio: width of the 3x3 convolutions as a share of the block's.
    exact_width: don't round the width of the 3x3 convolutions to the group
      size. This only matters in stage 1 of the plus variants: one group of 192
      channels gives F4+ the paper's 527 M parameters; the released code (False)
      rounds down to 128 channels and has 525 M.
    final_ratio: the last convolution's width as a multiple of the last stage's.
    stem: (channels, stride) of each 3x3 convolution. None is the published
      stem: 16, 32, 64 and half the first stage's width, strided at both ends.
    skipinit_gain: see `nf_block.NFBlock`.
    normalizer: 'nf', or 'batch' for the batch-normalized twin (Table 6): BN
      before every activation; no weight standardization, gamma, alpha, expected
      std, skip gain or factor 2 on the gate.
    ws_eps: see `layers.standardize`.
    padding: see `layers.conv2d`.
    cross_replica_axis: see `layers.BatchNorm`.
  """

  _: dataclasses.KW_ONLY
  activation: str = 'gelu'
  alpha: float = 0.2
  attention: str = 'se'
  se_ratio: float = 0.5
  use_se: bool = True
  se_activation: str = 'relu'
  use_two_convs: bool = True
  group_size: int = 128
  bottleneck_ratio: float = 0.5
  exact_width: bool = False
  final_ratio: float = 2.0
  stem: Sequence[tuple[int, int]] | None = None
  skipinit_gain: float | layers.Initializer | None = 0.0
  normalizer: str = 'nf'
  ws_eps: str = 'published'
  padding: str = 'same'
  cross_replica_axis: str | None = None
  name: str = 'NFNet'

  def design(self) -> network.Design:
    parts = layers.parts(
      self.normalizer,
      self.activation,
      self.ws_eps,
      self.padding,
      self.cross_replica_axis,
    )
    widths = self.variant['widths']
    if widths == 'default':
      widths = variants.NFNET_DEFAULT_WIDTHS
    stem = self.stem or ((16, 2), (32, 1), (64, 1), (widths[0] // 2, 2))
    block = functools.partial(
      NFBlock,
      branch_convs=self._branch_convs,
      parts=parts,
      attention=layers.attention(
        self.attention if self.use_se else 'none',
        self.se_ratio,
        self.se_activation,
        parts.activation,
      ),
      alpha=self.alpha,
      skipinit_gain=self.skipinit_gain,
    )
    return network.Design(
      widths=widths,
      parts=parts,
      stem={
        f'stem_conv{index}': (channels, 3, stride)
        for index, (channels, stride) in enumerate(stem)
      },
      block=block,
      alpha=self.alpha if parts.is_nf else None,
      final_channels=int(self.final_ratio * widths[-1]),
      head_init=hk.initializers.RandomNormal(0.01),
    )

  def _branch_convs(
    self, in_channels: int, out_channels: int, stride: int
  ) -> network.Convs:
    mid = int(out_channels * self.bottleneck_ratio)
    groups = max(1, mid // self.group_size)
    mid = mid if self.exact_width else groups * self.group_size
    convs = {'conv0': (mid, 1), 'conv1': (mid, 3, stride, groups)}
    if self.use_two_convs:
      convs['conv1b'] = (mid, 3, 1, groups)
    return convs | {'conv2': (out_channels, 1)}
