"""The network that all families are: a stem, residual blocks, and a head."""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence

import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

from nfnets.models import layers

# A name to channels, kernel and, unless they are 1, stride and groups.
Convs = dict[str, tuple[int, ...]]


@dataclasses.dataclass(kw_only=True)
class Design:
  """What a network is made of.

  A block is called as `block(x, is_training, key, stochdepth_rate)`, and also
  with `expected_std` if there is an alpha. Its random numbers come only from
  its key, into which its index is folded.

  Attributes:
    parts: convolutions and activations outside blocks.
    stem: the stem's convolutions.
    block: makes a block: `block(in_channels, out_channels, stride, name=...)`.
    head_init: of the head's weights; None for `layers.Linear`'s own.
    widths: of the stages; None for the variant's.
    strides: of each stage's first block.
    alpha: None if blocks don't divide by an expected std.
    pooling: padding of the max pooling after the stem, see `layers.conv2d`;
      None for no pooling.
    final_channels: of a 1x1 convolution after the last stage; 0 for none.
    post_activation: activate the output of stem and blocks (blocks do so
      themselves) instead of their input.
    stem_features: whether feature maps include the stem's.
  """

  parts: layers.Parts
  stem: Convs
  block: Callable[..., hk.Module]
  head_init: layers.Initializer | None
  widths: Sequence[int] | None = None
  strides: Sequence[int] = (1, 2, 2, 2)
  alpha: float | None = None
  pooling: str | None = None
  final_channels: int = 0
  post_activation: bool = False
  stem_features: bool = True


@dataclasses.dataclass(eq=False)
class Network(hk.Module):
  """A stem, stages of residual blocks, and a head.

  A family is a dataclass that adds its arguments as fields, and a method
  `design` that returns a `Design`.

  Args:
    num_classes: K.
    variant: a row of the family's table in `variants` and what `models.create`
      adds: `depths`, `widths`, `drop_rate`, `stochdepth_rate`, `features` (also
      return feature maps), `remat` (recompute each block in the backward pass)
      and `scan`. With `scan`, all blocks of a stage but its first are compiled
      once, as a loop over stacked parameters (see `members`); parameters at the
      public paths still run unrolled. Combine it with `remat` to save memory.

  Attributes:
    blocks: a list of blocks for each stage.
    numbers: stochastic depth rate and expected std of each block, as keyword
      arguments.
  """

  num_classes: int
  variant: Mapping

  def __post_init__(self) -> None:
    super().__post_init__()
    self.made = made = self.design()  # the family's method
    parts = made.parts
    depths = self.variant['depths']
    widths = made.widths or self.variant['widths']
    if not len(widths) == len(depths) == len(made.strides):
      raise ValueError(
        f'widths={widths}, depths={depths}: give one width and one depth for '
        f'each of the {len(made.strides)} stages.'
      )
    self.stem_convs = [
      parts.conv(*sizes, name=name) for name, sizes in made.stem.items()
    ]
    # Without post-activation, the first block activates the stem's output.
    activated = list(made.stem)[: None if made.post_activation else -1]
    self.stem_activations = {
      name: parts.activate(name.replace('conv', 'bn')) for name in activated
    }
    channels, self.blocks = self.stem_convs[-1].channels, []
    for depth, width, stride in zip(depths, widths, made.strides):
      stage = [made.block(channels, width, stride)]
      stage += [made.block(width, width, 1) for _ in range(depth - 1)]
      self.blocks.append(stage)
      channels = width
    rate = self.variant['stochdepth_rate']
    self.numbers = block_numbers(depths, rate, made.alpha)
    if made.final_channels:
      self.final_conv = parts.conv(made.final_channels, 1, name='final_conv')
    if not made.post_activation:
      self.final_activation = parts.activate('final_bn')
    self.linear = layers.Linear(self.num_classes, made.head_init, name='linear')

  def __call__(self, images: jax.Array, is_training: bool) -> dict:
    """Classifies images.

    Args:
      images: `[N, H, W, 3]`; the computation uses their type.
      is_training: apply dropout and stochastic depth, use batch statistics.

    Returns:
      'pool' `[N, C]`, in the images' type, and 'logits' `[N, K]`, in float32;
      if the variant's `features` is set, also 'features', a dictionary from
      stride to `[N, H / stride, W / stride, C]`: the outputs of stem and stages
      (of the final convolution instead of the last stage, as in timm), which
      only networks with post-activation have activated.

    Raises:
      TypeError: if the images aren't floating-point numbers.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise TypeError(
        f'images are {images.dtype}, must be floats: subtract the mean and '
        'divide by the std, as in `config.data`'
      )
    key, variant = hk.maybe_next_rng_key(), self.variant
    x, features = self._stem_and_stages(images, key, is_training)
    if self.made.final_channels:
      x = self.final_conv(x)
      features[max(features)] = x
    if not self.made.post_activation:
      x = self.final_activation(x, is_training)
    pool = jnp.mean(x, axis=(1, 2))
    key = fold_in(key, sum(variant['depths']))
    dropped = layers.dropout(pool, variant['drop_rate'], key, is_training)
    logits = self.logits(dropped)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    result = {'logits': logits.astype(dtype), 'pool': pool}
    return result | ({'features': features} if variant.get('features') else {})

  def logits(self, pool: jax.Array) -> jax.Array:
    """The head, `[N, C]` to `[N, K]`."""
    return self.linear(pool)

  # Transparent methods, whose names aren't part of parameters' paths.
  @hk.transparent
  def _stem_and_stages(
    self, x: jax.Array, key: jax.Array | None, is_training: bool
  ) -> tuple[jax.Array, dict[int, jax.Array]]:
    """Returns the last stage's output, and each output by its stride."""
    features, index, stride = {}, 0, 1
    for conv in self.stem_convs:
      x = conv(x)
      stride *= conv.stride
      if self.made.stem_features:
        features[stride] = x
      if conv.name in self.stem_activations:
        x = self.stem_activations[conv.name](x, is_training)
    if self.made.pooling:
      x, stride = max_pool(x, self.made.pooling), 2 * stride
    for stage, rows, own_stride in zip(
      self.blocks, self.numbers, self.made.strides
    ):
      unrolled = 1 if self._loops_over(stage) else len(stage)
      for block, row in zip(stage[:unrolled], rows):
        x = self._call(block, row, x, fold_in(key, index), is_training)
        index += 1
      if unrolled < len(stage):
        x = self._loop(rows[unrolled:], x, key, index, is_training)
        index += len(rows) - unrolled
      stride *= own_stride
      features[stride] = x
    return x, features

  @hk.transparent
  def _loops_over(self, stage: list[hk.Module]) -> bool:
    if not self.variant.get('scan') or len(stage) <= 2:
      return False
    # Parameters given at the public paths run unrolled.
    own = stage[1].module_name
    return not any(f'{path}/'.startswith(f'{own}/') for path in hk.get_params())

  @hk.transparent
  def _call(
    self,
    block: hk.Module,
    row: dict,
    x: jax.Array,
    key: jax.Array | None,
    is_training: bool,
  ) -> jax.Array:
    call = lambda x, key: block(x, is_training, key, **row)
    return hk.remat(call)(x, key) if self.variant.get('remat') else call(x, key)

  @hk.transparent
  def _loop(
    self,
    rows: list[dict],
    x: jax.Array,
    key: jax.Array | None,
    first: int,
    is_training: bool,
  ) -> jax.Array:
    """Runs equal blocks as a loop; `first` is the index of the first one."""
    # Values that all blocks share stay numbers: a rate of 0 then draws nothing.
    shared = {k: v for k, v in rows[0].items() if all(r[k] == v for r in rows)}
    # In x's type, so that x keeps it, as with a Python number.
    dtypes = {'expected_std': x.dtype, 'stochdepth_rate': jnp.float32}
    varying = {
      k: jnp.asarray([row[k] for row in rows], dtypes[k])
      for k in rows[0].keys() - shared.keys()
    }
    channels, name = x.shape[-1], self.blocks[0][0].name

    def body(x: jax.Array, index: jax.Array, row: dict) -> tuple:
      block = self.made.block(channels, channels, 1, name=name)
      row = shared | row
      return self._call(block, row, x, fold_in(key, index), is_training), None

    last = first + len(rows) - 1
    stack = hk.layer_stack(
      len(rows), with_per_layer_inputs=True, name=f'stack_{first}_{last}'
    )
    return stack(body)(x, jnp.arange(first, last + 1), varying)[0]


