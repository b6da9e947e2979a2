"""Learning-rate schedules, as the configs name them; made from optax's."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax


def warmup_cosine(
  peak: float,
  num_steps: int,
  warmup_steps: int,
  start: float = 0.0,
  end: float = 0.0,
) -> optax.Schedule:
  """Linear from `start` to `peak`, then a half cosine to `end` at `num_steps`.

  Source: Brock, De, Smith and Simonyan 2021, appendix A.1.
  """
  decay = optax.cosine_decay_schedule(
    peak, max(num_steps - warmup_steps, 1), alpha=end / peak if peak else 0.0
  )
  return _warmed_up(decay, warmup_steps, start, peak)


def warmup_exponential(
  peak: float,
  num_steps: int,
  warmup_steps: int,
  decay_rate: float = 0.97,
  decay_steps: float = 1.0,
  start: float = 0.0,
) -> optax.Schedule:
  """Linear from `start` to `peak`, then times `decay_rate` per `decay_steps`.

  The decay is continuous and ends at `num_steps`. EfficientNet decays by 0.97
  every 2.4 epochs (Tan and Le 2019).
  """
  if not (decay_rate > 0 and decay_steps > 0):
    raise ValueError(
      f'decay_rate {decay_rate} and decay_steps {decay_steps} must be above 0'
    )
  last = peak * decay_rate ** ((num_steps - warmup_steps) / decay_steps)
  decay = optax.exponential_decay(peak, decay_steps, decay_rate, end_value=last)
  return _warmed_up(decay, warmup_steps, start, peak)


def piecewise(
  peak: float,
  boundaries: Sequence[int],
  factor: float = 0.1,
  warmup_steps: int = 0,
  start: float = 0.0,
) -> optax.Schedule:
  """`peak`, multiplied by `factor` at each boundary step.

  He et al. (2015, section 4.2) divide 0.1 by 10 at 32,000 and 48,000 of 64,000
  steps. With `warmup_steps`, it first rises linearly from `start` to `peak`.
  """
  boundaries = tuple(boundaries)
  if list(boundaries) != sorted(set(boundaries)):
    raise ValueError(f'boundaries must increase, got {boundaries}')
  if boundaries and boundaries[0] < warmup_steps:
    raise ValueError(
      f'the first boundary {boundaries[0]} is within the warm-up of '
      f'{warmup_steps} steps'
    )
  decay = optax.piecewise_constant_schedule(
    peak, {boundary - warmup_steps: factor for boundary in boundaries}
  )
  return _warmed_up(decay, warmup_steps, start, peak)


def constant(
  peak: float, warmup_steps: int = 0, start: float = 0.0
) -> optax.Schedule:
  """`peak`, after a linear warm-up from `start`."""
  return _warmed_up(optax.constant_schedule(peak), warmup_steps, start, peak)


def _warmed_up(
  decay: optax.Schedule, warmup_steps: int, start: float, peak: float
) -> optax.Schedule:
  if not warmup_steps:
    return decay

  def warmup(step: jax.typing.ArrayLike) -> jax.Array:
    # optax.linear_schedule errs by 1e-7 of the peak, 1 % of the first rates.
    return start + (peak - start) * jnp.float32(step) / warmup_steps

  return optax.join_schedules([warmup, decay], [warmup_steps])
