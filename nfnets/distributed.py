"""Several processes as one run: JAX's coordination, and stopping in time.

Each process runs the same program on its own devices. Where one dies, JAX ends
the others within the heartbeat's timeout; the launcher or the scheduler starts
all again, on any number of processes.
"""

import contextlib
import glob
import importlib.util
import json
import logging
import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT = 60  # seconds
PLACE = ('coordinator_address', 'num_processes', 'process_id')
STALLED = 30  # seconds without a batch, after which it is said


def initialize(
  distributed: bool | None = None,
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  heartbeat_timeout_seconds: int = HEARTBEAT,
) -> bool:
  """Joins the other processes, before anything asks JAX for a device.

  Args:
    distributed: None joins where the arguments or the surroundings tell of
      others; True insists; False is alone.
    coordinator_address: 'host:port' of process 0; None takes
      JAX_COORDINATOR_ADDRESS, or what JAX finds on a TPU pod, under SLURM or
      Open MPI; likewise the next two.
    num_processes: of the whole run.
    process_id: 0 to num_processes - 1.
    heartbeat_timeout_seconds: after so much silence of a process the others
      end.

  Returns:
    Whether it joined.

  Raises:
    ValueError: some of the three are missing or impossible, or JAX fails.
  """
  place = _place(coordinator_address, num_processes, process_id)
  if distributed is False or not (distributed or place or seem_several()):
    return False
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  # Gloo mixes up the collectives of programs that run at the same time.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  _check_place(**place)
  try:
    jax.distributed.initialize(
      **place,
      cluster_detection_method='deactivate' if place else None,
      heartbeat_timeout_seconds=heartbeat_timeout_seconds,
      # Who ends by an error doesn't wait for those who wait for it.
      shutdown_timeout_seconds=heartbeat_timeout_seconds,
    )
  except RuntimeError as error:
    raise ValueError(
      f'the processes could not be joined: {str(error):.300}'
    ) from error
  return True


def _place(*given: Any) -> dict[str, Any]:
  """The three arguments, given or told by the environment; {} for none."""
  place = dict(zip(PLACE, given))
  for name, value in place.items():
    told = os.environ.get(f'JAX_{name.upper()}')
    if value is None and told is not None:
      place[name] = told
      if name != 'coordinator_address':
        if not told.isdecimal():
          raise ValueError(f'JAX_{name.upper()}={told}: give a number')
        place[name] = int(told)
  missing = [name for name, value in place.items() if value is None]
  if 0 < len(missing) < len(place):
    raise ValueError(
      'several processes need all of --coordinator_address, --num_processes '
      f'and --process_id; missing: {", ".join(missing)}'
    )
  return {} if missing else place


def _check_place(
  coordinator_address: str | None = None,
  num_processes: int = 1,
  process_id: int = 0,
) -> None:
  if coordinator_address is None:  # JAX finds it
    return
  found = re.fullmatch(r'[^/\s]+:(\d{1,5})', coordinator_address)
  if not found or not 0 < (port := int(found[1])) < 65536:
    raise ValueError(
      f'--coordinator_address={coordinator_address}: give HOST:PORT of '
      'process 0, as gpu0:9876'
    )
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f'--process_id={process_id}: of --num_processes={num_processes} they '
      'count from 0'
    )
  if process_id == 0 and 'JAX_COORDINATOR_BIND_ADDRESS' not in os.environ:
    try:
      dual = socket.has_dualstack_ipv6()
      family = socket.AF_INET6 if dual else socket.AF_INET
      with socket.create_server(('', port), family=family, dualstack_ipv6=dual):
        pass
    except OSError as error:
      raise ValueError(
        f'--coordinator_address={coordinator_address}: process 0 cannot listen '
        f'there ({error.strerror}); choose another port, for all'
      ) from error


