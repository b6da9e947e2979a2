"""Freed memory is kept for the next step, where it may be."""

import os
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


def run(**environment):
  kept = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
  kept.pop(host_memory.SWITCH, None)
  done = subprocess.run(
    [sys.executable, '-c', FAULTS],
    env=kept | environment,
    capture_output=True,
    text=True,
    check=True,
  )
  answer, faults = done.stdout.split()
  return answer == 'True', int(faults)


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc only')
def test_the_second_block_of_a_size_faults_no_page_in():
  kept, faults = run(JAX_PLATFORMS='cpu')
  assert kept and faults < 10
  for why in ({host_memory.SWITCH: 'off'}, {'MALLOC_ARENA_MAX': '2'}):
    kept, faults = run(JAX_PLATFORMS='cpu', **why)
    assert not kept and faults >= 90  # 200 MB, in pages of 4 kB to 2 MB


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
