"""Several processes as one run: joining each other, and agreeing.

Each process runs the same program on its own devices; `jax.distributed` makes
them one machine. The order of examples is a function of the step alone, so a
run may go on with another number of processes.
"""

import glob
import importlib.util
import json
import os
import socket
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

VARIABLES = {
  'coordinator_address': 'JAX_COORDINATOR_ADDRESS',
  'num_processes': 'JAX_NUM_PROCESSES',
  'process_id': 'JAX_PROCESS_ID',
}
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
  """Joins the other processes, before anything asks JAX for a device.

  Args:
    distributed: None joins where the arguments or the surroundings ask for it
      (`surroundings`); True insists; False stays alone.
    coordinator_address: 'host:port' of process 0.
    num_processes: of the whole run.
    process_id: 0 to num_processes - 1.
    missing_after: seconds of silence that make a process missing.
    environment: where `VARIABLES` stand in for arguments that are None.

  Returns:
    Whether it joined.

  Raises:
    ValueError: some of the three are missing or impossible.
    RuntimeError: the others didn't come.
  """
  if distributed is False:
    return False
  place = {
    'coordinator_address': coordinator_address,
    'num_processes': num_processes,
    'process_id': process_id,
  }
  for name, variable in VARIABLES.items():
    if place[name] is None and variable in environment:
      kind = str if name == 'coordinator_address' else int
      try:
        place[name] = kind(environment[variable])
      except ValueError:
        raise ValueError(
          f'{variable}={environment[variable]!r} is no number'
        ) from None
  given = any(value is not None for value in place.values())
  if given:
    _check_place(place)
  elif not surroundings(environment):
    if distributed:
      raise ValueError(
        '--distributed: no TPU pod, SLURM or Open MPI found: pass '
        '--coordinator_address=HOST:PORT --num_processes=N --process_id=I or '
        f'set {", ".join(VARIABLES.values())}'
      )
    return False
  # JAX's preemption service would swallow SIGTERM; ours saves (monitor.py).
  jax.config.update('jax_enable_preemption_service', False)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(
    **{name: value for name, value in place.items() if value is not None},
    **({'cluster_detection_method': 'deactivate'} if given else {}),
    heartbeat_timeout_seconds=int(missing_after) + GRACE,
  )
  if given and jax.process_count() != place['num_processes']:
    raise ValueError(
      f'--num_processes={place["num_processes"]}, but JAX sees '
      f'{jax.process_count()} processes'
    )
  return True


def surroundings(environment: Mapping[str, str] = os.environ) -> str | None:
  """What several processes seem to have been started by, if any."""
  several = lambda name: int(environment.get(name, '1')) > 1
  if 'SLURM_STEP_NODELIST' in environment and several('SLURM_NTASKS'):
    return 'SLURM'
  if 'OMPI_MCA_orte_hnp_uri' in environment and several('OMPI_COMM_WORLD_SIZE'):
    return 'Open MPI'
  if environment.get('JAX_PLATFORMS', 'tpu').startswith('tpu') and _has_tpu():
    return 'TPU'  # a single host's joins only itself
  return None


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
  """Raises on all processes what one of them met; all must call."""
  if jax.process_count() == 1:
    if problem is not None:
      raise problem
    return
  said = exchange(str(problem) if problem is not None else None)
  for index, text in enumerate(said):
    if text is not None:
      count = sum(other is not None for other in said)
      whose = 'all processes' if count == len(said) else who(index)
      raise ValueError(f'{whose}: {text}')


def who(index: int) -> str:
  return f'process {index} of {jax.process_count()}'


def host_name() -> str:
  return socket.gethostname()


def _check_place(place: Mapping[str, Any]) -> None:
  missing = [name for name, value in place.items() if value is None]
  if missing:
    raise ValueError(
      'several processes need all of --coordinator_address, --num_processes '
      f'and --process_id; missing: {", ".join(missing)}'
    )
  host, _, port = place['coordinator_address'].rpartition(':')
  if not (host and port.isdecimal()):
    raise ValueError(
      f'--coordinator_address={place["coordinator_address"]}: give HOST:PORT'
    )
  if not 0 <= place['process_id'] < place['num_processes']:
    raise ValueError(
      f'--process_id={place["process_id"]}: must be from 0 to '
      f'--num_processes - 1 = {place["num_processes"] - 1}'
    )


def _has_tpu() -> bool:
  has_library = importlib.util.find_spec('libtpu') is not None
  return has_library and bool(
    glob.glob('/dev/accel*') + glob.glob('/dev/vfio/[0-9]*')
  )
