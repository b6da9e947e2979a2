"""Tests of scripts/common.py: what a command says and its exit codes."""

import errno
import logging
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
import tomllib

import pytest

from scripts import common

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
  if PROCESSES()['process_id'] == 4:
    raise BrokenPipeError(32, 'Broken pipe')  # as of a socket
  if PROCESSES()['coordinator_address']:
    print(PROCESSES()['coordinator_address'])
    return 0
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


QUICK = '--config=configs/quickstart.py'
REFUSED = [
  (['--color=blue'], 'several lines'),
  ([], 'set --config, such as --config=configs/nfnet_f0.py'),
  (['more'], "unexpected argument 'more'"),
  (['--color=green'], 'red|blue'),
  (['--colour=red'], 'Did you mean: color'),
  (['--config=configs/quikstart.py'], 'did you mean configs/quickstart.py?'),
  (['--config=quickstart'], 'did you mean configs/quickstart.py?'),
  (['--config='], '--config=: no such file'),
  (['--config=configs'], '--config=configs: no such file'),
  (['--config=README.md'], '--config=README.md is not a recipe: SyntaxError'),
  (['--config=configs/lazy.py'], 'it defines no get_config()'),
  (['--config=configs/finetune.py:big'], "no preset 'big': small, probe"),
  ([QUICK, '--config.batchsize=3'], 'did you mean --config.batch_size=?'),
  ([QUICK, '--config.clipping', '3'], 'mean --config.optimizer.clipping=?'),
  ([QUICK, '--noconfig.nesterov'], 'mean --config.optimizer.nesterov=?'),
  ([QUICK, '--config.size=3'], "no key 'size'"),
  ([QUICK, '--config.model=nf'], 'set one of them, as --config.model.'),
  ([QUICK, '--config.batch_size=many'], '--config.batch_size=many'),
  ([QUICK, '--batch_size=3'], '--config.batch_size='),
  (['--config', QUICK[9:], '--momentum=3'], '--config.optimizer.momentum='),
  ([f'{QUICK}:nosuch'], "it has no presets, so not 'nosuch'"),
  (['--config.batch_size=3'], 'so name one by --config=FILE'),
  (['--out=gs://bucket/x'], '--out=gs://bucket/x: give a local path'),
  ([QUICK, '--lr=3'], '--config.KEY='),
  (['--coordinator_address=foo://there/x'], 'give a local path, gs:// or'),
  ([QUICK, '--config.data.data_dir=foo://there'], 'foo://there'),
]


@pytest.mark.parametrize('arguments, says', REFUSED)
def test_a_refusal_is_one_line_and_exit_code_2(run_thing, arguments, says):
  code, out, err = run_thing(*arguments)
  assert code == 2 and not out
  assert says in err and err.startswith('error: ') and err.count('\n') == 1
  assert '\\n' not in err and ' at 0x' not in err


def test_a_recipe_that_fails_is_named_with_its_line(run_thing, tmp_path):
  recipe = tmp_path / 'mine.py'
  recipe.write_text('def get_config():\n  return 1 / 0\n')
  said = run_thing(f'--config={recipe}').stderr
  assert f'{recipe} is not a recipe, line 2: ZeroDivisionError' in said


def test_home_is_expanded_wherever_a_value_begins_with_it(
  run_thing, monkeypatch
):
  monkeypatch.setenv('HOME', '/my/home')
  # Any flag of a string does.
  said = run_thing('--coordinator_address=~/place').stdout
  assert said == '/my/home/place\n'


def error_of(raised, cause=None):
  error = raised
  error.__cause__ = cause
  return common.explain(error)


def test_what_the_system_refuses_names_the_file_and_the_remedy():
  full = OSError(errno.ENOSPC, 'No space left on device', '/disk/x')
  assert error_of(full) == (
    '/disk/x: the disk is full: free some space, then run this again'
  )
  # However a library wraps it.
  assert 'the disk is full' in error_of(ValueError('Error writing x'), full)
  denied = PermissionError(errno.EACCES, 'Permission denied', '/disk/x')
  assert error_of(denied) == '/disk/x: permission denied'
  missing = FileNotFoundError(errno.ENOENT, 'No such file', '/disk/x')
  assert error_of(missing) == '/disk/x: No such file'


