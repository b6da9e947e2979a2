"""A whole evaluation: every example counted exactly once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from nfnets import parallel


def evaluate(
  eval_step: Callable[..., Any],
  variables: Mapping[str, Any],
  batches: Iterable[Mapping[str, np.ndarray]],
) -> dict[str, float]:
  """Averages over all examples of all processes.

  Args:
    eval_step: `step.make_eval_step`'s, mapped by `parallel.map_eval`.
    variables: {prefix: (params, state)}, replicated.
    batches: this process's, as `data.pipeline.eval_batches` yields them; every
      process must yield the same number.

  Returns:
    `{prefix}/loss`, `{prefix}/top_1`, `{prefix}/top_5` (shares of 1) and
    `{prefix}/count` (examples).

  Raises:
    ValueError: there was no example.
  """
  sums: dict[str, dict[str, float]] = {}
  pending = None
  for batch in batches:
    inputs = {k: batch[k] for k in ('images', 'labels', 'mask')}
    dispatched = eval_step(variables, parallel.shard(inputs))
    _add(sums, pending)
    pending = dispatched
  _add(sums, pending)
  if not sums or not all(s['count'] for s in sums.values()):
    raise ValueError('nothing to evaluate: the evaluation split is empty')
  return {
    f'{prefix}/{name}': value if name == 'count' else value / values['count']
    for prefix, values in sums.items()
    for name, value in values.items()
  }


def variables_of(state: Any, ema_mode: str) -> dict[str, Any]:
  """What to evaluate of a `TrainState`: its own weights and their average."""
  variables = {'eval': (state.params, state.state)}
  if ema_mode != 'none':
    variables['eval_ema'] = (state.ema_params, state.ema_state)
  return variables


def device_batch_multiple(batch_size: int, process_count: int) -> int:
  """This process's evaluation batch: rounded up to fill its devices."""
  devices = jax.local_device_count()
  per_device = -(-batch_size // (process_count * devices))
  return per_device * devices


def _add(sums: dict[str, dict[str, float]], pending: Any) -> None:
  """Waits for a step's sums while the next one runs, and adds them."""
  if pending is None:
    return
  for prefix, values in parallel.to_host(pending).items():
    mine = sums.setdefault(prefix, dict.fromkeys(values, 0.0))
    for name, value in values.items():
      mine[name] += float(value)
