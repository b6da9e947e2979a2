"""NF-ResNets (paper B, arXiv 2101.08692, section 4)."""

import functools
from collections.abc import Mapping

import haiku as hk

from nfnets.models import layers, network
from nfnets.models.nf_block import NFBlock, bottleneck


def build(
  num_classes: int,
  variant: Mapping,
  *,
  activation: str = 'relu',
  alpha: float = 0.2,
  attention: str = 'none',
  use_se: bool = False,
  se_ratio: float = 0.25,
  se_activation: str = 'relu',
  skipinit_gain: float | layers.Initializer | None = 0.0,
  normalizer: str = 'nf',
  ws_eps: str = 'published',
  padding: str = 'same',
  pool_shortcut: bool = False,
) -> network.Network:
  """Normalizer-free pre-activation bottleneck ResNet.

  Args:
    num_classes: K.
    variant: a row of `variants.NF_RESNET`.
    use_se: True means attention 'se', after a block's last convolution.
    normalizer: 'nf', or 'none' for plain convolutions with He's initialization
      and plain activations (paper B, Figure 2). `resnet` is the
      batch-normalized twin.
    pool_shortcut: downsample shortcuts by average pooling, as NFNets and timm
      do, instead of striding their convolution.

  For the other arguments see `nfnet.build`.
  """
  parts = layers.parts(
    normalizer,
    activation,
    ws_eps,
    padding,
    conv_init='he',
    known=('nf', 'none'),
  )
  block = functools.partial(
    NFBlock,
    branch_convs=bottleneck,
    parts=parts,
    attention=layers.attention(
      'se' if use_se else attention, se_ratio, se_activation, parts.activation
    ),
    alpha=alpha,
    skipinit_gain=skipinit_gain,
    pools_shortcut=pool_shortcut,
    name='nf_res_block',
  )
  init = hk.initializers.RandomNormal(0.01)  # nf_resnet.py:90-91
  return network.Network(
    variant,
    conv=parts.conv,
    activate=parts.activate,
    stem={'initial_conv': (64, 7, 2)},
    pooling=padding,
    block=block,
    alpha=alpha,
    head=functools.partial(layers.Linear, num_classes, init, name='linear'),
    name='NF_ResNet',
  )
