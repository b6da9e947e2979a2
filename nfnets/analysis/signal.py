"""Signal propagation: mean and variance of activations after each block.

Paper B, section 3: at initialization the residual branches of a normalizer-free
network have variance 1, so that the variance before block j of a stage is
1 + alpha^2 j.

A block is a module with a method `branch`. It may also have a method `gate`,
which takes the branch and returns a factor for it.
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
  """Statistics of one block's activations.

  Attributes:
    block: module path of the block.
    stage: from 1; a stage begins where the shape of the activations changes.
    position: index of the block in its stage, from 0.
    squared_mean: of the output, squared channel means averaged over channels.
    variance: of the output, channel variances averaged over channels.
    branch_variance: the same of the residual branch, before stochastic depth,
      skip gain and alpha.
    expected_variance: of the output, by the analytic recursion; None for blocks
      without an expected std.
    is_projected: whether the shortcut is a convolution.
    alpha: of the block; None for blocks without one.
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
  """Measures a freshly initialized network in training mode.

  Unless overridden, skip gains are 1 (at their initial 0 no branch would reach
  the output) and nothing is dropped.

  Args:
    network: a name for `models.create`, what that returns, or a function that
      builds a module to be called with images and `is_training`.
    key: for the initialization.
    images: `[N, H, W, 3]`, for instance standard normal.
    **overrides: of a named network.

  Returns:
    One `Signal` per block.

  Raises:
    ValueError: if the network has no blocks.
  """
  signals = []
  stage, position, shape = 0, 0, None
  for row in _run(network, overrides, key, images, _moments):
    is_next = row['shape'] == shape
    stage, position = (stage, position + 1) if is_next else (stage + 1, 0)
    shape = row['shape']
    expected = None
    if row['expected_std'] is not None:
      # A stage's first block projects the normalized input: variance 1 again.
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
  """Measures a network on standard normal images of `image_size` pixels."""
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
  """Checks that every block preserves variance as paper B, section 3, requires.

  Each block gets its own input N(0, expected_std^2) of 2 x 16 x 16 pixels, so
  that an error in one block doesn't affect the next. The branch must then have
  variance 1, and the output, where the shortcut is the identity, the variance
  of the input plus alpha^2. Pixels near the border, which padding affects, are
  left out.

  Args:
    network: as in `measure`, normalizer-free.
    key: for the initialization and the blocks' inputs.
    tolerance: allowed deviation of a branch's variance from 1.
    **overrides: of a named network.

  Raises:
    ValueError: naming the first block that fails, with its variances.
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
        f'variance {before:.3g}, but it must be 1 within {tolerance:g}; use '
        'scaled weight standardization and gamma-scaled activations'
      )
    if row['is_projected'] or row['alpha'] is None:
      continue
    want = before + row['alpha'] ** 2 * branch
    if not abs(after - want) <= 0.05 * want:
      raise ValueError(
        f'{row["block"]}: its output has variance {after:.3g}, but its input '
        f'and alpha = {row["alpha"]:g} imply {want:.3g}; add alpha times the '
        'branch to the unchanged input'
      )


def _run(
  network: Network,
  overrides: dict[str, Any],
  key: jax.Array,
  images: jax.Array,
  statistics: Callable[[jax.Array], Any],
  replace: Callable[[jax.Array, int, float | None], jax.Array] | None = None,
) -> list[dict[str, Any]]:
  """Runs a network and returns one row per block.

  Args:
    network, overrides, key, images: as in `measure`.
    statistics: of `[N, H, W, C]`, for a row's 'input', 'branch' and 'output'.
    replace: maps a block's input, index and expected std to another input.
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
  # Not jitted: one program of 200 blocks takes minutes to compile, whereas
  # single operations are compiled once for all equal blocks of a stage.
  with hk.intercept_methods(note):
    network.apply(params, state, key, images, True)
  if not rows:
    raise ValueError("no blocks: no module has a method 'branch'")
  return rows


def _opened(params: hk.Params) -> hk.Params:
  """Sets all gains to 1: skip gains, and those that take their place."""
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
  """Returns squared mean and variance per channel, averaged over channels."""
  x = x.astype(jnp.float32)
  mean = jnp.mean(x, axis=(0, 1, 2))
  return jnp.mean(mean**2), jnp.mean(jnp.var(x, axis=(0, 1, 2)))
