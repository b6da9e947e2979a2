"""Lets a training step on the CPU reuse the memory of the step before."""

import ctypes
import glob
import os
import platform

import jax

SWITCH = 'NFNETS_KEEP_MEMORY'
ACCELERATORS = ('/dev/nvidia[0-9]*', '/dev/kfd', '/dev/accel*', '/dev/vfio/*')
# glibc's malloc.h: one arena, nothing mapped by itself, nothing trimmed from
# the heap's end, and this much more at once.
_SETTINGS = {-8: 1, -4: 0, -1: -1, -2: 300_000_000}


def keep() -> bool:
  """Makes glibc keep what is freed, if this process will compute on the CPU.

  A step frees hundreds of megabytes that the next one wants again; by default
  they go back to the system, which clears each page before it returns. Call
  it before JAX starts its threads; afterwards it has no effect. The process
  stays as large as its largest step.

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
  return all(taken)


def on_cpu() -> bool:
  """Whether JAX will take the CPU, told without starting it."""
  platforms = jax.config.jax_platforms
  if platforms:
    return platforms.split(',')[0] == 'cpu'
  return not any(glob.glob(pattern) for pattern in ACCELERATORS)
