"""A parent hands signals on, ends as its child ends, and speaks for it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from nfnets import guard, watch

CHILD = """
import os, signal, sys, time
from nfnets import guard
guard.stand()
assert 'jax' not in sys.modules and 'numpy' not in sys.modules
assert os.getsid(0) == os.getpid() != os.getppid()
print(os.getpid(), flush=True)
"""
TOLD = "guard.tell(sys.argv[1], 1, 3, 0.5)\nprint('told', flush=True)\n"
WAITS = 'time.sleep(100)\n'
# The tests may have been started by what ignores some: nohup, `&`.
HEEDING = [sys.executable, '-c', f"""
import os, signal, sys
for number in {[int(number) for number in guard.SIGNALS]}:
  signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""]  # fmt: skip


def start(tmp_path, body, before=HEEDING, **options):
  return subprocess.Popen(
    [*before, sys.executable, '-c', CHILD + body, str(tmp_path)],
    cwd=pathlib.Path(guard.__file__).parents[1],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


def finish(process):
  try:
    said = process.communicate(timeout=60)[1]
  finally:
    process.kill()
  return process.returncode, said


def beat(folder, index, ended=None):
  other = watch.Watch(folder, index, 3, 1)
  other.step = 7
  other._write(ended)


def news(folder):
  return json.loads((folder / 'processes' / '1.json').read_text())


@pytest.mark.parametrize(
  ('body', 'code'),
  [('', 0), ('sys.exit(75)', 75), ('os._exit(69)', 69), ('1 / 0', 1)],
)
def test_the_childs_code_is_the_parents(tmp_path, body, code):
  found, said = finish(start(tmp_path, body))
  assert found == code and ('ZeroDivisionError' in said) == (code == 1)


def test_a_signal_after_the_childs_end_does_not_replace_its_code():
  script = f"""
import atexit, os, signal
atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
{CHILD}
os._exit(75)
"""
  done = subprocess.run(
    [sys.executable, '-c', script],
    cwd=pathlib.Path(guard.__file__).parents[1],
    stdout=subprocess.DEVNULL,
    timeout=60,
    check=False,
  )
  assert done.returncode == 75


@pytest.mark.parametrize('number', guard.SIGNALS)
def test_a_signal_to_the_parent_arrives_at_the_child_once(tmp_path, number):
  body = f"""
got = []
signal.signal({number}, lambda *_: got.append(1))
print('up', flush=True)
while not got:
  time.sleep(0.01)
time.sleep(0.2)
sys.exit(70 + len(got))
"""
  process = start(tmp_path, body, start_new_session=True)
  assert [process.stdout.readline() for _ in range(2)][1] == 'up\n'
  os.killpg(process.pid, number)  # as a terminal sends it: to its whole group
  assert finish(process)[0] == 71


def test_what_the_parent_ignores_the_child_ignores_too(tmp_path):
  process = start(
    tmp_path,
    'assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN\n'
    "print('up', flush=True)\ntime.sleep(0.3)\nsys.exit(5)",
    before=['bash', '-c', 'trap "" HUP; exec "$@"', 'bash'],
  )
  assert [process.stdout.readline() for _ in range(2)][1] == 'up\n'
  process.send_signal(signal.SIGHUP)
  assert finish(process)[0] == 5


def test_the_child_is_killed_with_its_parent(tmp_path):
  process = start(tmp_path, TOLD + WAITS)
  child = int(process.stdout.readline())
  assert process.stdout.readline() == 'told\n'
  process.kill()
  process.communicate()  # until the child, too, has let go of the pipes
  with pytest.raises(ProcessLookupError):
    for _ in range(1000):
      os.kill(child, 0)
      time.sleep(0.01)


def test_a_killed_child_is_told_to_the_others_at_once(tmp_path):
  beat(tmp_path, 1)
  process = start(tmp_path, TOLD + WAITS)
  child = int(process.stdout.readline())
  assert process.stdout.readline() == 'told\n'
  os.kill(child, signal.SIGKILL)
  code, said = finish(process)
  assert code == 128 + signal.SIGKILL
  assert said.startswith('error: process 1 of 3: SIGKILL ended it (as when mem')
  assert news(tmp_path)['ended'] == 'SIGKILL'
  assert news(tmp_path)['pid'] == child and news(tmp_path)['step'] == 7


def test_an_aborted_childs_parent_names_the_silent_process(tmp_path):
  beat(tmp_path, 0)
  beat(tmp_path, 2, 'over')
  code, said = finish(start(tmp_path, TOLD + 'os.abort()'))
  assert code == watch.EXIT_CODE and said.count('\n') == 1
  assert said.startswith('error: process 0 of 3 (')
  assert 'at step 7) is missing: silent for 0.5 seconds; run the same' in said
  assert news(tmp_path)['ended'].startswith('process 0 of 3 (')


def test_an_aborted_childs_parent_quotes_who_failed(tmp_path):
  beat(tmp_path, 0, 'ValueError: bad luck')
  beat(tmp_path, 2)
  code, said = finish(start(tmp_path, TOLD + 'os.abort()'))
  assert code == watch.EXIT_CODE
  assert 'process 0 of 3 (' in said and 'ended: ValueError: bad luck' in said


def test_a_child_that_aborts_by_itself_is_the_one_to_name(tmp_path):
  beat(tmp_path, 0, 'over')
  beat(tmp_path, 2, 'over')
  code, said = finish(start(tmp_path, TOLD + 'os.abort()'))
  assert code == 128 + signal.SIGABRT
  assert 'process 1 of 3: SIGABRT ended it' in said
  assert news(tmp_path)['ended'] == 'SIGABRT'


def test_an_abort_of_a_single_process_waits_for_nobody(tmp_path):
  alone = 'guard.tell(sys.argv[1], 0, 1, 3600)\nos.abort()\n'
  code, said = finish(start(tmp_path, alone))  # a look would take six minutes
  assert code == 128 + signal.SIGABRT
  assert 'process 0 of 1: SIGABRT ended it' in said


def test_an_abort_before_the_processes_met_is_put_down_to_another(tmp_path):
  code, said = finish(start(tmp_path, 'os.abort()'))
  assert code == watch.EXIT_CODE
  assert 'another did not come or is gone' in said
  code, said = finish(start(tmp_path, 'os.kill(os.getpid(), signal.SIGTERM)'))
  assert code == 128 + signal.SIGTERM and 'SIGTERM ended this process' in said


def test_without_a_parent_there_is_nobody_to_tell(tmp_path):
  guard.tell(tmp_path, 0, 2, 1.0)
  assert not list(tmp_path.iterdir())
