"""The platform that a network is traced for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_platform = contextvars.ContextVar('platform', default=None)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
  """Traces programs inside the block for another platform.

  `jax.jit` caches its traces, so trace a new function inside the block.

  Args:
    platform: such as 'cpu', 'gpu' or 'tpu'.
  """
  token = _platform.set(platform)
  try:
    yield
  finally:
    _platform.reset(token)


def traced_platform() -> str:
  """The platform that programs are traced for; this process's by default."""
  return _platform.get() or jax.default_backend()
