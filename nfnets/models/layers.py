"""The layers of all networks, and the one convolution behind them.

Parameters are always float32 and are cast to the activations' type where they
are used. Shapes: N images, H x W pixels, C input and O output channels, kernels
of kh x kw.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import layout

from nfnets.models import activations
from nfnets.models.platform import traced_for as traced_for
from nfnets.models.platform import traced_platform

Initializer = Callable[..., jax.Array]

WS_EPS = ('published', 'timm')

_is_folded = contextvars.ContextVar('is_folded', default=False)


@dataclasses.dataclass(frozen=True)
class Parts:
  """The layers that go with a normalizer.

  Attributes:
    is_nf: whether alpha, expected std and skip gain apply.
    activation: scaled by gamma if the normalizer is 'nf'.
    conv: makes a convolution: `conv(channels, kernel, stride=1, groups=1,
      name=...)`.
    norm: makes a normalization: `norm(name=...)`. None for no normalization.
    order: 'bn_act' normalizes before the activation, 'act_bn' after it.
  """

  is_nf: bool
  activation: activations.Activation
  conv: Callable[..., hk.Module]
  norm: Callable[..., hk.Module] | None = None
  order: str = 'bn_act'

  def activate(self, name: str) -> Callable[[jax.Array, bool], jax.Array]:
    """Makes `f(x, is_training)`, the activation with its normalization."""
    if self.norm is None:
      return lambda x, is_training: self.activation(x)
    norm = self.norm(name=name)
    if self.order == 'act_bn':
      return lambda x, is_training: norm(self.activation(x), is_training)
    return lambda x, is_training: self.activation(norm(x, is_training))


def parts(
  normalizer: str,
  activation: str,
  ws_eps: str = 'published',
  padding: str = 'same',
  cross_replica_axis: str | None = None,
  conv_init: str = 'truncated',
  order: str = 'bn_act',
  known: tuple[str, ...] = ('nf', 'batch'),
) -> Parts:
  """Returns the layers of a normalizer.

  Args:
    normalizer: 'nf'; 'batch' for plain convolutions, batch normalization and
      plain activations; 'none' for convolutions with biases and plain
      activations, still with alpha, expected std and skip gain.
    activation: name in `activations.GAMMAS`.
    ws_eps: see `standardize`.
    padding: see `conv2d`.
    cross_replica_axis: see `BatchNorm`; only with 'batch'.
    conv_init: of plain convolutions: 'he' N(0, 2 / fan_in), 'lecun'
      N(0, 1 / fan_in) or 'truncated', see `truncated_fan_in`.
    order: see `Parts`; only with 'batch'.
    known: the normalizers that the network supports.

  Raises:
    ValueError: if a choice is unknown.
  """
  check_choice('normalizer', normalizer, known)
  check_choice('padding', padding, ('same', 'symmetric'))
  check_choice('conv_init', conv_init, tuple(_CONV_INITS))
  check_choice('order', order, ('bn_act', 'act_bn'))
  if normalizer == 'nf':
    conv = functools.partial(WSConv2D, eps=ws_eps, padding=padding)
    return Parts(True, activations.get(activation), conv)
  plain = activations.get(activation, scaled=False)
  w_init = _CONV_INITS[conv_init]
  conv = functools.partial(Conv2D, w_init=w_init, padding=padding)
  if normalizer == 'none':
    return Parts(True, plain, functools.partial(conv, with_bias=True))
  norm = functools.partial(BatchNorm, cross_replica_axis)
  return Parts(False, plain, conv, norm, order)


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
  """Raises ValueError unless the argument has one of the known values."""
  if value not in known:
    raise ValueError(f'{name}={value!r}: choose one of {", ".join(known)}.')


@dataclasses.dataclass(eq=False)
class WSConv2D(hk.Module):
  """Convolution with Scaled Weight Standardization (paper B, equation 1).

  Args:
    channels: O.
    kernel: side of the square kernel.
    stride: in both directions.
    groups: number of groups that C and O are split into.
    padding: see `conv2d`.
    eps: see `standardize`.
    gain_init: initial value of the gains.
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
    shape = _kernel_shape(self, x)
    w = hk.get_parameter('w', shape, init=normal_fan_in(1.0))
    bias_name = 'b' if _is_folded.get() else 'bias'
    bias = hk.get_parameter(bias_name, (self.channels,), init=jnp.zeros)
    if not _is_folded.get():
      init = hk.initializers.Constant(self.gain_init)
      gain = hk.get_parameter('gain', (self.channels,), init=init)
      w = standardize(w, gain, self.eps, x.dtype)
    out = conv2d(x, w, self.stride, self.groups, self.padding)
    return out + bias.astype(x.dtype)[None, None, None]


