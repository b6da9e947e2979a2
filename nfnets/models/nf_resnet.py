"""NF-ResNets (paper B, arXiv 2101.08692, section 4)."""

import dataclasses
import functools

import haiku as hk

from nfnets.models import layers, network
from nfnets.models.nf_block import NFBlock, bottleneck


@dataclasses.dataclass(eq=False)
class NFResNet(network.Network):
  """Normalizer-free pre-activation bottleneck ResNet.

  Args:
    use_se: True means attention 'se', after a block's last convolution.
    normalizer: 'nf', or 'none' for plain convolutions with He's initialization
      and plain activations (paper B, Figure 2). `resnet.ResNet` is the
      batch-normalized twin.
    pool_shortcut: downsample shortcuts by average pooling, as NFNets and timm
      do, instead of striding their convolution.

  For the other arguments see `nfnet.NFNet`.
  """

  _: dataclasses.KW_ONLY
  activation: str = 'relu'
  alpha: float = 0.2
  attention: str = 'none'
  use_se: bool = False
  se_ratio: float = 0.25
  se_activation: str = 'relu'
  skipinit_gain: float | layers.Initializer | None = 0.0
  normalizer: str = 'nf'
  ws_eps: str = 'published'
  padding: str = 'same'
  pool_shortcut: bool = False
  name: str = 'NF_ResNet'

  def design(self) -> network.Design:
    parts = layers.parts(
      self.normalizer,
      self.activation,
      self.ws_eps,
      self.padding,
      conv_init='he',
      known=('nf', 'none'),
    )
    block = functools.partial(
      NFBlock,
      branch_convs=bottleneck,
      parts=parts,
      attention=layers.attention(
        'se' if self.use_se else self.attention,
        self.se_ratio,
        self.se_activation,
        parts.activation,
      ),
      alpha=self.alpha,
      skipinit_gain=self.skipinit_gain,
      pools_shortcut=self.pool_shortcut,
      name='nf_res_block',
    )
    return network.Design(
      parts=parts,
      stem={'initial_conv': (64, 7, 2)},
      pooling=self.padding,
      block=block,
      alpha=self.alpha,
      head_init=hk.initializers.RandomNormal(0.01),  # nf_resnet.py:90-91
    )
