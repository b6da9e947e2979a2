"""What every family shares: stages of residual blocks and the head."""

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
  """Residual blocks, stage by stage, made in a network's `__init__`.

  A block is called as `block(x, is_training, key, stochdepth_rate)`, and with
  `expected_std` where there is an alpha. It draws from its key alone, which is
  folded from its index.

  Args:
    block: `block(in_channels, out_channels, stride)` makes a block, and takes
      `name`.
    variant: of which `depths`, `widths`, `stochdepth_rate`, `remat` (recompute
      each block in the backward pass) and `scan` are read. With `scan` a
      stage's blocks behind its first are compiled once and loop over stacked
      parameters, see `members`; those at the public paths are run unrolled.
      Take remat too where memory is short.
    channels: of the stem's output.
    strides: of each stage's first block.
    stem_stride: of the stem.
    alpha: None where blocks don't divide by an expected std.

  Attributes:
    blocks: a list for each stage.
    numbers: each block's drop rate and expected std, as keyword arguments.
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
    """`[N, H, W, C]` to the last output and every stage's, by its stride.

    Args:
      x: the stem's output.
      key: of this pass; None where nothing draws.
      is_training: whether the network trains.
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
    # Parameters at the public paths are run unrolled.
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
    """Runs equal blocks, the first of them the network's `first`, as a loop."""
    # What all blocks share stays a number: at a rate of 0 nothing is drawn.
    shared = {k: v for k, v in rows[0].items() if all(r[k] == v for r in rows)}
    # Of x's type, as a Python number would be: x keeps it.
    dtypes = {'expected_std': x.dtype, 'stochdepth_rate': jnp.float32}
    varying = {
      k: jnp.asarray([row[k] for row in rows], dtypes[k])
      for k in rows[0].keys() - shared.keys()
    }
    channels, name = x.shape[-1], self.blocks[0][0].name

    def turn(x: jax.Array, index: jax.Array, row: dict) -> tuple:
      block = self.make(channels, channels, 1, name=name)
      row = shared | row
      return self._call(block, row, x, fold_in(key, index), is_training), None

    last = first + len(rows) - 1
    stack = hk.layer_stack(
      len(rows), with_per_layer_inputs=True, name=f'stack_{first}_{last}'
    )
    return stack(turn)(x, jnp.arange(first, last + 1), varying)[0]


def classify(
  net: hk.Module,
  x: jax.Array,
  key: jax.Array | None,
  is_training: bool,
  features: dict[int, jax.Array],
) -> dict:
  """Mean pool, dropout and the head: what every network returns.

  Args:
    net: of which `linear`, the head from `[N, C]` to `[N, K]`, is called, and
      `variant`'s `drop_rate` and `features` are read.
    x: `[N, H, W, C]`, activated.
    key: of this pass; None where nothing draws.
    is_training: whether dropout applies.
    features: of the stem and the stages, by stride; the last is the final
      convolution's output where there is one, as in timm.

  Returns:
    'pool' `[N, C]` and 'logits' `[N, K]`, the logits float32; where the variant
    asks for them, 'features': stride to feature map
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
  """Per-block drop rates and expected standard deviations, stage by stage.

  Args:
    depths: blocks per stage.
    stochdepth_rate: that stochastic depth's ramp, rate * index / num_blocks,
      would reach one block after the last (nfnet.py:97).
    alpha: None where blocks don't divide by an expected std.
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
  """The standard deviation of each block's input (paper B, section 3).

  It starts at 1; a block adds alpha^2 to the variance, and the first block of a
  stage, whose shortcut is a convolution of the normalized input, sets it to 1
  before adding.

  Returns:
    One list per stage, one number per block.
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
  """3x3 maximum at stride 2 of `[N, H, W, C]`; padding as in `conv2d`."""
  pads = layers.window_pads(x, (3, 3), (2, 2), padding)
  pads = ((0, 0), *pads, (0, 0))
  window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
  return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)


def avg_pool(x: jax.Array) -> jax.Array:
  """2x2 mean at stride 2 over the pixels there are, of `[N, H, W, C]`."""
  return hk.avg_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME')


def fold_in(key: jax.Array | None, index: int | jax.Array) -> jax.Array | None:
  """A key that depends on the index alone, never on the order of calls."""
  return None if key is None else jax.random.fold_in(key, index)


def is_stacked(path: str) -> bool:
  """Whether the leaves of a module hold several blocks', `[blocks, ...]`.

  Args:
    path: of a module or of one of its leaves.
  """
  return _STACK.fullmatch(path) is not None


def members(path: str) -> list[str]:
  """The public paths that a path stands for: a stack's blocks', or itself.

  `NFNet/stack_2_4/nf_block/~/conv0` holds `NFNet/~/nf_block_2/~/conv0` to
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