@dataclasses.dataclass(eq=False)
class Conv2D(hk.Module):
  """Plain convolution, with He's initialization unless given another."""

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
    shape = _kernel_shape(self, x)
    w_init = self.w_init or normal_fan_in(2.0)
    w = hk.get_parameter('w', shape, init=w_init)
    out = conv2d(x, w, self.stride, self.groups, self.padding)
    if self.with_bias:
      b = hk.get_parameter('b', (self.channels,), init=jnp.zeros)
      out = out + b.astype(x.dtype)[None, None, None]
    return out


def standardize(
  w: jax.Array,
  gain: jax.Array,
  eps: str = 'published',
  dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
  """Scaled Weight Standardization, with statistics in float32 (B, equation 1).

  Args:
    w: `[kh, kw, C / groups, O]`.
    gain: `[O]`.
    eps: keeps a vanishing variance from dividing by 0, with
      N = kh kw C / groups: 'published' is gain / sqrt(max(var N, 1e-4)), 'timm'
      is gain / sqrt((var + 1e-5) N).
    dtype: of the result, which is rounded only once, at the end.

  Returns:
    `[kh, kw, C / groups, O]`; each output has mean 0 and variance gain^2 / N.
  """
  check_choice('ws_eps', eps, WS_EPS)
  shape = w.shape
  # As a matrix, because XLA's CPU backend reduces gradients over leading axes
  # of size 1 ten times more slowly.
  w = w.reshape(-1, shape[-1])
  w = w.astype(jnp.promote_types(w.dtype, jnp.float32))
  # Without this shift, a large mean would cancel in the variance and cost
  # precision. The result doesn't depend on the row, nor does its gradient.
  w = w - lax.stop_gradient(w[:1])
  mean = jnp.mean(w, axis=0, keepdims=True)
  var = jnp.mean(w**2, axis=0, keepdims=True) - mean**2
  if eps == 'published':
    scale = lax.rsqrt(jnp.maximum(var * len(w), 1e-4))  # base.py:134
  else:
    scale = lax.rsqrt((var + 1e-5) * len(w))  # timm std_conv.py:222-231
  # Written out, so that the gradient sums cotangents before widening them: this
  # saves 2.5 % of the bytes of F0's step on a GPU (results/speed.md).
  slope = scale * gain[None]
  out = w * slope - mean * slope
  return _row_major(out.astype(dtype).reshape(shape))


def conv2d(
  images: jax.Array,
  weights: jax.Array,
  stride: int = 1,
  groups: int = 1,
  padding: str = 'same',
) -> jax.Array:
  """Convolves, in the form that is fast on the platform being traced for.

  XLA's CPU backend runs a 3x3 convolution of 6 groups of 128 channels on 12 x
  12 pixels at 48 GFLOP/s, and as six separate convolutions at 140; the gradient
  of the weights at 4 and at 74.

  Args:
    images: `[N, H, W, C]`.
    weights: `[kh, kw, C / groups, O]`.
    stride: in both directions.
    groups: number of groups that C and O are split into.
    padding: 'same' as in TensorFlow, or 'symmetric' as in PyTorch, where the
      strided windows of even sides start one pixel further up and left.

  Returns:
    `[N, ceil(H / stride), ceil(W / stride), O]`, in the type of the images.
  """
  weights = weights.astype(images.dtype)
  convolve = functools.partial(
    lax.conv_general_dilated,
    window_strides=(stride, stride),
    padding=window_pads(images, weights.shape[:2], stride, padding),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  if traced_platform() == 'cpu':
    # Narrower groups would make hundreds of tiny convolutions.
    if groups > 1 and weights.shape[2] >= 32:
      parts = zip(*(jnp.split(x, groups, -1) for x in (images, weights)))
      return jnp.concatenate([convolve(*part) for part in parts], -1)
    if groups == 1 and weights.shape[:2] == (1, 1):
      return images[:, ::stride, ::stride] @ weights[0, 0]
  return convolve(images, weights, feature_group_count=groups)


def window_pads(
  images: jax.Array, window: Sequence[int], stride: int, padding: str
) -> list[tuple[int, int]]:
  """The padding before and after height, and before and after width."""
  pads = []
  for side, size in zip(images.shape[1:3], window):
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    before = size // 2 if padding == 'symmetric' else total // 2
    pads.append((before, total - before))
  return pads


@contextlib.contextmanager
def folded(is_folded: bool = True) -> Iterator[None]:
  """Networks inside the block use weights made by `nfnets.weights.fold`.

  `WSConv2D` then takes 'w', already standardized, and 'b' instead of 'w',
  'gain' and 'bias'. For inference only.
  """
  token = _is_folded.set(is_folded)
  try:
    yield
  finally:
    _is_folded.reset(token)


@dataclasses.dataclass(eq=False)
class Linear(hk.Module):
  """Linear layer in the type of its input, by default initialized as Haiku's.

  With 0 features, for a network without a head, it returns its input.
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

  Each device uses its own statistics, as published, unless `cross_replica_axis`
  names a mapped axis to average them over.
  """

  def __init__(
    self, cross_replica_axis: str | None = None, name: str | None = None
  ) -> None:
    axis = cross_replica_axis
    super().__init__(True, True, 0.9, 1e-5, cross_replica_axis=axis, name=name)

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Normalizes `[N, H, W, C]` per channel."""
    return super().__call__(x.astype(jnp.float32), is_training).astype(x.dtype)


@dataclasses.dataclass(eq=False)
class SqueezeExcite(hk.Module):
  """A gate for each image and channel (Hu et al., arXiv 1709.01507).

  Args:
    channels: C.
    ratio: hidden units as a share of C.
    activation: between the two linear layers; plain ReLU as published.
    divisor: round the hidden units to a multiple of it; 1 truncates.
  """

  channels: int
  ratio: float
  activation: activations.Activation = jax.nn.relu
  divisor: int = 1
  name: str = 'squeeze_excite'

  def __post_init__(self) -> None:
    super().__post_init__()
    divisor = self.divisor
    hidden = int(self.channels * self.ratio + divisor // 2) // divisor * divisor
    self.linear = Linear(max(divisor, hidden), name='linear')
    self.linear_1 = Linear(self.channels, name='linear_1')

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, C]` to a gate `[N, 1, 1, C]` with entries in (0, 1)."""
    squeezed = jnp.mean(x, axis=(1, 2))
    gate = self.linear_1(self.activation(self.linear(squeezed)))
    return jax.nn.sigmoid(gate)[:, None, None]


@dataclasses.dataclass(eq=False)
class EfficientChannelAttention(hk.Module):
  """A gate from neighbouring channels (Wang et al., arXiv 1910.03151, eq. 12).

  A kernel of k weights slides over the pooled channels; k is (log2(C) + 1) / 2
  truncated, plus 1 if that is even.
  """

  channels: int
  name: str = 'channel_attention'

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, C]` to a gate `[N, 1, 1, C]` with entries in (0, 1)."""
    kernel = int(math.log2(self.channels) / 2 + 0.5) | 1
    squeezed = jnp.mean(x, axis=(1, 2))
    w = hk.get_parameter('w', (kernel, 1, 1), init=normal_fan_in(1.0))
    gate = conv2d(squeezed[:, None, :, None], w[None])
    return jax.nn.sigmoid(gate.reshape(x.shape[0], 1, 1, x.shape[3]))


def attention(
  kind: str,
  se_ratio: float,
  se_activation: str,
  activation: activations.Activation,
  divisor: int = 1,
) -> Callable[[int], hk.Module | None]:
  """Returns a function that makes the gate for a number of channels, or None.

  A gate maps `[N, H, W, C]` to a factor of any shape that broadcasts to it.

  Args:
    kind: 'se' (squeeze-excite), 'eca' (efficient channel attention) or 'none'.
    se_ratio: hidden units of squeeze-excite as a share of the channels.
    se_activation: of squeeze-excite: 'relu' as released, 'network' for the
      network's own as in paper A's appendix C, or any other name.
    activation: the network's own.
    divisor: see `SqueezeExcite`.

  Raises:
    ValueError: if the kind is unknown.
  """
  check_choice('attention', kind, ('se', 'eca', 'none'))
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
  """The learned scalar of a branch (SkipInit), `[]`, in the calling module."""
  if not callable(init):
    init = hk.initializers.Constant(init)
  return hk.get_parameter('skip_gain', (), jnp.float32, init)


def stoch_depth(
  branch: jax.Array,
  rate: float | jax.Array,
  key: jax.Array | None,
  is_training: bool,
) -> jax.Array:
  """Drops each image's whole branch with probability `rate`.

  As published, and unlike in EfficientNet, the branches that are kept aren't
  divided by 1 - rate.

  Args:
    branch: `[N, H, W, C]`, or its factor, such as `[N, 1, 1, C]`.
    rate: 0 draws no random numbers.
    key: of this block; may be None if no random numbers are drawn.
    is_training: False returns the branch unchanged.
  """
  if not _draws('stochdepth_rate', rate, key, is_training):
    return branch
  keep = jax.random.bernoulli(key, 1 - rate, (branch.shape[0], 1, 1, 1))
  return branch * keep.astype(branch.dtype)


def dropout(
  x: jax.Array, rate: float, key: jax.Array | None, is_training: bool
) -> jax.Array:
  """Zeroes entries with probability `rate` and divides the rest by 1 - rate."""
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
      f'training with {name} draws random numbers: pass a key, or create the '
      f'network with {name}=0.'
    )
  return True


def normal_fan_in(scale: float) -> Initializer:
  """N(0, scale / fan_in)."""
  return hk.initializers.VarianceScaling(scale, 'fan_in', 'normal')


def truncated_fan_in(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
  """N(0, 1 / fan_in) truncated at two standard deviations, not rescaled.

  Haiku's default, and so that of the published networks' plain layers; the
  actual std is 0.88 / sqrt(fan_in).
  """
  std = 1 / math.sqrt(math.prod(shape[:-1]))
  return hk.initializers.TruncatedNormal(std)(shape, dtype)


_CONV_INITS = {
  'he': normal_fan_in(2.0),
  'lecun': normal_fan_in(1.0),
  'truncated': truncated_fan_in,
}


def _kernel_shape(conv: hk.Module, x: jax.Array) -> tuple[int, int, int, int]:
  groups, in_channels = conv.groups, x.shape[-1]
  if min(groups, in_channels, conv.channels) < 1:
    raise ValueError(
      f'{conv.name}: groups={groups}, {in_channels} input and {conv.channels} '
      'output channels must all be at least 1: take larger widths (or width, '
      'expansion), or a smaller group_size.'
    )
  if in_channels % groups or conv.channels % groups:
    raise ValueError(
      f'{conv.name}: groups={groups} must divide both its {in_channels} input '
      f'and its {conv.channels} output channels.'
    )
  return (conv.kernel, conv.kernel, in_channels // groups, conv.channels)


def _row_major(x: jax.Array) -> jax.Array:
  """Constrains x to row-major layout on accelerators.

  Convolutions there take their weights and return the gradient in another
  layout. Without the constraint XLA propagates that layout to float32 arrays:
  it transposes the parameters before standardizing them, and both parameters
  and momentum for the update, which then can't be done in place. With it, XLA
  transposes the rounded weights and the gradient before it is widened.
  """
  if traced_platform() == 'cpu':
    return x
  order = layout.Layout(tuple(range(x.ndim)))
  return layout.with_layout_constraint(x, order)
