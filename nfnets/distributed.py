"""Several processes as one run: joining each other, and agreeing.

Each process runs the same program on its own devices; `jax.distributed` makes
them one machine. The order of examples is a function of the step alone, so a
run may go on with another number of processes.
"""

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from nfnets import places, watch

MISSING_AFTER = 60.0  # seconds of silence
GRACE = 60  # more until JAX's own heartbeat ends a process, less politely


def initialize(
  distributed: bool | None = None,
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  missing_after: float = MISSING_AFTER,
  environment: Mapping[str, str] = os.environ,
) -> bool:
  """Finds this process's place and joins the others (`places.find`, `join`).

  Returns:
    Whether it joined.
  """
  place = places.find(
    distributed, coordinator_address, num_processes, process_id, environment
  )
  if place is None:
    return False
  check_joined(join(place, missing_after))
  return True


def join(
  place: places.Place, missing_after: float = MISSING_AFTER
) -> places.Place:
  """Joins the other processes, before anything asks JAX for a device.

  Those that don't all come within five minutes are aborted by JAX.

  Args:
    place: this process's.
    missing_after: seconds of silence that make a process missing.

  Returns:
    The place; where only JAX could tell it, it has told it by now.
  """
  # JAX's preemption service would swallow SIGTERM; ours saves (metrics.py).
  jax.config.update('jax_enable_preemption_service', False)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  given = {}
  if place.coordinator_address is not None:
    given = place._asdict() | {'cluster_detection_method': 'deactivate'}
  jax.distributed.initialize(
    **given, heartbeat_timeout_seconds=int(missing_after) + GRACE
  )
  if place.process_id is None:
    return places.Place(None, jax.process_count(), jax.process_index())
  return place


def check_joined(place: places.Place) -> None:
  """Raises `watch.Agreed` where JAX sees more or fewer processes."""
  if jax.process_count() != place.num_processes:
    raise watch.Agreed(
      f'--num_processes={place.num_processes}, but JAX sees '
      f'{jax.process_count()} processes'
    )


def exchange(value: Any) -> list[Any]:
  """Every process's value (JSON can hold it), in their order; all must call."""
  if jax.process_count() == 1:
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(text.size, np.int32))
  # Powers of two, so that few programs are compiled.
  padded = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)
  padded[: text.size] = text
  rows = multihost_utils.process_allgather(padded)
  return [json.loads(bytes(row[:n])) for row, n in zip(rows, sizes)]


def agree_on_problem(problem: Exception | None) -> None:
  """Raises `watch.Agreed` on all if one of them met something; all must call.

  Alone, what it met is raised as it is.
  """
  if jax.process_count() == 1:
    if problem is not None:
      raise problem
    return
  said = exchange(str(problem) if problem is not None else None)
  for index, text in enumerate(said):
    if text is not None:
      count = sum(other is not None for other in said)
      whose = 'all processes' if count == len(said) else who(index)
      raise watch.Agreed(f'{whose}: {text}')


def who(index: int) -> str:
  return f'process {index} of {jax.process_count()}'


def host_name() -> str:
  return socket.gethostname()
