"""Learning-rate schedules: functions from a step to a float32 number."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def warmup_cosine(
  peak: float,
  num_steps: int,
  warmup_steps: int,
  start: float = 0.0,
  end: float = 0.0,
) -> optax.Schedule:
  """Linear from `start` to `peak`, then half a cosine to `end` at `num_steps`.

  Source: Brock, De, Smith and Simonyan 2021, appendix A.1.
  """
  _check_steps(num_steps, warmup_steps)

  def schedule(step: ArrayLike) -> jax.Array:
    done = _progress(step, warmup_steps, num_steps)
    cosine = end + (peak - end) * 0.5 * (1 + jnp.cos(jnp.pi * done))
    return _warm_up(step, warmup_steps, start, peak, cosine)

  return schedule


def warmup_exponential(
  peak: float,
  num_steps: int,
  warmup_steps: int,
  decay_rate: float = 0.97,
  decay_steps: float = 1.0,
  start: float = 0.0,
) -> optax.Schedule:
  """Linear from `start` to `peak`, then times `decay_rate` each `decay_steps`.

  The decay is continuous and stays put from `num_steps` on. The defaults'
  0.97 is EfficientNet's (Tan and Le 2019, every 2.4 epochs).
  """
  _check_steps(num_steps, warmup_steps)
  if not (decay_rate > 0 and decay_steps > 0):
    raise ValueError(
      f'decay_rate {decay_rate} and decay_steps {decay_steps} must be above 0'
    )

  def schedule(step: ArrayLike) -> jax.Array:
    steps = jnp.clip(_float(step), warmup_steps, num_steps) - warmup_steps
    decayed = peak * jnp.power(decay_rate, steps / decay_steps)
    return _warm_up(step, warmup_steps, start, peak, decayed)

  return schedule


def piecewise(
  peak: float,
  boundaries: Sequence[int],
  factor: float = 0.1,
  warmup_steps: int = 0,
  start: float = 0.0,
) -> optax.Schedule:
  """`peak`, times `factor` from each of the boundary steps on.

  He et al. 2015, section 4.2: 0.1, divided by 10 at 32,000 and 48,000 of
  64,000 steps. With `warmup_steps`, linear from `start` to `peak` first.
  """
  boundaries = tuple(boundaries)
  if list(boundaries) != sorted(set(boundaries)):
    raise ValueError(f'boundaries must increase, got {boundaries}')
  if boundaries and boundaries[0] < warmup_steps:
    raise ValueError(
      f'the first boundary {boundaries[0]} lies within the warm-up of '
      f'{warmup_steps} steps'
    )

  def schedule(step: ArrayLike) -> jax.Array:
    passed = sum(jnp.where(_float(step) >= b, 1.0, 0.0) for b in boundaries)
    return _warm_up(
      step, warmup_steps, start, peak, peak * jnp.power(factor, passed)
    )

  return schedule


def constant(
  peak: float, warmup_steps: int = 0, start: float = 0.0
) -> optax.Schedule:
  """`peak` throughout, or after a linear warm-up from `start`."""

  def schedule(step: ArrayLike) -> jax.Array:
    return _warm_up(step, warmup_steps, start, peak, peak)

  return schedule


def _float(step: ArrayLike) -> jax.Array:
  return jnp.asarray(step, jnp.float32)


def _progress(step: ArrayLike, first: int, last: int) -> jax.Array:
  return jnp.clip((_float(step) - first) / max(last - first, 1), 0.0, 1.0)


def _warm_up(
  step: ArrayLike,
  warmup_steps: int,
  start: float,
  peak: float,
  after: ArrayLike,
) -> jax.Array:
  warm = start + (peak - start) * _float(step) / max(warmup_steps, 1)
  return jnp.where(_float(step) < warmup_steps, warm, after)


def _check_steps(num_steps: int, warmup_steps: int) -> None:
  if not 0 <= warmup_steps <= num_steps:
    raise ValueError(
      f'warmup_steps {warmup_steps} must lie between 0 and num_steps '
      f'{num_steps}'
    )
