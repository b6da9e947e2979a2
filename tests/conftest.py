"""Four fake CPU devices, strict settings, and a runner of commands."""

import atexit
import contextlib
import gc
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from typing import NamedTuple

# Level 0 compiles three times as fast, and tiny networks run as fast with it.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=4'
  + ' --xla_backend_optimization_level=0'
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# glibc's default; that it is set keeps scripts from changing malloc's settings.
os.environ['MALLOC_TOP_PAD_'] = '131072'

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
# A shell's background job ignores SIGINT, and so would the processes of tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='module', autouse=True)
def _drop_compiled_programs():
  """After each module, or a worker would outgrow a small machine's memory."""
  yield
  jax.clear_caches()
  gc.collect()


class Done(NamedTuple):
  """How a command ended."""

  code: int
  stdout: str
  stderr: str


@pytest.fixture
def run_script(monkeypatch, capfd):
  """A function that runs a command: run_script('scripts.convert', 'IN', 'OUT').

  It returns the exit code and the output. The command runs in this process, or
  with process=True in one of its own, with `env` added to the environment, for
  at most `timeout` seconds.
  """

  def run(module, *arguments, process=False, env=None, timeout=300):
    arguments = [str(argument) for argument in arguments]
    if process:
      done = subprocess.run(
        [sys.executable, '-m', module, *arguments],
        cwd=pathlib.Path(__file__).parents[1],
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
      )
      return Done(done.returncode, done.stdout, done.stderr)
    capfd.readouterr()
    with (
      monkeypatch.context() as patch,
      _flags_of_its_own(),
      warnings.catch_warnings(),
    ):
      patch.setattr(sys, 'argv', [module, *arguments])
      patch.delitem(sys.modules, module, raising=False)  # imported by a test
      for key, value in (env or {}).items():
        patch.setenv(key, value)
      # ml_collections calls it to load a config file.
      warnings.filterwarnings('ignore', 'the load_module', DeprecationWarning)
      try:
        runpy.run_module(module, run_name='__main__', alter_sys=True)
        code = 0
      except SystemExit as done:
        code = done.code or 0
    return Done(code, *capfd.readouterr())

  return run


@contextlib.contextmanager
def _flags_of_its_own():
  """Hides the flags of scripts that tests imported, then restores them.

  Libraries' flags stay: they are defined only once, at their import.
  """

  def scripts_flags():
    find = flags.FLAGS.find_module_defining_flag
    place = lambda name: getattr(sys.modules.get(find(name)), '__file__', '')
    return {
      name: flags.FLAGS[name]
      for name in flags.FLAGS
      if name.startswith('config.') or 'site-packages' not in place(name)
    }

  hidden = scripts_flags()
  for name in hidden:
    delattr(flags.FLAGS, name)
  try:
    yield
  finally:
    for name in scripts_flags():
      delattr(flags.FLAGS, name)
    for name, flag in hidden.items():
      flags.FLAGS[name] = flag


@pytest.fixture
def python_with_timm():
  """A Python that has timm and PyTorch."""
  from nfnets.weights import certificate

  try:
    return certificate.python_with_timm()
  except ValueError as error:
    pytest.skip(str(error))


def pytest_configure():
  """Lets tests of one process that compile the same program share it.

  Each process has a folder of its own: JAX doesn't write into it atomically.
  """
  folder = tempfile.mkdtemp(prefix='nfnets_tests_')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def pytest_addoption(parser):
  parser.addoption('--slow', action='store_true', help='also run slow tests')


def pytest_collectstart(collector):
  """Allows scripts that tests import to define flags of the same names."""
  del collector
  for name in flags.FLAGS:
    flags.FLAGS[name].allow_override = True


def pytest_collection_modifyitems(config, items):
  if config.getoption('--slow'):
    return
  skip = pytest.mark.skip(reason='slow: scripts/test.sh --slow runs it')
  for item in items:
    if 'slow' in item.keywords:
      item.add_marker(skip)
