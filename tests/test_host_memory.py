"""Freed memory is kept for the next step, where it may be."""

import os
import platform
import subprocess
import sys
import types

import pytest

from nfnets import host_memory

FAULTS = """
import ctypes, resource
from nfnets import host_memory
print(host_memory.keep())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def use(size=200_000_000):
  block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
  ctypes.memset(block, 1, size)
  libc.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


HOLES = """
import ctypes, resource
from nfnets import host_memory
assert host_memory.keep()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def resident():
  pages = int(open('/proc/self/statm').read().split()[1])
  return pages * resource.getpagesize()
blocks = [libc.malloc(ctypes.c_size_t(5000 + 16 * i)) for i in range(4000)]
for i, block in enumerate(blocks):
  ctypes.memset(block, 1, 5000 + 16 * i)
holes = set(blocks[::2])
size = sum(5000 + 16 * i for i in range(0, 4000, 2))
for block in holes:
  libc.free(block)
before = resident()
retired = host_memory.retire_holes()
grown = resident() - before
again = {libc.malloc(ctypes.c_size_t(5000)) for _ in range(2000)}
print(size, retired, host_memory.retire_holes(), grown, len(again & holes))
"""
COMPILE = """
import jax
from nfnets import host_memory
host_memory.MIN_SECONDS = {seconds}
assert host_memory.keep() and host_memory.keep()
retired = []
host_memory.retire_holes = lambda: retired.append(1)
x = jax.numpy.ones(3)
retired.clear()
jax.jit(lambda x: x + 1)(x)
print(len(retired))
"""


def run(code, **environment):
  kept = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
  kept.pop(host_memory.SWITCH, None)
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=kept | environment,
    capture_output=True,
    text=True,
    check=True,
    timeout=120,
  )
  return done.stdout.split()


on_glibc = pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='for glibc'
)


@on_glibc
def test_the_second_block_of_a_size_faults_no_page_in():
  kept, faults = run(FAULTS, JAX_PLATFORMS='cpu')
  assert kept == 'True' and int(faults) < 10
  for why in ({host_memory.SWITCH: 'off'}, {'MALLOC_ARENA_MAX': '2'}):
    kept, faults = run(FAULTS, JAX_PLATFORMS='cpu', **why)
    # 200 MB, in pages of 4 kB to 2 MB
    assert kept == 'False' and int(faults) >= 90


@on_glibc
def test_retired_holes_are_not_given_out_and_take_no_memory():
  answer = run(HOLES, JAX_PLATFORMS='cpu')
  size, retired, retired_again, grown, given_out = map(int, answer)
  assert 0.9 * size < retired < 1.1 * size  # the interpreter has holes too
  assert retired_again < size / 100
  assert grown < -size / 2
  assert given_out == 0


@on_glibc
def test_holes_are_retired_once_after_a_long_compilation_alone():
  for seconds, times in (0.0, '1'), (60.0, '0'):
    code = COMPILE.format(seconds=seconds)
    assert run(code, JAX_PLATFORMS='cpu') == [times]


@pytest.mark.parametrize(
  ('platforms', 'device', 'answer'),
  [
    ('cpu', '/dev/null', True),
    ('cuda,cpu', '', False),
    (None, '/dev/null', False),
    (None, '', True),
  ],
)
def test_the_cpu_is_expected_where_it_is_asked_for_or_alone(
  platforms, device, answer, monkeypatch
):
  monkeypatch.setattr(host_memory, 'ACCELERATORS', (device,))
  jax = types.SimpleNamespace(
    config=types.SimpleNamespace(jax_platforms=platforms)
  )
  monkeypatch.setattr(host_memory, 'jax', jax)
  assert host_memory.on_cpu() is answer