@pytest.mark.parametrize('package', [*common.OPTIONAL, 'somebody_elses'])
def test_a_missing_package_is_named_with_its_command(package):
  error = ModuleNotFoundError(f'No module named {package}', name=f'{package}.x')
  source = common.OPTIONAL.get(package, package)
  said = error_of(error)
  assert said.startswith(f'the package {package} is missing: pip install')
  assert source in said.partition('pip install')[2]
  if source != package:
    text = (
      pathlib.Path(common.__file__).parents[1] / 'pyproject.toml'
    ).read_text()
    extras = tomllib.loads(text)['project']['optional-dependencies']
    assert any(line.startswith(package) for line in extras[source]) or (
      package == 'libtpu' and extras[source] == ['jax[tpu]']
    )


def test_too_little_memory_says_so_and_others_stay_faults_of_ours():
  memory = RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')
  for error in (memory, MemoryError()):
    assert error_of(error).startswith('out of memory: use smaller batches')
    assert 'config.micro_batches' in error_of(error)
  assert error_of(RuntimeError('INTERNAL')) is None
  assert error_of(KeyError('x')) is None


def test_no_address_and_no_quoted_newline_is_ever_printed(capsys):
  common.refuse(
    '[Errno 2] a\\nb <_io.BytesIO object at 0x7f00> <Name at 0x1>\x1b[31m'
  )
  said = capsys.readouterr().err
  assert said == 'error: a b BytesIO Name\\x1b[31m\n'


def test_a_warning_is_a_note_of_one_line():
  record = logging.LogRecord(
    '', 30, '', 0, 'skipped %s', ('a\nb\x1b[2J',), None
  )
  assert common.Notes().format(record) == 'note: skipped a b\\x1b[2J'


def test_the_code_is_what_main_returns_and_keys_are_set(run_thing):
  assert run_thing(QUICK, '--config.batch_size=8') == (1, '8\n', '')
  empty = '--config.optimizer.unclipped='
  assert run_thing(QUICK, empty).stdout.endswith('clips all\n')
  given = run_thing(QUICK, f"{empty}('',)")
  assert not given.stdout.endswith('clips all\n')


def test_other_errors_keep_their_traceback_and_are_not_exit_code_1(run_thing):
  code, _, err = run_thing('--process_id=3')
  assert code == 2 and 'Traceback' in err and 'a fault of ours' in err


def test_help_is_the_docstring_and_the_scripts_own_flags(run_thing):
  code, out, _ = run_thing('--help')
  assert code == 0 and out.startswith('Does things')
  for name in ('--color=red|blue', '--config=', '--[no]distributed'):
    assert name in out
  assert '--verbosity' not in out


@pytest.mark.parametrize('words', [['--help'], [QUICK, '--print_config']])
def test_output_into_a_closed_pipe_ends_as_sigpipe_does(words):
  read, write = os.pipe()
  os.close(read)
  done = subprocess.run(
    [sys.executable, '-m', 'scripts.train', *words],
    cwd=pathlib.Path(__file__).parents[1],
    stdout=write,
    stderr=subprocess.PIPE,
    check=False,
  )
  os.close(write)
  assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b'')


def test_another_broken_pipe_is_told(run_thing):
  code, _, said = run_thing('--process_id=4')
  assert (code, said) == (2, 'error: Broken pipe\n')


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


STUCK = """
import gc, time
from scripts import common

def main(words):
  print('ready', flush=True)
  if words == ['compiler']:  # as XLA's: out of Python, without its lock
    import hashlib
    hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)
  gc.callbacks.append(lambda *_: time.sleep(0.2))  # where it is dropped
  while True:
    gc.collect()

common.run(main, positional=True)
"""


@pytest.mark.parametrize('where', ['compiler', 'collector'])
def test_ctrl_c_ends_a_command_wherever_it_is(where):
  running = subprocess.Popen(
    [sys.executable, '-c', STUCK, where],
    cwd=pathlib.Path(__file__).parents[1],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert running.stdout.readline() == 'ready\n'
  started = time.monotonic()
  running.send_signal(signal.SIGINT)
  _, said = running.communicate(timeout=50)
  assert running.returncode == 2 and time.monotonic() - started < 30
  assert said == 'error: stopped by Ctrl-C\n'
