"""Several real processes on loopback make one run."""

import json
import os
import signal
import socket
import threading
import time

import crew
import jax
import numpy as np
import pytest
from test_train import last_state

from nfnets import distributed, train, workdir


def steps_of(folder):
  rows = workdir.RunFolder(folder).read_metrics()
  return {r['step']: r['train/loss'] for r in rows if 'train/loss' in r}


def assert_close(tree, other):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
    tree,
    other,
  )


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The run in one process with all four devices."""
  folder = tmp_path_factory.mktemp('alone')
  return folder, train.train_and_evaluate(crew.config(), folder)


@pytest.mark.slow
@pytest.mark.parametrize('count', [2, 4])
def test_several_processes_equal_one_with_all_devices(alone, tmp_path, count):
  codes, said = crew.finish(crew.start(count, tmp_path, 'whole'))
  assert codes == [0] * count, said
  folder, summary = alone
  for index in range(count):
    found = json.loads((tmp_path / f'ended{index}').read_text())
    assert found['eval/count'] == summary['eval/count'] == 359
    assert found['eval/top_1'] == summary['eval/top_1']
  assert_close(
    last_state(crew.config(), tmp_path / 'run'),
    last_state(crew.config(), folder),
  )


@pytest.mark.slow
@pytest.mark.parametrize('count', [2, 4])
def test_a_killed_process_ends_all_and_another_number_resumes(
  alone, tmp_path, count
):
  processes = crew.start(count, tmp_path, 'killed')
  processes[-1].wait()
  start = time.monotonic()
  codes, said = crew.finish(processes)
  assert time.monotonic() - start < 4 * crew.HEARTBEAT
  assert codes[-1] == -signal.SIGKILL and 0 not in codes, said
  saved = workdir.RunFolder(tmp_path / 'run').saved_steps()
  assert saved and saved[-1] in (2, 4)
  codes, said = crew.finish(crew.start(6 - count, tmp_path, 'whole'))
  assert codes == [0] * (6 - count), said
  folder, _ = alone
  assert_close(
    last_state(crew.config(), tmp_path / 'run'),
    last_state(crew.config(), folder),
  )
  assert steps_of(tmp_path / 'run') == pytest.approx(steps_of(folder), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['stopped', 'interrupted'])
def test_a_signal_to_one_process_makes_all_save_at_the_same_step(
  tmp_path, task
):
  codes, said = crew.finish(crew.start(2, tmp_path, task))
  assert codes == [75, 75], said
  ends = [json.loads((tmp_path / f'ended{i}').read_text()) for i in range(2)]
  assert ends[0] == ends[1] and ends[0]['status'] == 'interrupted'
  saved = workdir.RunFolder(tmp_path / 'run').saved_steps()
  assert saved == [ends[0]['step']] and 0 < saved[0] < 2000


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_within_the_heartbeat(tmp_path):
  processes = crew.start(2, tmp_path, 'failed')
  processes[1].wait()
  start = time.monotonic()
  codes, said = crew.finish(processes)
  assert time.monotonic() - start < 4 * crew.HEARTBEAT
  assert 0 not in codes and 'error: the picture is gone' in said[1]


@pytest.mark.slow
def test_processes_that_differ_are_all_refused_with_what_differs(tmp_path):
  codes, said = crew.finish(crew.start(2, tmp_path, 'differing'))
  assert codes == [2, 2]
  culprit = 'config.learning_rate: 0.1 in process 0, 0.2 in process 1'
  assert all(culprit in text for text in said), said
  codes, said = crew.finish(crew.start(2, tmp_path, 'elsewhere'))
  assert codes == [2, 2]
  assert all('differ in --workdir, held by' in text for text in said), said


@pytest.fixture
def joined(monkeypatch):
  """What `jax.distributed.initialize` is called with."""
  calls = []
  monkeypatch.setattr(
    jax.distributed, 'initialize', lambda **kwargs: calls.append(kwargs)
  )
  monkeypatch.setattr(jax.config, 'update', lambda *_: None)
  for name in list(os.environ):
    if name.startswith(('JAX_COORD', 'JAX_NUM', 'JAX_PROC', 'SLURM', 'OMPI')):
      monkeypatch.delenv(name)
  return calls


def test_processes_join_by_flags_environment_or_slurm(joined, monkeypatch):
  assert not distributed.initialize()
  assert not distributed.initialize(False, 'a:1', 2, 0)
  with pytest.raises(ValueError, match='missing: num_processes, process_id'):
    distributed.initialize(coordinator_address='a:1')
  assert not joined
  assert distributed.initialize(None, 'a:1', 2, 1, 5)
  assert joined[-1]['num_processes'] == 2
  assert joined[-1]['heartbeat_timeout_seconds'] == 5
  with monkeypatch.context() as patch:
    patch.setenv('JAX_COORDINATOR_ADDRESS', 'b:1')
    patch.setenv('JAX_NUM_PROCESSES', '3')
    patch.setenv('JAX_PROCESS_ID', '1')
    assert distributed.initialize()
    assert joined[-1]['coordinator_address'] == 'b:1'
    assert joined[-1]['num_processes'] == 3 and joined[-1]['process_id'] == 1
    patch.setenv('JAX_NUM_PROCESSES', 'abc')
    with pytest.raises(ValueError, match='NUM_PROCESSES=abc: must be a whole'):
      distributed.initialize()
  monkeypatch.setenv('SLURM_STEP_NODELIST', 'n[1-2]')
  monkeypatch.setenv('SLURM_NTASKS', '1')
  assert not distributed.initialize()
  monkeypatch.setenv('SLURM_NTASKS', '2')
  assert distributed.initialize()
  assert 'coordinator_address' not in joined[-1]  # JAX finds the others


@pytest.mark.parametrize(
  ('address', 'index', 'culprit'),
  [
    ('localhost', 0, '--coordinator_address=localhost: must be HOST:PORT'),
    (':8766', 1, '--coordinator_address=:8766: must be HOST:PORT'),
    ('a:70000', 1, '--coordinator_address=a:70000: must be HOST:PORT'),
    ('a:1', 2, '--process_id=2'),
    ('localhost:{taken}', 0, 'cannot listen on this port .*another for all'),
  ],
)
def test_an_invalid_address_or_index_is_refused_by_name(
  joined, address, index, culprit
):
  with socket.create_server(('', 0)) as server:
    address = address.format(taken=server.getsockname()[1])
    with pytest.raises(ValueError, match=culprit):
      distributed.initialize(None, address, 2, index)
  assert not joined


def test_jaxs_errors_become_refusals(joined, monkeypatch):
  def fail(**_):
    raise RuntimeError('UNKNOWN: gone')

  monkeypatch.setattr(jax.distributed, 'initialize', fail)
  with pytest.raises(ValueError, match='other processes: UNKNOWN: gone'):
    distributed.initialize(None, 'a:1', 2, 1)


def test_a_single_process_raises_its_own_error():
  with pytest.raises(OSError, match='full'), distributed.agreement():
    raise OSError('full')
  assert distributed.exchange({'a': [1]}) == [{'a': [1]}]


@pytest.mark.parametrize(
  'number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
)
def test_a_signal_requests_a_stop_and_a_second_ctrl_c_raises(number):
  handler = lambda *_: None
  before = signal.signal(number, handler)  # nohup and `&` ignore some
  try:
    with distributed.Interrupts() as interrupts:
      interrupts.check()
      os.kill(os.getpid(), number)
      with pytest.raises(distributed.Interrupted):
        interrupts.check()
      if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
          os.kill(os.getpid(), number)
    assert signal.getsignal(number) == handler
  finally:
    signal.signal(number, before)


def test_batches_pass_unchanged_and_a_stalled_read_can_be_interrupted(
  monkeypatch, caplog
):
  monkeypatch.setattr(distributed, 'STALLED', 0.2)
  never = threading.Event()

  def batches():
    yield from 'ab'
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    never.wait()

  before = signal.signal(signal.SIGTERM, lambda *_: None)
  try:
    with distributed.Interrupts() as interrupts:
      assert list(interrupts.each(iter('ab'))) == ['a', 'b']
      read = interrupts.each(batches())
      assert [next(read), next(read)] == ['a', 'b']
      with pytest.raises(distributed.Interrupted):
        next(read)
  finally:
    signal.signal(signal.SIGTERM, before)
    never.set()
  assert 'no input for' in caplog.text


def test_a_call_in_a_thread_returns_raises_or_is_abandoned():
  before = signal.signal(signal.SIGTERM, lambda *_: None)
  try:
    with distributed.Interrupts() as interrupts:
      assert interrupts.call(lambda x: x + 1, 1) == 2
      with pytest.raises(OSError, match='/proc/none'):
        interrupts.call(os.mkdir, '/proc/none')
      os.kill(os.getpid(), signal.SIGTERM)
      start = time.monotonic()
      with pytest.raises(distributed.Interrupted):
        interrupts.call(time.sleep, 60)
      assert time.monotonic() - start < 20
  finally:
    signal.signal(signal.SIGTERM, before)