def block_numbers(
  depths: Sequence[int], stochdepth_rate: float, alpha: float | None = None
) -> list[list[dict[str, float]]]:
  """Stochastic depth rate and expected std of each block, by stage.

  Args:
    depths: blocks per stage.
    stochdepth_rate: block i of n has this rate times i / n, so that a block
      after the last one would reach it (nfnet.py:97).
    alpha: None if blocks don't divide by an expected std.
  """
  index = itertools.count()
  numbers = []
  for stds in expected_stds(depths, alpha or 0.0):
    rates = [stochdepth_rate * next(index) / sum(depths) for _ in stds]
    rows = [{'stochdepth_rate': rate} for rate in rates]
    if alpha is not None:
      rows = [row | {'expected_std': std} for row, std in zip(rows, stds)]
    numbers.append(rows)
  return numbers


def expected_stds(depths: Sequence[int], alpha: float) -> list[list[float]]:
  """The std of each block's input, stage by stage (paper B, section 3).

  The variance starts at 1, and each block adds alpha^2. The first block of a
  stage resets it to 1 before adding, because its shortcut is a convolution of
  the normalized input.
  """
  stds, variance = [], 1.0
  for depth in depths:
    stage = []
    for index in range(depth):
      stage.append(math.sqrt(variance))
      variance = (1.0 if index == 0 else variance) + alpha**2
    stds.append(stage)
  return stds


def max_pool(x: jax.Array, padding: str = 'same') -> jax.Array:
  """3x3 max pooling of `[N, H, W, C]` at stride 2; padding as in `conv2d`."""
  pads = layers.window_pads(x, (3, 3), 2, padding)
  pads = ((0, 0), *pads, (0, 0))
  window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
  return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)


def fold_in(key: jax.Array | None, index: int | jax.Array) -> jax.Array | None:
  """A key that depends only on the index, not on the order of calls."""
  return None if key is None else jax.random.fold_in(key, index)


def is_stacked(path: str) -> bool:
  """Whether a module or leaf at this path stacks blocks, `[blocks, ...]`."""
  return _STACK.fullmatch(path) is not None


def members(path: str) -> list[str]:
  """The public paths of the blocks that a path stacks, or the path itself.

  `NFNet/stack_2_4/nf_block/~/conv0` stands for `NFNet/~/nf_block_2/~/conv0` to
  `NFNet/~/nf_block_4/~/conv0`.
  """
  found = _STACK.fullmatch(path)
  if found is None:
    return [path]
  rest = found['rest'] or ''
  indices = range(int(found['first']), int(found['last']) + 1)
  return [f'{found["root"]}~/{found["block"]}_{i}{rest}' for i in indices]


_STACK = re.compile(
  r'(?P<root>(?:.*/)?)stack_(?P<first>\d+)_(?P<last>\d+)/'
  r'(?P<block>[^/]+)(?P<rest>/.*)?'
)
