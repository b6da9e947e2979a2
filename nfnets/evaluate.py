"""Evaluation, in which every example counts exactly once."""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nfnets import parallel
from nfnets.data import pipeline, sources


def evaluate(
  eval_step: Callable[..., Any],
  variables: Mapping[str, Any],
  batches: Iterable[Mapping[str, np.ndarray]],
) -> dict[str, float]:
  """Averages over all examples of all processes.

  Args:
    eval_step: from `step.make_eval_step`, mapped by `parallel.map_eval`.
    variables: {prefix: (params, state)}, replicated.
    batches: this process's, from `data.pipeline.eval_batches`; all processes
      must have the same number.

  Returns:
    `{prefix}/loss`, `{prefix}/top_1`, `{prefix}/top_5` (fractions of 1) and
    `{prefix}/count` (examples).

  Raises:
    ValueError: there are no examples.
  """
  sums: dict[str, dict[str, float]] = {}
  pending: Mapping[str, Any] = {}
  for batch in batches:
    inputs = {k: batch[k] for k in ('images', 'labels', 'mask')}
    dispatched = eval_step(variables, parallel.shard(inputs))
    sums = _added(sums, pending)  # waits while the next batch runs
    pending = dispatched
  sums = _added(sums, pending)
  if not sums or not all(s['count'] for s in sums.values()):
    raise ValueError('nothing to evaluate: the evaluation split is empty')
  return {
    f'{prefix}/{name}': value if name == 'count' else value / values['count']
    for prefix, values in sums.items()
    for name, value in values.items()
  }


def _added(sums: dict[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
  found = jax.tree.map(float, parallel.to_host(found))
  return jax.tree.map(operator.add, sums, found) if sums else found


def eval_batches(
  config: ConfigDict,
  source: sources.Source,
  skipped: dict[str, str] | None = None,
) -> Iterable[Mapping[str, np.ndarray]]:
  """This process's batches; their size is rounded up to fill all devices."""
  devices = jax.device_count()
  return pipeline.eval_batches(
    source,
    config.data,
    batch_size=-(-config.eval_batch_size // devices) * devices,
    process=(jax.process_index(), jax.process_count()),
    skipped=skipped,
  )


def left_out(skipped: Mapping[str, str]) -> str:
  """A line on unreadable examples, {where: why}."""
  where, why = next(iter(skipped.items()))
  return (
    f'{len(skipped)} unreadable examples left out, such as {where!r}: {why}'
  )
