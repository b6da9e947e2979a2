"""How a signal's mean and variance travel through a network's blocks.

Paper B, section 3: at initialization a branch of a normalizer-free network has
variance 1, so the variance before block j of a stage is 1 + alpha^2 j.
"""

import dataclasses
from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import models, variants

Build = Callable[[], hk.Module]


@dataclasses.dataclass(frozen=True)
class Signal:
  """What one block makes of random input.

  Attributes:
    block: the block's module path.
    stage: from 1.
    position: of the block in its stage, from 0.
    squared_mean: mean over channels of the output's squared channel mean.
    variance: mean over channels of the output's channel variance.
    branch_variance: the same of the residual branch before stochastic depth,
      gain and alpha.
    expected_variance: of the block's output by the analytic recursion; None for
      a network without one.
    is_projected: whether the shortcut is a convolution.
    alpha: of the block; None without one.
  """

  block: str
  stage: int
  position: int
  squared_mean: float
  variance: float
  branch_variance: float
  expected_variance: float | None
  is_projected: bool
  alpha: float | None


def measure(
  network: str | Build, key: jax.Array, images: jax.Array, **overrides: object
) -> list[Signal]:
  """Sends images through a freshly initialized network, in training mode.

  Skip gains start at 1 (or the signal would see no branch), and nothing is
  dropped, unless overridden.

  Args:
    network: a key of `variants.ALL`, or a function that builds a module whose
      `blocks` are lists of modules with a method `branch`, and perhaps a method
      `gate`, whose result multiplies the branch it is given.
    key: of the initialization.
    images: `[N, H, W, 3]`, such as a unit normal's.
    **overrides: arguments of the named family's network.

  Returns:
    One `Signal` per block.
  """
  build = _builder(network, overrides)

  def record(rows, call, args, kwargs, context):  # noqa: ANN001, ANN202
    out = call(*args, **kwargs)
    if context.method_name in _BRANCH:
      branch = _branch_so_far(rows, out, args, context)
      rows[-1]['branch_variance'] = _moments(branch)[1]
    elif _is_block(context):
      rows[-1]['squared_mean'], rows[-1]['variance'] = _moments(out)
    return out

  rows, places = _run(build, key, images, record)
  return [
    Signal(**place, **jax.tree.map(float, row))
    for row, place in zip(rows, places, strict=True)
  ]


def measure_noise(
  name: str, seed: int, batch_size: int, image_size: int, **overrides: object
) -> list[Signal]:
  """`measure` on a unit normal's images of `image_size` pixels a side."""
  image_key, init_key = jax.random.split(jax.random.key(seed))
  shape = (batch_size, image_size, image_size, 3)
  images = jax.random.normal(image_key, shape)
  return measure(name, init_key, images, **overrides)


def check_contract(
  network: str | Build,
  key: jax.Array,
  tolerance: float = 0.25,
  **overrides: object,
) -> None:
  """Checks that every block keeps what paper B's section 3 asks of it.

  Each block is given N(0, expected_std^2) of 2 x 16 x 16 pixels, so that one
  block's fault isn't the next one's. Its branch then has variance 1; and its
  output, where the shortcut is the identity, the variance of its input plus
  alpha^2. Borders, where windows hang over the edge, aren't looked at.

  Args:
    network: as in `measure`, normalizer-free.
    key: of the initialization and the blocks' inputs.
    tolerance: of a branch's variance.
    **overrides: arguments of the named family's network.

  Raises:
    ValueError: naming the first block that breaks the contract, with numbers.
  """
  build = _builder(network, overrides)

  def replace(rows, call, args, kwargs, context):  # noqa: ANN001, ANN202
    if context.method_name in _BRANCH:
      out = call(*args, **kwargs)
      branch = _branch_so_far(rows, out, args, context)
      rows[-1]['branch'] = _moments(_inside(branch))[1]
      return out
    if not _is_block(context):
      return call(*args, **kwargs)
    shape = (2, 16, 16, args[0].shape[-1])
    x = jax.random.normal(jax.random.fold_in(key, len(rows)), shape)
    x = x * kwargs.get('expected_std', 1.0)
    out = call(x, *args[1:], **kwargs)
    rows[-1]['input'] = _moments(_inside(x))[1]
    rows[-1]['output'] = _moments(_inside(out))[1]
    return out

  images = jnp.zeros((1, 32, 32, 3))
  rows, places = _run(build, key, images, replace)
  for row, place in zip(jax.tree.map(float, rows), places, strict=True):
    _check_block(row, place, tolerance)


