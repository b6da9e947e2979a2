"""Four fake CPU devices; silence made loud."""

import gc
import os
import types

# Level 0 compiles three times as fast; tiny networks run as fast at any level.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=4'
  + ' --xla_backend_optimization_level=0'
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['NFNETS_KEEP_MEMORY'] = 'off'  # what a worker frees, it frees

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='module', autouse=True)
def _compiled_programs_go_with_their_module():
  """A worker that kept them all would outgrow a small machine's memory."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture
def set_flags(monkeypatch):
  """A function that gives flags of a script's module, by name, values."""

  def set_(module, **values):
    for name, value in values.items():
      flag = types.SimpleNamespace(value=value)
      monkeypatch.setattr(module, name.upper(), flag)

  return set_


def pytest_addoption(parser):
  parser.addoption('--slow', action='store_true', help='run slow tests too')


def pytest_collectstart(collector):
  """Scripts that tests import define flags of the same names."""
  del collector
  for name in flags.FLAGS:
    flags.FLAGS[name].allow_override = True


def pytest_collection_modifyitems(config, items):
  if config.getoption('--slow'):
    return
  skip = pytest.mark.skip(reason='slow: run scripts/test.sh --slow')
  for item in items:
    if 'slow' in item.keywords:
      item.add_marker(skip)
