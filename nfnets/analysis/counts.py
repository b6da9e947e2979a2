"""Counts parameters and multiply-adds of a network from shapes alone."""

import collections
import dataclasses
import math
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import models, variants
from nfnets.models import layers

_COUNTED = (layers.WSConv2D, layers.Conv2D, layers.Linear)


@dataclasses.dataclass(frozen=True)
class Part:
  """The stem, one stage or the head.

  Attributes:
    name: 'stem', 'stage 1', ..., 'head'.
    blocks: number of residual blocks.
    output: `(H, W, C)` of the last block or convolution; `(K,)` of the head.
    params: number of parameters.
    macs: multiply-adds of convolutions and linear layers for one image, which
      both papers call FLOPs.
    published_macs: the same as the released code counts them, where each stride
      halves the side exactly (33 pixels to 16.5). It differs from `macs` where
      32 doesn't divide the image size: NF-RegNet B2, B5, B6 and B7.
  """

  name: str
  blocks: int
  output: tuple[int, ...]
  params: int
  macs: int
  published_macs: float


def parts(
  name: str,
  image_size: int | None = None,
  num_classes: int | None = None,
  **overrides: object,
) -> list[Part]:
  """Counts a network part by part.

  Args:
    name: a key of `variants.ALL`.
    image_size: pixels a side; None means the variant's evaluation size.
    num_classes: K; None means the variant's own.
    **overrides: of `models.create`, whose errors are raised too.
  """
  row = variants.find(name)
  image_size = image_size or row['eval_image_size']
  classes = num_classes or row.get('num_classes', 1000)
  # Neither changes the counts, and both hide the blocks.
  overrides |= {key: False for key in ('remat', 'scan') if key in overrides}
  return count(models.create(name, classes, **overrides), image_size)


def count(network: hk.TransformedWithState, image_size: int = 64) -> list[Part]:
  """Counts any network that is built from our layers.

  Args:
    network: as `models.create` returns it. Its blocks are the modules with a
      method `branch`; a stage begins where their output shape changes. What
      runs before the blocks is the stem, what runs after them the head. A
      network without blocks is all stem.
    image_size: pixels a side.
  """
  trace = _trace(network, image_size)
  stages, shape = [], None  # of each block, from 1
  for block in trace.blocks:
    stages.append((stages or [0])[-1] + (block != shape))
    shape = block
  head = max(stages, default=0) + 1
  part_of = {-1: 0, None: head} | dict(enumerate(stages))
  sums = [
    {'blocks': 0, 'output': (), 'params': 0, 'macs': 0, 'published_macs': 0.0}
    for _ in range(head + 1)
  ]
  for place, size in trace.params.items():
    sums[part_of[place]]['params'] += size
  for place, shape, macs in trace.layers:
    part = sums[part_of[place]]
    part['macs'] += macs
    part['published_macs'] += macs * _fraction(shape[1:], image_size)
    part['output'] = shape[1:]
  for stage, shape in zip(stages, trace.blocks, strict=True):
    sums[stage]['blocks'] += 1
    sums[stage]['output'] = shape[1:]
  names = ['stem', *(f'stage {n}' for n in range(1, head)), 'head']
  return [Part(name, **total) for name, total in zip(names, sums, strict=True)]


class _Trace(NamedTuple):
  """The module calls of a network, each with its place.

  A place is the index of the block that contains the call, -1 before the first
  block, and None elsewhere.

  Attributes:
    blocks: output shape `[N, H, W, C]` of each block.
    layers: place, output shape and multiply-adds of each counted layer.
    params: number of parameters by place.
  """

  blocks: list[tuple[int, ...]]
  layers: list[tuple[int | None, tuple[int, ...], int]]
  params: collections.Counter


def _trace(network: hk.TransformedWithState, image_size: int) -> _Trace:
  trace = _Trace([], [], collections.Counter())
  places: dict[str, int | None] = {}
  inside = False

  def record(
    call: Any, args: tuple, kwargs: dict, context: hk.MethodContext
  ) -> Any:
    nonlocal inside
    module = context.module
    if context.method_name != '__call__':
      return call(*args, **kwargs)
    # `inside`: a block's call may call that of its parent class.
    is_block = hasattr(module, 'branch') and not inside
    inside = inside or is_block
    block = len(trace.blocks) if inside else None
    out = call(*args, **kwargs)
    place = block if inside else None if trace.blocks else -1
    places[module.module_name] = place
    if is_block:
      inside = False
      trace.blocks.append(out.shape)
    if isinstance(module, _COUNTED):
      trace.layers.append((place, out.shape, _macs(module, args[0], out)))
    return out

  images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  with hk.intercept_methods(record):
    params, _ = jax.eval_shape(
      lambda key, images: network.init(key, images, True), key, images
    )
  for path, leaves in params.items():
    while path not in places:  # the module itself is never called
      path = path.rpartition('/')[0]
    trace.params[places[path]] += sum(leaf.size for leaf in leaves.values())
  return trace


def _macs(module: hk.Module, x: jax.Array, out: jax.Array) -> int:
  fan_in = x.shape[-1]
  if not isinstance(module, layers.Linear):
    fan_in = module.kernel**2 * fan_in // module.groups
  return fan_in * out.size


def _fraction(shape: tuple[int, ...], image_size: int) -> float:
  """Area of a feature map if strides halved exactly, over its true area."""
  if len(shape) < 3:
    return 1.0
  stride = 2 ** round(math.log2(image_size / shape[0]))
  return (image_size / stride) ** 2 / (shape[0] * shape[1])
