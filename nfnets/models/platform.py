"""The platform that a network is traced for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_platform = contextvars.ContextVar('platform', default=None)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
  """Programs traced within the block are in the form of that platform.

  `jax.jit` keeps what it traced: trace a function there that is new.

  Args:
    platform: such as 'cpu', 'gpu' or 'tpu'.
  """
  token = _platform.set(platform)
  try:
    yield
  finally:
    _platform.reset(token)


def traced_platform() -> str:
  """The platform that programs are traced for: by default this process's."""
  return _platform.get() or jax.default_backend()
