"""The layers that the networks are made of, and their one convolution.

Parameters are float32 whatever the activations' type, and are cast where they
are used. Shapes: N images, H and W pixels, C and O channels in and out, kh and
kw the sides of a kernel.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import layout

from nfnets.models import activations
from nfnets.models.platform import traced_for as traced_for
from nfnets.models.platform import traced_platform

Initializer = Callable[..., jax.Array]
Padding = Sequence[tuple[int, int]]

PADDINGS = ('same', 'symmetric')
WS_EPS = ('published', 'timm')

_is_folded = contextvars.ContextVar('is_folded', default=False)


class Parts(NamedTuple):
  """The layers that one choice of normalizer stands for.

  Attributes:
    is_nf: whether alpha, expected std and skip gain apply.
    activation: scaled by gamma with weight standardization.
    conv: `conv(channels, kernel, stride=1, groups=1, name=...)`.
    activate: `activate(name)` makes `f(x, is_training)`, the activation, after
      batch normalization under this name where the normalizer is 'batch'.
  """

  is_nf: bool
  activation: activations.Activation
  conv: Callable[..., hk.Module]
  activate: Callable[[str], Callable[[jax.Array, bool], jax.Array]]


def parts(
  normalizer: str,
  activation: str,
  ws_eps: str = 'published',
  padding: str = 'same',
  cross_replica_axis: str | None = None,
  known: tuple[str, ...] = ('nf', 'batch'),
) -> Parts:
  """Chooses the layers of a normalizer.

  Args:
    normalizer: 'nf'; 'batch' for plain convolutions, batch normalization and
      plain activations; 'none' for He-initialized convolutions with biases and
      plain activations between alpha, expected std and skip gain.
    activation: name in `activations.GAMMAS`.
    ws_eps: see `standardize`.
    padding: see `conv2d`.
    cross_replica_axis: of 'batch', see `BatchNorm`.
    known: the normalizers that the network offers.

  Raises:
    ValueError: for an unknown choice.
  """
  choose('normalizer', normalizer, known)
  choose('ws_eps', ws_eps, WS_EPS)
  choose('padding', padding, PADDINGS)
  plain = activations.get(activation, scaled=False)
  if normalizer == 'batch':
    conv = functools.partial(Conv2D, w_init=truncated_fan_in, padding=padding)
    normalized = functools.partial(
      batch_norm_activation, plain, cross_replica_axis
    )
    return Parts(False, plain, conv, normalized)
  if normalizer == 'none':
    conv = functools.partial(Conv2D, with_bias=True, padding=padding)
    return unnormalized(plain, conv)
  conv = functools.partial(WSConv2D, eps=ws_eps, padding=padding)
  return unnormalized(activations.get(activation), conv)


def unnormalized(
  activation: activations.Activation, conv: Callable[..., hk.Module]
) -> Parts:
  """Parts of a network whose activations stand alone."""
  return Parts(True, activation, conv, lambda name: lambda x, _: activation(x))


def batch_norm_activation(
  activation: activations.Activation,
  cross_replica_axis: str | None,
  name: str,
  order: str = 'bn_act',
) -> Callable[[jax.Array, bool], jax.Array]:
  """Batch normalization, then the activation; with 'act_bn' before it."""
  norm = BatchNorm(cross_replica_axis, name=name)
  if order == 'act_bn':
    return lambda x, is_training: norm(activation(x), is_training)
  return lambda x, is_training: activation(norm(x, is_training))


def choose(name: str, value: str, known: Sequence[str]) -> None:
  """Refuses an argument that is none of the known."""
  if value not in known:
    raise ValueError(f'no {name} {value!r}: use {" or ".join(known)}.')


@dataclasses.dataclass(eq=False)
class WSConv2D(hk.Module):
  """Convolution with Scaled Weight Standardization (paper B, equation 1).

  Args:
    channels: O.
    kernel: side of the square window.
    stride: of both axes.
    groups: that C and O are split into.
    padding: see `conv2d`.
    eps: how a vanishing variance is guarded, see `standardize`.
    gain_init: of the gains.
  """

  channels: int
  kernel: int
  stride: int = 1
  groups: int = 1
  padding: str = 'same'
  eps: str = 'published'
  gain_init: float = 1.0
  name: str | None = None

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), O]`."""
    shape = _kernel_shape(x, self.kernel, self.groups, self.channels, self.name)
    w = hk.get_parameter('w', shape, init=normal_fan_in(1.0))
    bias_name = 'b' if _is_folded.get() else 'bias'
    bias = hk.get_parameter(bias_name, (self.channels,), init=jnp.zeros)
    if not _is_folded.get():
      init = hk.initializers.Constant(self.gain_init)
      gain = hk.get_parameter('gain', (self.channels,), init=init)
      w = standardize(w, gain, self.eps, x.dtype)
    strides = (self.stride, self.stride)
    out = conv2d(x, w, strides, self.groups, self.padding)
    return out + _per_channel(bias, x)