def _check_block(row: dict, place: dict, tolerance: float) -> None:
  where = (
    f'{place["block"]} (stage {place["stage"]}, block {place["position"]})'
  )
  if not abs(row['branch'] - 1) <= tolerance:
    raise ValueError(
      f'{where}: its branch has variance {row["branch"]:.3g} on an input of '
      f'variance {row["input"]:.3g}, not 1 within {tolerance:g}; scaled weight '
      'standardization and gamma-scaled activations keep it there.'
    )
  if place['is_projected'] or place['alpha'] is None:
    return
  want = row['input'] + place['alpha'] ** 2 * row['branch']
  if not abs(row['output'] - want) <= 0.05 * want:
    raise ValueError(
      f'{where}: its output has variance {row["output"]:.3g} where its input '
      f'and alpha = {place["alpha"]:g} make {want:.3g}; add alpha times the '
      'branch to the unchanged input.'
    )


def _builder(network: str | Build, overrides: dict) -> Build:
  if callable(network):
    return network
  cls, row = models.network_class(network), variants.find(network)
  overrides = {'stochdepth_rate': 0.0, 'drop_rate': 0.0, **overrides}
  if network in variants.NFNET | variants.NF_RESNET | variants.NF_REGNET:
    overrides = {'skipinit_gain': 1.0, **overrides}
  if network in variants.SKIPINIT_RESNET or overrides.get('normalizer') == 'nf':
    overrides = {'skipinit_gain': 1.0, **overrides}
  models.create(network, 2, **overrides)
  return lambda: cls(2, row, **overrides)


def _run(
  build: Build, key: jax.Array, images: jax.Array, interceptor: Callable
) -> tuple[list[dict], list[dict]]:
  """Returns what the interceptor noted of each block, and their places."""
  rows, places = [], []

  def forward(images: jax.Array) -> None:
    net = build()
    places.extend(_places(net))
    note = lambda *args: interceptor(rows, *args)
    with hk.intercept_methods(note):
      net(images, True)

  # Not compiled as a whole: a stage's equal blocks share what each operation
  # compiles to, and 200 blocks in one program take minutes.
  hk.transform_with_state(forward).init(key, images)
  return rows, places


def _places(net: hk.Module) -> list[dict]:
  places = []
  for stage, (blocks, rows) in enumerate(zip(net.blocks, net.numbers), start=1):
    for position, (block, row) in enumerate(zip(blocks, rows, strict=True)):
      alpha = getattr(block, 'alpha', None)
      expected = None
      if 'expected_std' in row:
        # A projection of the normalized input starts again from 1.
        before = 1.0 if position == 0 else row['expected_std'] ** 2
        expected = before + alpha**2
      places.append(
        {
          'block': block.module_name,
          'stage': stage,
          'position': position,
          'expected_variance': expected,
          'is_projected': getattr(block, 'conv_shortcut', None) is not None,
          'alpha': alpha,
        }
      )
  return places


_BRANCH = ('branch', 'gate')  # in the order of their calls


def _branch_so_far(
  rows: list[dict], out: jax.Array, args: tuple, context: hk.MethodContext
) -> jax.Array:
  """The branch so far, of one of its methods; the first begins a row."""
  if context.method_name == 'gate':
    return args[0] * out
  rows.append({})
  return out


def _is_block(context: hk.MethodContext) -> bool:
  return context.method_name == '__call__' and hasattr(context.module, 'branch')


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  x = x.astype(jnp.float32)
  mean = jnp.mean(x, axis=(0, 1, 2))
  return jnp.mean(mean**2), jnp.mean(jnp.var(x, axis=(0, 1, 2)))


def _inside(x: jax.Array) -> jax.Array:
  """Without the two outer rows and columns, where there are enough."""
  cut = 2 if min(x.shape[1:3]) > 6 else 0
  return x[:, cut : x.shape[1] - cut, cut : x.shape[2] - cut]
