"""Lets a training step on the CPU reuse the memory of the step before."""

import ctypes
import functools
import glob
import os
import pathlib
import platform

import jax

SWITCH = 'NFNETS_KEEP_MEMORY'
ACCELERATORS = ('/dev/nvidia[0-9]*', '/dev/kfd', '/dev/accel*', '/dev/vfio/*')
# glibc's malloc.h: one arena, nothing mapped by itself, nothing trimmed from
# the heap's end, and this much more at once.
_SETTINGS = {-8: 1, -4: 0, -1: -1, -2: 300_000_000}
COMPILED = '/jax/core/compile/backend_compile_duration'
MIN_SECONDS = 1.0  # of a compilation that leaves holes enough to matter
# Bytes. A search for less than 1 kB is short: such holes have a list a size.
BLOCKS = tuple(2**power for power in range(24, 9, -1))


def keep() -> bool:
  """Makes glibc keep what is freed, if this process will compute on the CPU.

  A step frees hundreds of megabytes that the next one wants again; by default
  they go back to the system, which clears each page before it returns. Call
  it before JAX starts its threads: later, they have heaps of their own, which
  it doesn't reach. After each long compilation the holes that it left are
  retired (`retire_holes`). The process stays as large as its largest step.

  Returns:
    Whether it was done. Not where an accelerator is at hand, glibc isn't, the
    environment has settings of its own (`MALLOC_...`), or says
    `NFNETS_KEEP_MEMORY=off`.
  """
  chosen = any(name.startswith('MALLOC_') for name in os.environ)
  if chosen or os.environ.get(SWITCH) == 'off' or not on_cpu():
    return False
  if platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  taken = [mallopt(name, value) for name, value in _SETTINGS.items()]
  if all(taken):
    _listen()
  return all(taken)


@functools.cache
def _listen() -> None:
  jax.monitoring.register_event_duration_secs_listener(_after_an_event)


def _after_an_event(event: str, seconds: float, **_: object) -> None:
  if event == COMPILED and seconds >= MIN_SECONDS:
    retire_holes()


def retire_holes() -> int:
  """Gives the pages of free memory back, and its addresses to nobody again.

  Compiling a large network leaves a hundred thousand holes between what it
  keeps. For every larger block of a step, glibc would walk lists of them: 7 %
  of NFNet-F0's step on two cores, 12 % of ResNet-20's. Whatever else is free
  in the heap at the time is lost too, as addresses; of memory, each piece of
  `BLOCKS` keeps the page that its size is written on.

  Returns:
    How many bytes of addresses were retired; 0 without a heap.
  """
  heap = [
    line.split('-')[0]
    for line in pathlib.Path('/proc/self/maps').read_text().splitlines()
    if line.endswith('[heap]')
  ]
  if not heap:
    return 0
  libc = ctypes.CDLL(None)
  libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
  libc.malloc.argtypes = [ctypes.c_size_t]
  libc.sbrk.argtypes = [ctypes.c_ssize_t]
  libc.free.argtypes = [ctypes.c_void_p]
  libc.malloc_trim(ctypes.c_size_t(0))
  start, end = int(heap[0], 16), libc.sbrk(0)
  retired = 0
  for size in BLOCKS:
    # What isn't within the heap as it was is new, or another allocator's.
    while (block := libc.malloc(size)) and start <= block <= end - size:
      retired += size
    libc.free(block)
  return retired


def on_cpu() -> bool:
  """Whether JAX will take the CPU, told without starting it."""
  platforms = jax.config.jax_platforms
  if platforms:
    return platforms.split(',')[0] == 'cpu'
  return not any(glob.glob(pattern) for pattern in ACCELERATORS)
