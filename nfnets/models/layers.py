"""The layers that the networks are made of.

Parameters are float32 whatever the activations' type, and are cast where they
are used. Shapes: N images, H and W pixels, C and O channels in and out.
"""

import math
from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import convolution
from nfnets.models.standardization import WS_EPS as WS_EPS
from nfnets.models.standardization import standardize

Initializer = Callable[..., jax.Array]

PADDINGS = ('same', 'symmetric')


class WSConv2D(hk.Module):
  """Convolution with Scaled Weight Standardization (paper B, equation 1).

  Args:
    channels: O.
    kernel: side of the square window.
    stride: of both axes.
    groups: that C and O are split into.
    padding: 'same' as TensorFlow pads, or 'symmetric' as PyTorch does, see
      `convolution.pad_symmetrically`.
    eps: how a vanishing variance is guarded, see `standardize`.
  """

  def __init__(
    self,
    channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    padding: str = 'same',
    eps: str = 'published',
    name: str | None = None,
  ) -> None:
    super().__init__(name)
    self.channels = channels
    self.kernel = kernel
    self.stride = stride
    self.groups = groups
    self.padding = padding
    self.eps = eps

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), O]`."""
    shape = _kernel_shape(x, self.kernel, self.groups, self.channels, self.name)
    w = hk.get_parameter('w', shape, init=normal_fan_in(1.0))
    gain = hk.get_parameter('gain', (self.channels,), init=jnp.ones)
    bias = hk.get_parameter('bias', (self.channels,), init=jnp.zeros)
    weights = standardize(w, gain, self.eps, x.dtype)
    out = _convolve(x, weights, self.stride, self.groups, self.padding)
    return out + _per_channel(bias, x)


class Conv2D(hk.Module):
  """Plain convolution, initialized by He's rule by default."""

  def __init__(
    self,
    channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    with_bias: bool = False,
    w_init: Initializer | None = None,
    padding: str = 'same',
    name: str | None = None,
  ) -> None:
    super().__init__(name)
    self.channels = channels
    self.kernel = kernel
    self.stride = stride
    self.groups = groups
    self.with_bias = with_bias
    self.padding = padding
    self.w_init = w_init or normal_fan_in(2.0)

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), O]`."""
    shape = _kernel_shape(x, self.kernel, self.groups, self.channels, self.name)
    w = hk.get_parameter('w', shape, init=self.w_init)
    out = _convolve(x, w, self.stride, self.groups, self.padding)
    if self.with_bias:
      b = hk.get_parameter('b', (self.channels,), init=jnp.zeros)
      out = out + _per_channel(b, x)
    return out


class Linear(hk.Module):
  """Linear layer in the type of its input; Haiku's default initialization."""

  def __init__(
    self,
    features: int,
    w_init: Initializer | None = None,
    name: str | None = None,
  ) -> None:
    super().__init__(name)
    self.features = features
    self.w_init = w_init

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, C]` to `[N, O]`."""
    shape = (x.shape[-1], self.features)
    w = hk.get_parameter('w', shape, init=self.w_init or truncated_fan_in)
    b = hk.get_parameter('b', (self.features,), init=jnp.zeros)
    return x @ w.astype(x.dtype) + b.astype(x.dtype)[None]


class BatchNorm(hk.BatchNorm):
  """`hk.BatchNorm`, decay 0.9 and eps 1e-5, computed in float32.

  Statistics are each device's own, as published, unless `cross_replica_axis`
  names the mapped axis to average them over.
  """

  def __init__(
    self, cross_replica_axis: str | None = None, name: str | None = None
  ) -> None:
    super().__init__(
      create_scale=True,
      create_offset=True,
      decay_rate=0.9,
      eps=1e-5,
      cross_replica_axis=cross_replica_axis,
      name=name,
    )

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Normalizes `[N, H, W, C]` per channel."""
    return super().__call__(x.astype(jnp.float32), is_training).astype(x.dtype)


class SqueezeExcite(hk.Module):
  """A gate per image and channel (Hu et al., arXiv 1709.01507).

  Args:
    channels: C.
    ratio: hidden units as a share of C.
    activation: between the two linear layers; the published one is plain ReLU.
    divisor: hidden units are rounded to a multiple of it; 1 cuts off fractions.
  """

  def __init__(
    self,
    channels: int,
    ratio: float,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    divisor: int = 1,
    name: str = 'squeeze_excite',
  ) -> None:
    super().__init__(name)
    self.activation = activation
    hidden = int(channels * ratio + divisor // 2) // divisor * divisor
    self.linear = Linear(max(divisor, hidden), name='linear')
    self.linear_1 = Linear(channels, name='linear_1')

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, C]` to the gate `[N, 1, 1, C]`, each in (0, 1)."""
    squeezed = jnp.mean(x, axis=(1, 2))
    gate = self.linear_1(self.activation(self.linear(squeezed)))
    return jax.nn.sigmoid(gate)[:, None, None]


class StochDepth(hk.Module):
  """Drops the whole branch of an image with probability `rate`.

  What is kept isn't divided by 1 - rate, and nothing is scaled in evaluation:
  the published form, unlike EfficientNet's.
  """

  def __call__(
    self,
    branch: jax.Array,
    rate: float | jax.Array,
    key: jax.Array | None,
    is_training: bool,
  ) -> jax.Array:
    """`[N, H, W, C]` to the same, whole images zeroed."""
    if not is_training or _is_zero(rate):
      return branch
    _require(key, 'stochastic depth', 'stochdepth_rate')
    keep = jax.random.bernoulli(key, 1 - rate, (branch.shape[0], 1, 1, 1))
    return branch * keep.astype(branch.dtype)


def dropout(
  x: jax.Array, rate: float, key: jax.Array | None, is_training: bool
) -> jax.Array:
  """Zeroes entries with probability `rate`, divides the rest by 1 - rate."""
  if not is_training or _is_zero(rate):
    return x
  _require(key, 'dropout', 'drop_rate')
  return hk.dropout(key, rate, x)


def conv_init(name: str) -> Initializer:
  """'he' N(0, 2 / fan_in), 'lecun' N(0, 1 / fan_in), or 'truncated'."""
  known = {
    'he': normal_fan_in(2.0),
    'lecun': normal_fan_in(1.0),
    'truncated': truncated_fan_in,
  }
  if name not in known:
    raise ValueError(f'no conv_init {name!r}: use one of {", ".join(known)}.')
  return known[name]


def normal_fan_in(scale: float) -> Initializer:
  """N(0, scale / fan_in)."""
  return hk.initializers.VarianceScaling(scale, 'fan_in', 'normal')


def truncated_fan_in(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
  """Haiku's default: N(0, 1 / fan_in) cut at two deviations, not corrected.

  The published networks' plain layers start so, with std 0.88 / sqrt(fan_in).
  """
  std = 1 / math.sqrt(math.prod(shape[:-1]))
  return hk.initializers.TruncatedNormal(std)(shape, dtype)


def _convolve(
  x: jax.Array, weights: jax.Array, stride: int, groups: int, padding: str
) -> jax.Array:
  height, width = (-(-side // stride) for side in x.shape[1:3])
  x = convolution.pad_symmetrically(x, weights.shape[0], stride, padding)
  out = convolution.conv2d(x, weights, (stride, stride), groups)
  return out[:, :height, :width]


def _kernel_shape(
  x: jax.Array, kernel: int, groups: int, channels: int, name: str
) -> tuple[int, int, int, int]:
  if x.shape[-1] % groups or channels % groups:
    raise ValueError(
      f'{name}: {groups} groups divide neither or only one of {x.shape[-1]} '
      f'input and {channels} output channels.'
    )
  return (kernel, kernel, x.shape[-1] // groups, channels)


def _per_channel(vector: jax.Array, x: jax.Array) -> jax.Array:
  return vector.astype(x.dtype)[None, None, None]


def _is_zero(rate: float | jax.Array) -> bool:
  return isinstance(rate, int | float) and rate == 0


def _require(key: jax.Array | None, what: str, override: str) -> None:
  if key is None:
    raise ValueError(
      f'{what} draws while training: pass a key, or create the model with '
      f'{override}=0.'
    )
