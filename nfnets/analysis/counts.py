"""Parameters and multiply-adds of a network, without allocating a weight."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable

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
    blocks: how many residual blocks it has.
    output: `(H, W, C)` of its last convolution; `(K,)` of the head.
    params: number of parameters.
    macs: multiply-adds of its convolutions and linear layers, per image: what
      both papers call FLOPs.
    published_macs: the same as the released code counts them, with sides that
      halve exactly (33 pixels to 16.5); it differs where 32 doesn't divide the
      image's side, for NF-RegNet B2, B5, B6 and B7.
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
    image_size: pixels a side; None for the variant's evaluation size.
    num_classes: K; None for 10 of CIFAR's families and 1,000 of others.
    **overrides: arguments of the family's network.

  Raises:
    ValueError: as `models.create` does.
  """
  row = variants.find(name)
  if num_classes is None:
    num_classes = 10 if name in variants.CIFAR_RESNET else 1000
  models.create(name, num_classes, **overrides)
  row = row | models.shape_overrides(models.network_class(name), overrides)
  # All blocks of a stage but the first are equal: the second stands for them.
  short = tuple(min(depth, 2) for depth in row['depths'])
  image_size = image_size or row['eval_image_size']
  network = models.network_class(name)

  def forward(images: jax.Array) -> dict:
    net = network(num_classes, {**row, 'depths': short}, **quiet)
    return net(images, True)

  # Neither draws nor activations count; without them the trace is short.
  quiet = {**overrides, 'drop_rate': 0.0, 'stochdepth_rate': 0.0}
  if overrides.get('activation') != 'glu':
    quiet['activation'] = 'identity'
  params, calls = _trace(forward, image_size)
  blocks = [
    (stage, depth - 1 if position else 1)
    for stage, depth in enumerate(row['depths'])
    for position in range(min(depth, 2))
  ]
  totals = _totals(params, calls, blocks, len(short))
  names = ['stem', *(f'stage {s + 1}' for s in range(len(short))), 'head']
  depths = [0, *row['depths'], 0]
  return [
    Part(name=part, blocks=depth, **total)
    for part, depth, total in zip(names, depths, totals, strict=True)
  ]


def parameters(
  name: str, num_classes: int | None = None, **overrides: object
) -> int:
  """A network's number of parameters."""
  return sum(
    part.params for part in parts(name, None, num_classes, **overrides)
  )


def multiply_adds(
  name: str,
  image_size: int | None = None,
  num_classes: int | None = None,
  **overrides: object,
) -> int:
  """A network's multiply-adds for one image."""
  counted = parts(name, image_size, num_classes, **overrides)
  return sum(part.macs for part in counted)


def traced_depths(name: str, **overrides: object) -> list[int]:
  """Residual blocks of each stage, counted in an NFNet's own parameters.

  Its stages begin where a block's shortcut is a convolution.

  Args:
    name, **overrides: as for `parts`.
  """
  network = models.create(name, **overrides)
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  params, _ = jax.eval_shape(
    lambda key, images: network.init(key, images, True),
    jax.eval_shape(lambda: jax.random.key(0)),
    images,
  )
  places = [path.split('/~/')[1:] for path in params]
  blocks = {place[0] for place in places if place[0].startswith('nf_block')}
  begin = {place[0] for place in places if place[-1] == 'conv_shortcut'}
  number = lambda block: int((re.search(r'\d+$', block) or '0')[0])
  found: list[int] = []
  for block in sorted(blocks, key=number):
    if block in begin:
      found.append(0)
    found[-1] += 1
  return found


def _trace(forward: functools.partial, image_size: int) -> tuple[dict, list]:
  """Returns shapes of parameters, and (module, output, macs) of each layer."""
  calls = []

  def record(call, args, kwargs, context):  # noqa: ANN001, ANN202
    out = call(*args, **kwargs)
    module = context.module
    if isinstance(module, _COUNTED) and context.method_name == '__call__':
      macs = _macs(module, args, out)
      exact = macs * _fraction(out.shape[1:], image_size)
      calls.append((module.module_name, out.shape[1:], macs, exact))
    return out

  def init(images: jax.Array) -> dict:
    zeros = lambda create, shape, dtype, init, context: create(
      shape, dtype, jnp.zeros
    )
    with hk.custom_creator(zeros), hk.intercept_methods(record):
      return forward(images)

  images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
  net = hk.transform_with_state(init)
  params, _ = jax.eval_shape(functools.partial(net.init, None), images)
  return params, calls


def _macs(module: hk.Module, args: tuple, out: jax.Array) -> int:
  if isinstance(module, layers.Linear):
    return args[0].shape[-1] * out.shape[-1]
  fan_in = module.kernel**2 * args[0].shape[-1] // module.groups
  return fan_in * out.size


def _fraction(shape: tuple[int, ...], image_size: int) -> float:
  """A map's area where every stride halves exactly, as a share of its area."""
  if len(shape) < 3:
    return 1.0
  stride = 2 ** round(math.log2(image_size / shape[0]))
  return (image_size / stride) ** 2 / (shape[0] * shape[1])


def _totals(
  params: dict, calls: Iterable, blocks: list, num_stages: int
) -> list[dict]:
  totals = [
    {'params': 0, 'macs': 0, 'published_macs': 0.0, 'output': ()}
    for _ in range(num_stages + 2)
  ]
  for module, leaves in params.items():
    index, times = _place(module, blocks, num_stages)
    size = sum(leaf.size for leaf in leaves.values())
    totals[index]['params'] += times * size
  for module, shape, macs, published_macs in calls:
    index, times = _place(module, blocks, num_stages)
    totals[index]['macs'] += times * macs
    totals[index]['published_macs'] += times * published_macs
    if 'squeeze_excite' not in module:
      totals[index]['output'] = shape
  return totals


def _place(module: str, blocks: list, num_stages: int) -> tuple[int, int]:
  """A module's part, and how many equal ones it stands for."""
  component = module.split('/~/')[1] if '/~/' in module else ''
  if 'block' in component:
    number = re.search(r'_(\d+)$', component)
    stage, times = blocks[int(number[1]) if number else 0]
    return stage + 1, times
  if component.startswith(('stem', 'initial')):
    return 0, 1
  return num_stages + 1, 1
