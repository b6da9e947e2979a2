"""Shared by all families: stages of residual blocks, and the head."""

import itertools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence

import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

from nfnets.models import layers


class Stages:
  """The residual blocks of a network, created in its `__post_init__`.

  A block is called as `block(x, is_training, key, stochdepth_rate)`, and also
  with `expected_std` if there is an alpha. Its random numbers come only from
  its key, into which its index is folded.

  Args:
    block: makes a block: `block(in_channels, out_channels, stride, name=...)`.
    variant: provides `depths`, `widths`, `stochdepth_rate`, `remat` (recompute
      each block in the backward pass) and `scan`. With `scan`, all blocks of a
      stage but its first are compiled once, as a loop over stacked parameters
      (see `members`); parameters at the public paths still run unrolled.
      Combine it with `remat` to save memory.
    channels: of the stem's output.
    strides: of each stage's first block.
    stem_stride: of the stem.
    alpha: None if blocks don't divide by an expected std.

  Attributes:
    blocks: a list of blocks for each stage.
    numbers: stochastic depth rate and expected std of each block, as keyword
      arguments.
    strides: of each stage's output, relative to the image.
  """

  def __init__(
    self,
    block: Callable[..., hk.Module],
    variant: Mapping,
    channels: int,
    strides: Sequence[int],
    stem_stride: int,
    alpha: float | None = None,
  ) -> None:
    depths, widths = variant['depths'], variant['widths']
    if len(widths) != len(depths) or len(strides) != len(depths):
      raise ValueError(
        f'widths={widths}, depths={depths}: give one width and one depth for '
        f'each of the {len(strides)} stages.'
      )
    self.make = block
    self.remat = variant.get('remat', False)
    self.scan = variant.get('scan', False)
    strides_so_far = itertools.accumulate(strides, operator.mul)
    self.strides = [stem_stride * stride for stride in strides_so_far]
    self.blocks = []
    for depth, width, stride in zip(depths, widths, strides):
      stage = [block(channels, width, stride)]
      stage += [block(width, width, 1) for _ in range(depth - 1)]
      self.blocks.append(stage)
      channels = width
    self.numbers = block_numbers(depths, variant['stochdepth_rate'], alpha)

  def __call__(
    self, x: jax.Array, key: jax.Array | None, is_training: bool
  ) -> tuple[jax.Array, dict[int, jax.Array]]:
    """Runs all blocks.

    Args:
      x: the stem's output, `[N, H, W, C]`.
      key: of this pass; may be None if no random numbers are drawn.
      is_training: whether this is a training step.

    Returns:
      The last output, and a dictionary from stride to each stage's output.
    """
    features, index = {}, 0
    for stage, rows, stride in zip(self.blocks, self.numbers, self.strides):
      unrolled = 1 if self._loops_over(stage) else len(stage)
      for block, row in zip(stage[:unrolled], rows):
        x = self._call(block, row, x, fold_in(key, index), is_training)
        index += 1
      if unrolled < len(stage):
        x = self._loop(rows[unrolled:], x, key, index, is_training)
        index += len(rows) - unrolled
      features[stride] = x
    return x, features

  def _loops_over(self, stage: list[hk.Module]) -> bool:
    if not self.scan or len(stage) <= 2:
      return False
    # Parameters given at the public paths run unrolled.
    own = stage[1].module_name
    return not any(f'{path}/'.startswith(f'{own}/') for path in hk.get_params())

  def _call(
    self,
    block: hk.Module,
    row: dict,
    x: jax.Array,
    key: jax.Array | None,
    is_training: bool,
  ) -> jax.Array:
    call = lambda x, key: block(x, is_training, key, **row)
    return hk.remat(call)(x, key) if self.remat else call(x, key)

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
      block = self.make(channels, channels, 1, name=name)
      row = shared | row
      return self._call(block, row, x, fold_in(key, index), is_training), None

    last = first + len(rows) - 1
    stack = hk.layer_stack(
      len(rows), with_per_layer_inputs=True, name=f'stack_{first}_{last}'
    )
    return stack(body)(x, jnp.arange(first, last + 1), varying)[0]


def classify(
  net: hk.Module,
  x: jax.Array,
  key: jax.Array | None,
  is_training: bool,
  features: dict[int, jax.Array],
) -> dict:
  """Global average pooling, dropout and the head: what every network returns.

  Args:
    net: provides `linear`, the head from `[N, C]` to `[N, K]`, and `variant`
      with `drop_rate` and `features`.
    x: `[N, H, W, C]`, activated.
    key: of this pass; may be None if no random numbers are drawn.
    is_training: whether dropout applies.
    features: outputs of stem and stages by stride; the last is that of the
      final convolution if there is one, as in timm.

  Returns:
    'pool' `[N, C]` and 'logits' `[N, K]`, in float32; if the variant's
    `features` is set, also 'features', a dictionary from stride to
    `[N, H / stride, W / stride, C]`.
  """
  variant, pool = net.variant, jnp.mean(x, axis=(1, 2))
  key = fold_in(key, sum(variant['depths']))
  dropped = layers.dropout(pool, variant['drop_rate'], key, is_training)
  logits = net.linear(dropped)
  dtype = jnp.promote_types(logits.dtype, jnp.float32)
  result = {'logits': logits.astype(dtype), 'pool': pool}
  return result | ({'features': features} if variant.get('features') else {})


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
  pads = layers.window_pads(x, (3, 3), (2, 2), padding)
  pads = ((0, 0), *pads, (0, 0))
  window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
  return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)


def avg_pool(x: jax.Array) -> jax.Array:
  """2x2 average pooling of `[N, H, W, C]` at stride 2, ignoring padding."""
  return hk.avg_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME')


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