@dataclasses.dataclass(eq=False)
class Conv2D(hk.Module):
  """Plain convolution, initialized by He's rule by default."""

  channels: int
  kernel: int
  stride: int = 1
  groups: int = 1
  with_bias: bool = False
  w_init: Initializer | None = None
  padding: str = 'same'
  name: str | None = None

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), O]`."""
    shape = _kernel_shape(x, self.kernel, self.groups, self.channels, self.name)
    w_init = self.w_init or normal_fan_in(2.0)
    w = hk.get_parameter('w', shape, init=w_init)
    strides = (self.stride, self.stride)
    out = conv2d(x, w, strides, self.groups, self.padding)
    if self.with_bias:
      b = hk.get_parameter('b', (self.channels,), init=jnp.zeros)
      out = out + _per_channel(b, x)
    return out


def standardize(
  w: jax.Array,
  gain: jax.Array,
  eps: str = 'published',
  dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
  """Scaled Weight Standardization, its statistics in float32 (B, equation 1).

  Args:
    w: `[kh, kw, C / groups, O]`.
    gain: `[O]`.
    eps: 'published' for gain / sqrt(max(var N, 1e-4)), N = kh kw C / groups,
      'timm' for gain / sqrt((var + 1e-5) N).
    dtype: of the result, which is rounded once, at the end.

  Returns:
    `[kh, kw, C / groups, O]`: per output mean 0, variance gain^2 / N.
  """
  choose('ws_eps', eps, WS_EPS)
  shape = w.shape
  # As a matrix: XLA's CPU backend reduces gradients of leading axes of size 1
  # at a tenth of the speed.
  w = w.reshape(-1, shape[-1])
  w = w.astype(jnp.promote_types(w.dtype, jnp.float32))
  # Moments around a row don't cancel, and rounding loses nothing to a large
  # mean. The result doesn't depend on the row, so neither does its gradient.
  w = w - lax.stop_gradient(w[:1])
  mean = jnp.mean(w, axis=0, keepdims=True)
  var = jnp.mean(w**2, axis=0, keepdims=True) - mean**2
  if eps == 'published':
    scale = lax.rsqrt(jnp.maximum(var * len(w), 1e-4))  # base.py:134
  else:
    scale = lax.rsqrt((var + 1e-5) * len(w))  # timm std_conv.py:222-231
  # Spelt out: the gradient then sums cotangents before it widens them, 2.5 %
  # of the bytes of F0's step on a GPU (results/speed.md).
  slope = scale * gain[None]
  out = w * slope - mean * slope
  return _row_major(out.astype(dtype).reshape(shape))


def conv2d(
  images: jax.Array,
  weights: jax.Array,
  strides: Sequence[int] = (1, 1),
  groups: int = 1,
  padding: str = 'same',
) -> jax.Array:
  """Convolves, in the form that is fast on the platform it is traced for.

  XLA's CPU backend runs a 3x3 convolution of 6 groups of 128 channels at 12
  pixels at 48 GFLOP/s in one piece and at 140 in six, its weights' gradient at
  4 and at 74.

  Args:
    images: `[N, H, W, C]`.
    weights: `[kh, kw, C / groups, O]`.
    strides: of height and width.
    groups: that C and O are split into.
    padding: 'same' as TensorFlow pads, 'symmetric' as PyTorch does: strided
      windows on even sides start a pixel further to the top and left.

  Returns:
    `[N, ceil(H / stride), ceil(W / stride), O]`, of the images' type.
  """
  weights = weights.astype(images.dtype)
  pads = window_pads(images, weights.shape[:2], strides, padding)
  if traced_platform() == 'cpu':
    # Narrower groups would be hundreds of tiny convolutions.
    if groups > 1 and weights.shape[2] >= 32:
      parts = zip(*(jnp.split(x, groups, -1) for x in (images, weights)))
      outs = [_conv2d(*part, strides, 1, pads) for part in parts]
      return jnp.concatenate(outs, -1)
    if groups == 1 and weights.shape[:2] == (1, 1):
      return images[:, :: strides[0], :: strides[1]] @ weights[0, 0]
  return _conv2d(images, weights, strides, groups, pads)


def _conv2d(
  images: jax.Array,
  weights: jax.Array,
  strides: Sequence[int],
  groups: int,
  pads: Padding,
) -> jax.Array:
  return lax.conv_general_dilated(
    images,
    weights,
    window_strides=tuple(strides),
    padding=pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def window_pads(
  images: jax.Array, window: Sequence[int], strides: Sequence[int], padding: str
) -> Padding:
  """What is padded before and after height and width."""
  pads = []
  for side, size, stride in zip(images.shape[1:3], window, strides):
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    before = size // 2 if padding == 'symmetric' else total // 2
    pads.append((before, total - before))
  return pads


@contextlib.contextmanager
def folded(is_folded: bool = True) -> Iterator[None]:
  """Networks run within the block hold standardized weights, for inference.

  `WSConv2D` has 'w' and 'b' then, as `nfnets.weights.fold` makes them of 'w',
  'gain' and 'bias'.
  """
  token = _is_folded.set(is_folded)
  try:
    yield
  finally:
    _is_folded.reset(token)


@dataclasses.dataclass(eq=False)
class Linear(hk.Module):
  """Linear layer in the type of its input; Haiku's default initialization.

  No layer, but its input, for 0 features: a network without a head.
  """

  features: int
  w_init: Initializer | None = None
  name: str | None = None

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, C]` to `[N, O]`."""
    if not self.features:
      return x
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


class EfficientChannelAttention(hk.Module):
  """A gate of neighbouring channels (Wang et al., arXiv 1910.03151, section 3).

  One kernel of k weights runs over the pooled channels: k is the odd number
  next to log2(C) / 2 + 1 / 2 (equation 12).
  """

  def __init__(self, channels: int, name: str = 'channel_attention') -> None:
    super().__init__(name)
    self.kernel = int(math.log2(channels) / 2 + 0.5) | 1

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, C]` to the gate `[N, 1, 1, C]`, each in (0, 1)."""
    squeezed = jnp.mean(x, axis=(1, 2))
    shape = (self.kernel, 1, 1)
    w = hk.get_parameter('w', shape, init=normal_fan_in(1.0))
    gate = conv2d(squeezed[:, None, :, None], w[None])
    return jax.nn.sigmoid(gate.reshape(x.shape[0], 1, 1, x.shape[3]))


