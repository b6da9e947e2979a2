"""NF-ResNets (paper B, arXiv 2101.08692, section 4)."""

import functools
from collections.abc import Callable, Mapping

import haiku as hk
import jax

from nfnets.models import layers, network


class NFResNet(hk.Module):
  """Normalizer-free pre-activation bottleneck ResNet.

  Args:
    num_classes: K.
    variant: a row of `variants.NF_RESNET`.
    activation: name in `activations.GAMMAS`.
    alpha: scale of every residual branch.
    attention: the gate behind a block's last convolution, times 2: 'se'
      (squeeze-excite), 'eca' (efficient channel attention) or 'none'.
    use_se: True is attention 'se'.
    se_ratio: squeeze-excite's hidden share of a block's output channels.
    se_activation: see `layers.attention`.
    skipinit_gain: initial `skip_gain`, a number or an initializer.
    normalizer: 'nf', or 'none' for He-initialized plain convolutions and plain
      activations in place of weight standardization (paper B, Figure 2). The
      batch-normalized twin is the family `resnet_50`.
    ws_eps: see `layers.standardize`.
    padding: see `layers.conv2d`.
    pool_shortcut: shrink a shortcut by an average pool, as NFNets and timm do,
      not by its convolution's stride.
  """

  def __init__(
    self,
    num_classes: int,
    variant: Mapping,
    *,
    activation: str = 'relu',
    alpha: float = 0.2,
    attention: str = 'none',
    use_se: bool = False,
    se_ratio: float = 0.25,
    se_activation: str = 'relu',
    skipinit_gain: float | Callable = 0.0,
    normalizer: str = 'nf',
    ws_eps: str = 'published',
    padding: str = 'same',
    pool_shortcut: bool = False,
    name: str = 'NF_ResNet',
  ) -> None:
    super().__init__(name)
    if normalizer == 'batch':
      raise ValueError(
        "normalizer='batch' on an nf_resnet: create resnet_50 (101, ...), its "
        'batch-normalized twin.'
      )
    parts = layers.parts(
      normalizer, activation, ws_eps, padding, known=('nf', 'none')
    )
    self.activation = parts.activation
    self.padding = padding
    self.initial_conv = parts.conv(64, 7, 2, name='initial_conv')
    gate = functools.partial(
      layers.attention,
      'se' if use_se else attention,
      se_ratio=se_ratio,
      se_activation=se_activation,
      activation=parts.activation,
    )
    block = functools.partial(
      NFResBlock,
      parts=parts,
      pool_shortcut=pool_shortcut,
      alpha=alpha,
      gate=gate,
      skipinit_gain=skipinit_gain,
    )
    self.variant = variant
    self.stages = network.Stages(
      block, variant, 64, strides=(1, 2, 2, 2), stem_stride=4, alpha=alpha
    )
    init = hk.initializers.RandomNormal(0.01)  # nf_resnet.py:90-91
    self.linear = layers.Linear(num_classes, init, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images `[N, H, W, 3]`, see `nfnet.NFNet`."""
    key = hk.maybe_next_rng_key()
    x = network.max_pool(self.initial_conv(images), self.padding)
    x, features = self.stages(x, key, is_training)
    return network.classify(
      self.activation(x), self.linear, self.variant, key, is_training, features
    )


class NFResBlock(hk.Module):
  """shortcut + alpha g f(activation(x) / expected_std) (paper B, section 3)."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    parts: layers.Parts,
    pool_shortcut: bool = False,
    alpha: float = 1.0,
    gate: Callable[[int], hk.Module | None] = lambda channels: None,
    skipinit_gain: float | Callable = 0.0,
    name: str = 'nf_res_block',
  ) -> None:
    super().__init__(name)
    self.activation = parts.activation
    self.alpha = alpha
    self.skipinit_gain = skipinit_gain
    mid = out_channels // 4
    self.conv0 = parts.conv(mid, 1, name='conv0')
    self.conv1 = parts.conv(mid, 3, stride, name='conv1')
    self.conv2 = parts.conv(out_channels, 1, name='conv2')
    self.pools = pool_shortcut and stride > 1
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      self.conv_shortcut = parts.conv(
        out_channels, 1, 1 if self.pools else stride, name='conv_shortcut'
      )
    self.squeeze_excite = gate(out_channels)
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
    act = self.activation(x) / expected_std
    branch = self.branch(act, is_training)
    branch = self.stoch_depth(branch, stochdepth_rate, key, is_training)
    gain = layers.skip_gain(self.skipinit_gain)
    branch = branch * (gain * self.alpha).astype(branch.dtype)
    return self.shortcut(x, act) + branch

  def branch(self, act: jax.Array, is_training: bool) -> jax.Array:
    """The residual branch before stochastic depth, gain and alpha."""
    del is_training
    x = self.conv0(act)
    x = self.conv1(self.activation(x))
    x = self.conv2(self.activation(x))
    if self.squeeze_excite is None:
      return x
    # The gate is about 1/2 at initialization; 2 keeps the branch's scale.
    return x * self.squeeze_excite(x) * 2

  def shortcut(self, x: jax.Array, act: jax.Array) -> jax.Array:
    """The input, or a projection of what the activation made of it."""
    if self.conv_shortcut is None:
      return x
    return self.conv_shortcut(network.avg_pool(act) if self.pools else act)
