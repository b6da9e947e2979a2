"""Tests of scripts/common.py: what a command says and its exit codes."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

SCRIPT = '''"""Does things: python -m {name}.

Exit codes: 0 done, 2 refused.
"""

from absl import flags

from scripts import common

CONFIG = common.config_flag()
COLOR = flags.DEFINE_enum('color', 'red', ('red', 'blue'), 'Of the thing.')
PROCESSES = common.process_flags()


def main() -> int:
  if COLOR.value == 'blue':
    raise ValueError("""several
    lines""")
  if PROCESSES()['process_id'] == 3:
    raise AssertionError('a fault of ours')
  config = common.needed(CONFIG, 'configs/nfnet_f0.py')
  print(config.batch_size)
  if config.optimizer.unclipped == ():
    print('clips all')
  return 1


common.run(main)
'''


@pytest.fixture
def run_thing(run_script, tmp_path, monkeypatch, request):
  name = f'thing_{request.node.name.partition("[")[0]}'
  (tmp_path / f'{name}.py').write_text(SCRIPT.replace('{name}', name))
  monkeypatch.syspath_prepend(tmp_path)
  return lambda *arguments: run_script(name, *arguments)


@pytest.mark.parametrize(
  'arguments, says',
  [
    (['--color=blue'], 'several lines'),
    ([], 'name --config, such as --config=configs/nfnet_f0.py'),
    (['more'], "unexpected argument 'more'"),
    (['--color=green'], 'red|blue'),
    (['--colour=red'], 'Did you mean: color'),
    (['--config=configs/none.py'], 'configs/none.py'),
    (['--config=configs/quickstart.py', '--config.size=3'], 'size'),
    (
      ['--config=configs/quickstart.py', '--batch_size=3'],
      '--config.batch_size=',
    ),
  ],
)
def test_a_refusal_is_one_line_and_exit_code_2(run_thing, arguments, says):
  code, out, err = run_thing(*arguments)
  assert code == 2 and not out
  assert says in err and err.startswith('error: ') and err.count('\n') == 1


def test_the_code_is_what_main_returns_and_keys_are_set(run_thing):
  config = '--config=configs/quickstart.py'
  assert run_thing(config, '--config.batch_size=8') == (1, '8\n', '')
  empty = '--config.optimizer.unclipped='
  assert run_thing(config, empty).stdout.endswith('clips all\n')


def test_other_errors_keep_their_traceback_and_are_not_exit_code_1(run_thing):
  code, _, err = run_thing('--process_id=3')
  assert code == 2 and 'Traceback' in err and 'a fault of ours' in err


def test_help_is_the_docstring_and_the_scripts_own_flags(run_thing):
  code, out, _ = run_thing('--help')
  assert code == 0 and out.startswith('Does things')
  for name in ('--color=red|blue', '--config=', '--[no]distributed'):
    assert name in out
  assert '--verbosity' not in out


FAULTS = """
import ctypes, resource
from scripts import common
print(common.keep_freed_memory())
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


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='for glibc')
@pytest.mark.parametrize('is_set', [False, True])
def test_freed_memory_is_kept_unless_malloc_is_set_otherwise(is_set):
  environment = {k: v for k, v in os.environ.items() if 'MALLOC_' not in k}
  environment |= {'JAX_PLATFORMS': 'cpu'}
  if is_set:
    environment['MALLOC_ARENA_MAX'] = '2'
  done = subprocess.run(
    [sys.executable, '-c', FAULTS],
    cwd=pathlib.Path(__file__).parents[1],
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  )
  kept, faults = done.stdout.split()
  assert kept == str(not is_set)
  # 200 MB are 90 to 50,000 pages of 2 MB to 4 kB.
  assert (int(faults) >= 90) == is_set
