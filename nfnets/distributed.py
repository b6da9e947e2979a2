"""Several processes as one run, by JAX's coordination service; stopping a run.

Each process runs the same program on its own devices. If one dies, JAX ends the
others within the heartbeat timeout; the launcher or the scheduler then starts
all of them again, on any number of processes.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT = 60  # seconds
PLACE = ('coordinator_address', 'num_processes', 'process_id')
STALLED = 30  # seconds without a batch, then a warning


def initialize(
  distributed: bool | None = None,
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  heartbeat_timeout_seconds: int = HEARTBEAT,
) -> bool:
  """Joins the other processes; must run before JAX looks for devices.

  Args:
    distributed: True always joins, False never; None joins if the next three
      are given, or if SLURM, Open MPI or a TPU pod started this process.
    coordinator_address: 'host:port' of process 0. This and the next two default
      to JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; without
      any of them JAX finds the other processes by itself.
    num_processes: in the whole run.
    process_id: from 0 to num_processes - 1.
    heartbeat_timeout_seconds: after this long without a sign of one process,
      the others end.

  Returns:
    Whether it joined.

  Raises:
    ValueError: only some of the three are given, or one is impossible, or JAX
      fails.
  """
  place = _place(coordinator_address, num_processes, process_id)
  if distributed is False or not (distributed or place or seem_several()):
    return False
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  # Gloo confuses the collectives of programs that run concurrently.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  if place:
    _check_place(place)
  try:
    jax.distributed.initialize(
      **place,
      cluster_detection_method='deactivate' if place else None,
      heartbeat_timeout_seconds=heartbeat_timeout_seconds,
      # A process that fails waits this long at exit for the others, which may
      # be waiting for it.
      shutdown_timeout_seconds=heartbeat_timeout_seconds,
    )
  except RuntimeError as error:
    raise ValueError(
      f'could not join the other processes: {str(error):.300}'
    ) from error
  return True


def _place(*given: Any) -> dict[str, Any]:
  """The arguments that are given or in the environment, by name."""
  place = {k: v for k, v in zip(PLACE, given) if v is not None}
  for name in PLACE:
    variable = f'JAX_{name.upper()}'
    if name not in place and (text := os.environ.get(variable)) is not None:
      if name != 'coordinator_address' and not text.isdecimal():
        raise ValueError(f'{variable}={text}: must be a whole number')
      place[name] = text if name == 'coordinator_address' else int(text)
  return place


def _check_place(place: dict[str, Any]) -> None:
  if missing := [name for name in PLACE if name not in place]:
    raise ValueError(
      'a run of several processes needs --coordinator_address, '
      f'--num_processes and --process_id; missing: {", ".join(missing)}'
    )
  coordinator_address, num_processes, process_id = map(place.get, PLACE)
  found = re.fullmatch(r'[^/\s]+:(\d{1,5})', coordinator_address)
  if not found or not 0 < (port := int(found[1])) < 65536:
    raise ValueError(
      f'--coordinator_address={coordinator_address}: must be HOST:PORT of '
      'process 0, such as gpu0:9876'
    )
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f'--process_id={process_id}: must be from 0 to {num_processes - 1}, as '
      f'--num_processes={num_processes}'
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
        f'on this port ({error.strerror}); choose another for all processes'
      ) from error


def seem_several(environment: Mapping[str, str] = os.environ) -> bool:
  """Whether SLURM or Open MPI started several processes, or TPUs are present.

  One host's TPUs may be part of a pod; JAX finds out.
  """
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
  """Gathers a JSON value from every process, in order; all must call this."""
  if jax.process_count() == 1:
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(text.size, np.int32))
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: text.size] = text
  rows = multihost_utils.process_allgather(padded)
  return [json.loads(bytes(row[:n])) for row, n in zip(rows, sizes)]


@contextlib.contextmanager
def agreement() -> Iterator[dict[str, Any]]:
  """An error of one process within the block becomes an error of all.

  All processes must enter the block.

  Yields:
    A dictionary, to be filled with what must be equal on all processes.

  Raises:
    ValueError: on every process, if an `OSError`, `TypeError` or `ValueError`
      was raised on one, or if the dictionaries differ: names the process, the
      key and both values. With one process, the block's own error.
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
          f'{other.get(key)!r} in process {index}; start all of them alike'
        )


class Interrupted(Exception):
  """A stop was requested while the run waited for something."""


class Interrupts:
  """Within the block, Ctrl-C, SIGTERM and SIGHUP request a stop.

  With several processes, a signal to any of them stops all at the same point.
  A second Ctrl-C raises KeyboardInterrupt.
  """

  def __enter__(self) -> 'Interrupts':
    self._requested = False
    self._calls = 0
    self._old = {}
    signals = [signal.SIGINT, signal.SIGHUP]
    if jax.process_count() == 1:  # else JAX's preemption notice handles it
      signals.append(signal.SIGTERM)
    with contextlib.suppress(ValueError):  # not in the main thread
      for number in signals:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores some
          self._old[number] = signal.signal(number, self._request)
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def check(self) -> None:
    """Raises Interrupted if the run is to stop here.

    All processes must call it equally often.
    """
    self._calls += 1
    stops = self._requested
    if jax.process_count() > 1:
      stops = multihost_utils.reached_preemption_sync_point(self._calls)
    if stops:
      raise Interrupted

  def each(self, batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the batches, each after a `check` and read by `call`.

    A long wait is logged.
    """
    batches, end = iter(batches), object()
    self.check()
    while (batch := self.call(next, batches, end, patience=STALLED)) is not end:
      yield batch
      self.check()

  def call(
    self,
    function: Callable[..., Any],
    *args: Any,
    patience: float = math.inf,
  ) -> Any:
    """Calls a function in another thread; a requested stop ends the wait.

    Python handles no signal while its main thread is inside XLA, and a read
    from storage that no longer answers may never return. With several
    processes the wait goes on: all must stop at the same point. Each `patience`
    seconds a warning says that no input has come.

    Raises:
      Interrupted: a stop was requested; the call's result is lost.
    """
    future: futures.Future = futures.Future()

    def job() -> None:
      try:
        future.set_result(function(*args))
      except BaseException as error:
        future.set_exception(error)

    threading.Thread(target=job, daemon=True).start()
    warned = time.monotonic()
    while futures.wait([future], timeout=0.1).not_done:
      if self._requested and jax.process_count() == 1:
        raise Interrupted
      if time.monotonic() - warned > patience:
        warned += patience
        logging.warning(
          'no input for %d s: does the storage still answer?', patience
        )
    return future.result()

  def first_in_thread(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that its first call, which compiles, is by `call`."""
    is_first = True

    def called(*args: Any) -> Any:
      nonlocal is_first
      if is_first:
        is_first = False
        return self.call(function, *args)
      return function(*args)

    return called

  def _request(self, number: int, _: object) -> None:
    if self._requested and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._requested = True
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)
