"""Which of how many processes this is, as far as it shows without JAX."""

import glob
import importlib.util
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

VARIABLES = {
  'coordinator_address': 'JAX_COORDINATOR_ADDRESS',
  'num_processes': 'JAX_NUM_PROCESSES',
  'process_id': 'JAX_PROCESS_ID',
}


class Place(NamedTuple):
  """One of several processes.

  Attributes:
    coordinator_address: 'host:port' of process 0; None if JAX finds it.
    num_processes: of the whole run; None if only JAX can tell.
    process_id: 0 to num_processes - 1; likewise.
  """

  coordinator_address: str | None = None
  num_processes: int | None = None
  process_id: int | None = None


def find(
  distributed: bool | None = None,
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  environment: Mapping[str, str] = os.environ,
) -> Place | None:
  """This process's place among several.

  Args:
    distributed: None is several where the arguments or the surroundings ask for
      it (`surroundings`); True insists; False is alone.
    coordinator_address: 'host:port' of process 0.
    num_processes: of the whole run.
    process_id: 0 to num_processes - 1.
    environment: where `VARIABLES` stand in for arguments that are None.

  Returns:
    None if it is alone.

  Raises:
    ValueError: some of the three are missing or impossible.
  """
  if distributed is False:
    return None
  place: dict[str, Any] = {
    'coordinator_address': coordinator_address,
    'num_processes': num_processes,
    'process_id': process_id,
  }
  for name, variable in VARIABLES.items():
    if place[name] is None and variable in environment:
      place[name] = (
        environment[variable]
        if name == 'coordinator_address'
        else _number(environment, variable)
      )
  if any(value is not None for value in place.values()):
    _check(place)
    return Place(**place)
  match surroundings(environment):
    case 'SLURM':
      names = 'SLURM_NTASKS', 'SLURM_PROCID'
    case 'Open MPI':
      names = 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'
    case 'TPU':
      return Place()
    case _ if distributed:
      raise ValueError(
        '--distributed: no TPU pod, SLURM or Open MPI found: pass '
        '--coordinator_address=HOST:PORT --num_processes=N --process_id=I or '
        f'set {", ".join(VARIABLES.values())}'
      )
    case _:
      return None
  told = [environment.get(name, '') for name in names]
  if not all(text.isdecimal() for text in told):
    return Place()
  return Place(None, int(told[0]), int(told[1]))


def surroundings(environment: Mapping[str, str] = os.environ) -> str | None:
  """What several processes seem to have been started by, if any."""
  several = lambda name: name in environment and _number(environment, name) > 1
  if 'SLURM_STEP_NODELIST' in environment and several('SLURM_NTASKS'):
    return 'SLURM'
  if 'OMPI_MCA_orte_hnp_uri' in environment and several('OMPI_COMM_WORLD_SIZE'):
    return 'Open MPI'
  if environment.get('JAX_PLATFORMS', 'tpu').startswith('tpu') and _has_tpu():
    return 'TPU'  # a single host's joins only itself
  return None


def _number(environment: Mapping[str, str], variable: str) -> int:
  try:
    return int(environment[variable])
  except ValueError:
    raise ValueError(
      f'{variable}={environment[variable]!r} is no number'
    ) from None


def _check(place: Mapping[str, Any]) -> None:
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
