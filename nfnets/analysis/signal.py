"""How a signal's mean and variance travel through a network's blocks.

Paper B, section 3: at initialization a branch of a normalizer-free network has
variance 1, so the variance before block j of a stage is 1 + alpha^2 j.

A block is a module with a method `branch`, and perhaps a method `gate` whose
result multiplies the branch it is given.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import models

Network = str | hk.TransformedWithState | Callable[[], hk.Module]


@dataclasses.dataclass(frozen=True)
class Signal:
  """What one block makes of random input.

  Attributes:
    block: the block's module path.
    stage: from 1; a stage begins where the signal's shape changes.
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
  network: Network, key: jax.Array, images: jax.Array, **overrides: object
) -> list[Signal]:
  """Sends images through a freshly initialized network, in training mode.

  Skip gains are 1 (or the signal would see no branch), and nothing is dropped,
  unless overridden.

  Args:
    network: a name that `models.create` takes; what it returns; or a function
      that builds a module to call with images and `is_training`.
    key: of the initialization.
    images: `[N, H, W, 3]`, such as a unit normal's.
    **overrides: of the named network.

  Returns:
    One `Signal` per block.

  Raises:
    ValueError: the network has no blocks.
  """
  signals = []
  stage, position, shape = 0, 0, None
  for row in _run(network, overrides, key, images, _moments):
    is_next = row['shape'] == shape
    stage, position = (stage, position + 1) if is_next else (stage + 1, 0)
    shape = row['shape']
    expected = None
    if row['expected_std'] is not None:
      # A projection of the normalized input starts again from 1.
      before = 1.0 if position == 0 else row['expected_std'] ** 2
      expected = before + row['alpha'] ** 2
    squared_mean, variance = map(float, row['output'])
    signals.append(
      Signal(
        block=row['block'],
        stage=stage,
        position=position,
        squared_mean=squared_mean,
        variance=variance,
        branch_variance=float(row['branch'][1]),
        expected_variance=expected,
        is_projected=row['is_projected'],
        alpha=row['alpha'],
      )
    )
  return signals


def measure_noise(
  name: Network,
  seed: int,
  batch_size: int,
  image_size: int,
  **overrides: object,
) -> list[Signal]:
  """`measure` on a unit normal's images of `image_size` pixels a side."""
  image_key, init_key = jax.random.split(jax.random.key(seed))
  shape = (batch_size, image_size, image_size, 3)
  images = jax.random.normal(image_key, shape)
  return measure(name, init_key, images, **overrides)


def check_contract(
  network: Network,
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
    **overrides: of the named network.

  Raises:
    ValueError: names the first block that breaks the contract, with numbers.
  """

  def fresh(x: jax.Array, index: int, std: float | None) -> jax.Array:
    shape = (2, 16, 16, x.shape[-1])
    x = jax.random.normal(jax.random.fold_in(key, index), shape)
    return x * (std or 1.0)

  inside = lambda x: _moments(x[:, 2:-2, 2:-2] if min(x.shape[1:3]) > 6 else x)
  images = jnp.zeros((1, 32, 32, 3))
  for row in _run(network, overrides, key, images, inside, fresh):
    before, branch, after = (
      float(row[name][1]) for name in ('input', 'branch', 'output')
    )
    if not abs(branch - 1) <= tolerance:
      raise ValueError(
        f'{row["block"]}: its branch has variance {branch:.3g} on an input of '
        f'variance {before:.3g}, not 1 within {tolerance:g}; scaled weight '
        'standardization and gamma-scaled activations keep it there.'
      )
    if row['is_projected'] or row['alpha'] is None:
      continue
    want = before + row['alpha'] ** 2 * branch
    if not abs(after - want) <= 0.05 * want:
      raise ValueError(
        f'{row["block"]}: its output has variance {after:.3g} where its input '
        f'and alpha = {row["alpha"]:g} make {want:.3g}; add alpha times the '
        'branch to the unchanged input.'
      )


def _run(
  network: Network,
  overrides: dict[str, Any],
  key: jax.Array,
  images: jax.Array,
  statistics: Callable[[jax.Array], Any],
  replace: Callable[[jax.Array, int, float | None], jax.Array] | None = None,
) -> list[dict[str, Any]]:
  """One row per block: what it is, and statistics of what goes through it.

  Args:
    network, overrides, key, images: as in `measure`.
    statistics: of `[N, H, W, C]`: the rows' 'input', 'branch' and 'output'.
    replace: from a block's input, its index and its expected std to another.
  """
  network, rows = _transformed(network, overrides), []

  def note(
    call: Callable, args: tuple, kwargs: dict, context: hk.MethodContext
  ) -> Any:
    block, method = context.module, context.method_name
    if method in ('branch', 'gate'):
      out = call(*args, **kwargs)
      branch = args[0] * out if method == 'gate' else out
      rows[-1]['branch'] = statistics(branch)
      return out
    is_inside = bool(rows) and 'output' not in rows[-1]
    if method != '__call__' or not hasattr(block, 'branch') or is_inside:
      return call(*args, **kwargs)
    x, std = args[0], kwargs.get('expected_std')
    x = replace(x, len(rows), std) if replace else x
    row = {'block': block.module_name, 'expected_std': std}
    row |= {'input': statistics(x), 'alpha': getattr(block, 'alpha', None)}
    shortcut = getattr(block, 'conv_shortcut', None)
    rows.append(row | {'is_projected': shortcut is not None})
    out = call(x, *args[1:], **kwargs)
    rows[-1] |= {'output': statistics(out), 'shape': out.shape[1:]}
    return out

  params, state = network.init(key, images[:1, :32, :32], True)
  if 'skipinit_gain' not in overrides:
    params = _opened(params)
  # Not compiled as a whole: a stage's equal blocks share what each operation
  # compiles to, and 200 blocks in one program take minutes.
  with hk.intercept_methods(note):
    network.apply(params, state, key, images, True)
  if not rows:
    raise ValueError("no module with a method 'branch' was called: no blocks")
  return rows


def _opened(params: hk.Params) -> hk.Params:
  """Parameters whose skip gains are 1, or the gains in their place."""
  return {
    module: {
      name: jnp.ones_like(leaf) if name in ('skip_gain', 'gain') else leaf
      for name, leaf in leaves.items()
    }
    for module, leaves in params.items()
  }


def _transformed(
  network: Network, overrides: dict[str, Any]
) -> hk.TransformedWithState:
  if isinstance(network, str):
    quiet = {'stochdepth_rate': 0.0, 'drop_rate': 0.0}
    return models.create(network, **quiet | overrides)
  if callable(network):
    build = network
    return hk.transform_with_state(
      lambda x, is_training: build()(x, is_training)
    )
  return network


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Over channels, the mean squared mean and the mean variance."""
  x = x.astype(jnp.float32)
  mean = jnp.mean(x, axis=(0, 1, 2))
  return jnp.mean(mean**2), jnp.mean(jnp.var(x, axis=(0, 1, 2)))
