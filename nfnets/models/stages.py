"""Builds and runs a network's blocks; what every family does alike."""

import math
from collections.abc import Callable, Sequence

import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

from nfnets import stacks
from nfnets.models import layers

Blocks = list[list[hk.Module]]
Numbers = list[list[dict[str, float]]]


def build(
  block: Callable[[int, int, int], hk.Module],
  depths: Sequence[int],
  widths: Sequence[int],
  channels: int,
  strides: Sequence[int],
) -> Blocks:
  """Makes each stage's blocks, in the calling module's `__init__`.

  Args:
    block: `block(in_channels, out_channels, stride)`.
    depths: blocks per stage.
    widths: output channels per stage.
    channels: the first block's input channels.
    strides: of each stage's first block.
  """
  blocks = []
  for depth, width, stride in zip(depths, widths, strides, strict=True):
    stage = [block(channels, width, stride)]
    stage += [block(width, width, 1) for _ in range(depth - 1)]
    blocks.append(stage)
    channels = width
  return blocks


def numbers(
  depths: Sequence[int], stochdepth_rate: float, alpha: float | None = None
) -> Numbers:
  """The numbers that each block's call takes by name, stage by stage.

  Args:
    depths: blocks per stage.
    stochdepth_rate: that stochastic depth's ramp, rate * index / num_blocks,
      would reach one block after the last (nfnet.py:97).
    alpha: None where blocks don't divide by an expected std.
  """
  total = sum(depths)
  index = 0
  result = []
  stds = None if alpha is None else expected_stds(depths, alpha)
  for stage, depth in enumerate(depths):
    rows = []
    for position in range(depth):
      row = {'stochdepth_rate': stochdepth_rate * index / total}
      if stds is not None:
        row['expected_std'] = stds[stage][position]
      rows.append(row)
      index += 1
    result.append(rows)
  return result


def expected_stds(depths: tuple[int, ...], alpha: float) -> list[list[float]]:
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


def run(
  blocks: Blocks,
  numbers: Numbers,
  x: jax.Array,
  key: jax.Array | None,
  is_training: bool,
  remat: bool,
  scan: bool = False,
) -> tuple[jax.Array, list[jax.Array]]:
  """Runs blocks in order, each with a key folded from its index.

  Args:
    blocks: as `build` made them.
    numbers: as `numbers` made them.
    x: `[N, H, W, C]`.
    key: of this pass; None where nothing draws.
    is_training: whether the network trains.
    remat: recompute each block's inside in the backward pass.
    scan: compile a stage's equal blocks once, those behind its first, and loop
      over them with stacked parameters. The loop keeps all that the backward
      pass reads, where blocks in a row recompute what is cheap: take remat too
      where memory is short.

  Returns:
    The last output and every stage's output, `[N, H', W', C']`.

  Raises:
    ValueError: scan, of blocks that keep a state.
  """
  outputs = []
  index = 0
  for stage_blocks, rows in zip(blocks, numbers, strict=True):
    loops = scan and not hk.running_init()
    equal = stacks.equal(stage_blocks) if loops else []
    unrolled = len(stage_blocks) - len(equal)
    for block, row in zip(stage_blocks[:unrolled], rows):
      x = _call(block, row, x, fold_in(key, index), is_training, remat)
      index += 1
    if equal:
      x = _scan(equal, rows[unrolled:], x, key, index, is_training, remat)
      index += len(equal)
    outputs.append(x)
  return x, outputs


def classify(
  x: jax.Array,
  linear: hk.Module,
  drop_rate: float,
  key: jax.Array | None,
  is_training: bool,
) -> dict[str, jax.Array]:
  """Mean pool, dropout and the head.

  Args:
    x: `[N, H, W, C]`, activated.
    linear: the head.
    drop_rate: of the pooled features.
    key: None where nothing draws.
    is_training: whether dropout applies.

  Returns:
    'pool' `[N, C]` and 'logits' `[N, K]`, the logits float32.
  """
  pool = jnp.mean(x, axis=(1, 2))
  logits = linear(layers.dropout(pool, drop_rate, key, is_training))
  return {'logits': logits.astype(jnp.float32), 'pool': pool}


def max_pool(x: jax.Array, padding: str = 'same') -> jax.Array:
  """3x3 maximum at stride 2 of `[N, H, W, C]`; padding as in `WSConv2D`."""
  pads = layers.window_pads(x, (3, 3), (2, 2), padding)
  return lax.reduce_window(
    x,
    -jnp.inf,
    lax.max,
    (1, 3, 3, 1),
    (1, 2, 2, 1),
    ((0, 0), *pads, (0, 0)),
  )


def avg_pool(x: jax.Array) -> jax.Array:
  """2x2 mean at stride 2 over the pixels there are, of `[N, H, W, C]`."""
  return hk.avg_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME')


def with_strides(
  outputs: Sequence[jax.Array], first: int
) -> dict[int, jax.Array]:
  """Stage outputs by their stride, which doubles from `first` on."""
  return {first * 2**index: output for index, output in enumerate(outputs)}


def fold_in(key: jax.Array | None, index: int | jax.Array) -> jax.Array | None:
  """A key that depends on the index alone, never on the order of calls."""
  return None if key is None else jax.random.fold_in(key, index)


def _call(
  block: hk.Module,
  row: dict[str, float],
  x: jax.Array,
  key: jax.Array | None,
  is_training: bool,
  remat: bool,
) -> jax.Array:
  def call(x: jax.Array, key: jax.Array | None) -> jax.Array:
    return block(x, is_training, key, **row)

  return hk.remat(call)(x, key) if remat else call(x, key)


def _scan(
  blocks: list[hk.Module],
  rows: list[dict[str, float]],
  x: jax.Array,
  key: jax.Array | None,
  first: int,
  is_training: bool,
  remat: bool,
) -> jax.Array:
  """Runs equal blocks, the first of them the network's `first`, as one loop.

  The first block runs in every turn, and whatever parameter it gets is the
  turn's own. Parameters come stacked (`stacks.stack`) or are stacked here.
  """
  names = [block.module_name for block in blocks]
  homes = *names, stacks.name(names)
  state = hk.get_current_state()
  if any(stacks.within(path, home) for path in state for home in homes):
    raise ValueError(
      'scan=True loops over blocks without state: batch normalization keeps '
      'one, take scan=False'
    )
  template = blocks[0]
  stacked = stacks.of(hk.get_params(), names)
  # A number that all blocks share stays a constant: a rate of 0 draws nothing.
  constants, varying = {}, {}
  for name, value in rows[0].items():
    values = [row[name] for row in rows]
    if len(set(values)) == 1:
      constants[name] = value
    else:
      varying[name] = jnp.asarray(values, jnp.float32)

  def call(x: jax.Array, turn: tuple) -> jax.Array:
    params, row, index = turn
    if 'expected_std' in row:  # as a Python number would: x keeps its type
      row = row | {'expected_std': row['expected_std'].astype(x.dtype)}

    def getter(next_getter, value, context):  # noqa: ANN001, ANN202
      path = context.module_name.removeprefix(template.module_name)
      return next_getter(params[path][context.name])

    def creator(next_creator, shape, dtype, init, context):  # noqa: ANN001, ANN202
      return hk.experimental.DO_NOT_STORE  # the getter has it

    with hk.custom_creator(creator), hk.custom_getter(getter):
      return template(x, is_training, fold_in(key, index), **constants, **row)

  step = jax.checkpoint(call) if remat else call
  turns = stacked, varying, jnp.arange(first, first + len(blocks))
  x, _ = jax.lax.scan(lambda x, turn: (step(x, turn), None), x, turns)
  return x