def seem_several(environment: Mapping[str, str] = os.environ) -> bool:
  """Whether SLURM or Open MPI started several processes, or TPUs are here."""
  for sign, count in (
    ('SLURM_STEP_NODELIST', 'SLURM_NTASKS'),
    ('OMPI_MCA_orte_hnp_uri', 'OMPI_COMM_WORLD_SIZE'),
  ):
    if sign in environment and int(environment.get(count, 1)) > 1:
      return True
  return (
    environment.get('JAX_PLATFORMS', 'tpu').startswith('tpu')
    and importlib.util.find_spec('libtpu') is not None
    and bool(glob.glob('/dev/accel*') + glob.glob('/dev/vfio/[0-9]*'))
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


@contextlib.contextmanager
def agreement() -> Iterator[dict[str, Any]]:
  """Within the block, what one process refuses all refuse; all must come.

  Yields:
    A dictionary to fill with what must be equal on all.

  Raises:
    ValueError: on every process, if one raised an `OSError`, `TypeError` or
      `ValueError`, or if the dictionaries differ: names the process, the key
      and both values. Alone, what the block raises comes as it is.
  """
  facts: dict[str, Any] = {}
  problem = None
  try:
    yield facts
  except (ValueError, TypeError, OSError) as error:
    if jax.process_count() == 1:
      raise
    problem = str(error)
  everybody = exchange((problem, facts))
  for index, (problem, _) in enumerate(everybody):
    if problem is not None:
      raise ValueError(f'process {index}: {problem}')
  first = everybody[0][1]
  for index, (_, other) in enumerate(everybody):
    for key in sorted(first.keys() | other.keys()):
      if first.get(key) != other.get(key):
        raise ValueError(
          f'processes differ in {key}: {first.get(key)!r} in process 0, '
          f'{other.get(key)!r} in process {index}; start all alike'
        )


class Interrupted(Exception):
  """A stop was asked for, and what was being waited for didn't come."""


class Interrupts:
  """Within the block, Ctrl-C, SIGTERM and SIGHUP only ask for a stop.

  Of several processes each may be asked; all stop at the same point. Another
  Ctrl-C insists: KeyboardInterrupt.
  """

  def __enter__(self) -> 'Interrupts':
    self._asked = False
    self._calls = 0
    self._old = {}
    signals = [signal.SIGINT, signal.SIGHUP]
    if jax.process_count() == 1:  # else JAX's preemption notice takes it
      signals.append(signal.SIGTERM)
    with contextlib.suppress(ValueError):  # not in the main thread
      for number in signals:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
          self._old[number] = signal.signal(number, self._ask)
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def reached(self) -> bool:
    """Whether to stop here; all processes must call as often as each other."""
    self._calls += 1
    if jax.process_count() == 1:
      return self._asked
    return multihost_utils.reached_preemption_sync_point(self._calls)

  def check(self) -> None:
    """Raises Interrupted if this is where to stop, as `reached`."""
    if self.reached():
      raise Interrupted

  def check_alone(self) -> None:
    """Raises Interrupted if this process was asked, and there is no other."""
    if self._asked and jax.process_count() == 1:
      raise Interrupted

  def each(self, batches: Iterator[Any]) -> Iterator[Any]:
    """The batches, each read as by `call`; a long wait is logged."""
    end = object()
    while (batch := self.call(next, batches, end, patience=STALLED)) is not end:
      yield batch

  def call(
    self,
    function: Callable[..., Any],
    *args: Any,
    patience: float = math.inf,
  ) -> Any:
    """Calls it in a thread, to be left at a stop.

    Python sees no signal while it is inside XLA, and storage that no longer
    answers may never return.

    Args:
      function, args: what to call.
      patience: seconds after which it is told that input is waited for.

    Raises:
      Interrupted: as `check_alone`; what was begun goes on, for nobody.
    """
    future: futures.Future = futures.Future()

    def work() -> None:
      try:
        future.set_result(function(*args))
      except BaseException as error:
        future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    told = time.monotonic()
    while futures.wait([future], timeout=0.1).not_done:
      self.check_alone()
      if time.monotonic() - told > patience:
        told += patience
        logging.warning('no input for %d s: is the storage there?', patience)
    return future.result()

  def first_in_thread(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; its first call, which compiles, as by `call`."""
    is_first = True

    def called(*args: Any) -> Any:
      nonlocal is_first
      if is_first:
        is_first = False
        return self.call(function, *args)
      return function(*args)

    return called

  def _ask(self, number: int, _: object) -> None:
    if self._asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._asked = True
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)
