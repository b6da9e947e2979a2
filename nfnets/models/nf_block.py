"""The block of all normalizer-free networks and their twins."""

import dataclasses
from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import layers, network


@dataclasses.dataclass(eq=False)
class NFBlock(hk.Module):
  """shortcut + alpha g f(activation(x) / expected_std) (paper B, section 3).

  f is a chain of convolutions with activations between them, and a gate.

  Args:
    in_channels, out_channels: channels of the input and the output.
    stride: of the block.
    branch_convs: `branch_convs(in_channels, out_channels, stride)` returns the
      convolutions of f in order.
    parts: the network's layers. With batch normalization there is no alpha, no
      skip gain, and no factor 2 on the gate.
    attention: makes the gate for a number of channels, or None; see
      `layers.attention`.
    gates_last: gate the output of f; if False, the input of its last
      convolution.
    alpha: scale of the branch.
    skipinit_gain: initial g, a number or an initializer. None leaves g out and
      starts the gains of the last convolution at 0.
    pools_shortcut: downsample the shortcut by average pooling instead of
      striding its convolution.
  """

  in_channels: int
  out_channels: int
  stride: int
  _: dataclasses.KW_ONLY
  branch_convs: Callable[[int, int, int], network.Convs]
  parts: layers.Parts
  attention: Callable[[int], hk.Module | None] = lambda channels: None
  gates_last: bool = True
  alpha: float = 1.0
  skipinit_gain: float | layers.Initializer | None = 0.0
  pools_shortcut: bool = True
  name: str = 'nf_block'

  def __post_init__(self) -> None:
    super().__post_init__()
    conv = self.parts.conv
    convs = self.branch_convs(self.in_channels, self.out_channels, self.stride)
    self.convs = [conv(*sizes, name=name) for name, sizes in convs.items()]
    if self.skipinit_gain is None:
      if not isinstance(self.convs[-1], layers.WSConv2D):
        raise ValueError(
          'skipinit_gain=None, as in timm, starts gains at 0, which only '
          "normalizer='nf' has: give skipinit_gain=0.0 with another normalizer."
        )
      self.convs[-1].gain_init = 0.0
    self.activations = [
      self.parts.activate(conv.name.replace('conv', 'bn'))
      for conv in self.convs
    ]
    self.conv_shortcut = None
    if self.stride > 1 or self.in_channels != self.out_channels:
      stride = 1 if self.pools_shortcut else self.stride
      self.conv_shortcut = conv(
        self.out_channels, 1, stride, name='conv_shortcut'
      )
    gated = self.convs[-1 if self.gates_last else -2]
    self.attend = self.attention(gated.channels)

  def __call__(
    self,
    x: jax.Array,
    is_training: bool,
    key: jax.Array | None,
    stochdepth_rate: float,
    expected_std: float = 1.0,
  ) -> jax.Array:
    """`[N, H, W, C]` to `[N, H / stride, W / stride, O]`."""
    act = self.activations[0](x, is_training) / expected_std
    branch = self.branch(act, is_training)
    # All factors are combined first, so that the branch is multiplied once.
    factor = self.gate(branch)
    if self.parts.is_nf:
      scale = jnp.float32(self.alpha)
      if self.skipinit_gain is not None:
        scale = scale * layers.skip_gain(self.skipinit_gain)
      factor = factor * scale.astype(factor.dtype)
    factor = layers.stoch_depth(factor, stochdepth_rate, key, is_training)
    return self.shortcut(x, act) + branch * factor

  def branch(self, act: jax.Array, is_training: bool) -> jax.Array:
    """The residual branch before gate, gain, alpha and stochastic depth."""
    x = self.convs[0](act)
    for activation, conv in zip(self.activations[1:], self.convs[1:]):
      if conv is self.convs[-1] and self.attend and not self.gates_last:
        x = x * self._gate(x)
      x = conv(activation(x, is_training))
    return x

  def gate(self, branch: jax.Array) -> jax.Array:
    """The branch's gate, `[N, 1, 1, O]`, or `[N, 1, 1, 1]` ones without one.

    Attention of your own may return any shape that broadcasts to the branch.
    """
    if self.attend and self.gates_last:
      return self._gate(branch)
    return jnp.ones((branch.shape[0], 1, 1, 1), branch.dtype)

  def shortcut(self, x: jax.Array, act: jax.Array) -> jax.Array:
    """The input, or a projection of its activation where the shape changes."""
    if self.conv_shortcut is None:
      return x
    if self.stride > 1 and self.pools_shortcut:
      act = hk.avg_pool(act, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME')
    return self.conv_shortcut(act)

  def _gate(self, x: jax.Array) -> jax.Array:
    # A gate is about 1/2 at initialization; the 2 keeps the branch's scale.
    gate = self.attend(x) * (2 if self.parts.is_nf else 1)
    # Stochastic depth draws a number for each image, so each needs a factor.
    shape = (1,) * (4 - gate.ndim) + gate.shape
    return jnp.broadcast_to(gate.reshape(shape), (x.shape[0], *shape[1:]))


def bottleneck(
  in_channels: int, out_channels: int, stride: int
) -> network.Convs:
  """The branch of a ResNet's block: a quarter as wide as its output."""
  mid = out_channels // 4
  return {
    'conv0': (mid, 1),
    'conv1': (mid, 3, stride),
    'conv2': (out_channels, 1),
  }