def attention(
  kind: str,
  se_ratio: float,
  se_activation: str,
  activation: activations.Activation,
  divisor: int = 1,
) -> Callable[[int], hk.Module | None]:
  """How a block makes the gate of so many channels.

  Args:
    kind: 'se' (squeeze-excite), 'eca' (efficient channel attention) or 'none'.
    se_ratio: squeeze-excite's hidden share of the channels.
    se_activation: of squeeze-excite: 'relu' as released, 'network' for the
      network's own, as paper A's appendix C writes it, or another's name.
    activation: the network's own.
    divisor: see `SqueezeExcite`.

  Raises:
    ValueError: for an unknown kind.
  """
  choose('attention', kind, ('se', 'eca', 'none'))
  if se_activation != 'network':
    activation = activations.get(se_activation, scaled=False)
  return {
    'se': lambda channels: SqueezeExcite(
      channels, se_ratio, activation, divisor
    ),
    'eca': EfficientChannelAttention,
    'none': lambda channels: None,
  }[kind]


def skip_gain(init: float | Initializer) -> jax.Array:
  """The block's learned scalar (SkipInit), `[]`, in the calling module."""
  if not callable(init):
    init = hk.initializers.Constant(init)
  return hk.get_parameter('skip_gain', (), jnp.float32, init)


def stoch_depth(
  branch: jax.Array,
  rate: float | jax.Array,
  key: jax.Array | None,
  is_training: bool,
) -> jax.Array:
  """Drops the whole branch of an image with probability `rate`.

  What is kept isn't divided by 1 - rate, and nothing is scaled in evaluation:
  the published form, unlike EfficientNet's.

  Args:
    branch: `[N, H, W, C]`, or what multiplies it, `[N, 1, 1, C]`.
    rate: 0 draws nothing.
    key: of this block; may be None where nothing draws.
    is_training: False returns the branch.
  """
  if not _draws('stochdepth_rate', rate, key, is_training):
    return branch
  keep = jax.random.bernoulli(key, 1 - rate, (branch.shape[0], 1, 1, 1))
  return branch * keep.astype(branch.dtype)


def dropout(
  x: jax.Array, rate: float, key: jax.Array | None, is_training: bool
) -> jax.Array:
  """Zeroes entries with probability `rate`, divides the rest by 1 - rate."""
  if not _draws('drop_rate', rate, key, is_training):
    return x
  return hk.dropout(key, rate, x)


def _draws(
  name: str, rate: float | jax.Array, key: jax.Array | None, is_training: bool
) -> bool:
  if not is_training or (isinstance(rate, int | float) and rate == 0):
    return False
  if key is None:
    raise ValueError(
      f'{name} draws while training: pass a key, or create the model with '
      f'{name}=0.'
    )
  return True


def conv_init(name: str) -> Initializer:
  """'he' N(0, 2 / fan_in), 'lecun' N(0, 1 / fan_in), or 'truncated'."""
  known = {
    'he': normal_fan_in(2.0),
    'lecun': normal_fan_in(1.0),
    'truncated': truncated_fan_in,
  }
  choose('conv_init', name, tuple(known))
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


def _row_major(x: jax.Array) -> jax.Array:
  """Constrains x to row-major layout on accelerators.

  Convolutions there want their weights, and leave their gradient, with the axes
  in another order. Unconstrained, XLA reorders what is float32 to match: the
  parameters before they are standardized, and them and their momentum for the
  update, which can't be written in place then. This way it reorders what is
  already rounded, or not yet widened.
  """
  if traced_platform() == 'cpu':
    return x
  order = layout.Layout(tuple(range(x.ndim)))
  return layout.with_layout_constraint(x, order)
