"""The loop: what it writes, how it stops, how it goes on."""

import errno
import gc
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nfnets import checkpoint, factory, step, train, workdir
from nfnets import run as running
from nfnets.data import pipeline


def run_config(**values):
  return tiny.config(
    **{
      'num_steps': 6,
      'log_every': 2,
      'eval_every': 6,
      'observe_every': 3,
      'eval_batch_size': 100,
      'checkpoint_every': 2,
      'data__cache': True,
      'ema__mode': 'warmup',
      **values,
    }
  )


def last_state(config, workdir):
  network, optimizer = factory.network_of(config), factory.optimizer_of(config)
  shapes = jax.eval_shape(
    lambda key: step.init_state(config, network, optimizer, key),
    jax.random.key(0),
  )
  checkpoints = checkpoint.Checkpoints(workdir)
  state = checkpoints.restore_latest(shapes)
  checkpoints.close()
  return state


def assert_bit_equal(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.fixture
def guard_the_loop(monkeypatch):
  """From the first batch on, every implicit transfer is an error."""
  batches = pipeline.train_batches

  def guarded(*args, **kwargs):
    jax.config.update('jax_transfer_guard', 'disallow')
    yield from batches(*args, **kwargs)

  monkeypatch.setattr(pipeline, 'train_batches', guarded)
  yield
  jax.config.update('jax_transfer_guard', 'allow')


@pytest.mark.usefixtures('guard_the_loop')
def test_a_run_writes_config_metrics_summary_curves_and_checkpoints(tmp_path):
  config = run_config()
  summary = train.train(running.set_up(config, tmp_path))
  jax.config.update('jax_transfer_guard', 'allow')
  assert summary['status'] == 'finished' and summary['step'] == 6
  assert summary['eval/count'] == summary['eval_ema/count'] == 359
  folder = workdir.RunFolder(tmp_path)
  assert folder.read_summary() == pytest.approx(summary)
  assert folder.read_config()['batch_size'] == config.batch_size
  rows = [r for r in folder.read_metrics() if 'train/loss' in r]
  assert [row['step'] for row in rows] == [2, 4, 6]
  rows = [r for r in folder.read_metrics() if 'agc/clipped_fraction' in r]
  assert [row['step'] for row in rows] == [3, 6]
  assert all(0 < row['agc/stage/stage_1/ratio_q50'] < 10 for row in rows)
  for picture in ('curves.png', 'clipping.png'):
    assert (tmp_path / picture).read_bytes().startswith(b'\x89PNG')
  assert list((tmp_path / 'tensorboard').iterdir())
  assert int(last_state(config, tmp_path).step) == 6


def test_sigterm_saves_and_the_same_command_goes_on_bit_for_bit(
  tmp_path, monkeypatch
):
  config = run_config(model__drop_rate=0.1)
  train.train_and_evaluate(config, tmp_path / 'whole')
  batches = pipeline.train_batches

  def terminated(*args, **kwargs):
    for number, batch in enumerate(batches(*args, **kwargs)):
      if number == 3:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch

  monkeypatch.setattr(pipeline, 'train_batches', terminated)
  summary = train.train_and_evaluate(config, tmp_path / 'parts')
  assert summary['status'] == 'interrupted' and summary['step'] == 4
  monkeypatch.undo()
  summary = train.train_and_evaluate(config, tmp_path / 'parts')
  assert summary['status'] == 'finished' and summary['step'] == 6
  assert_bit_equal(
    last_state(config, tmp_path / 'parts'),
    last_state(config, tmp_path / 'whole'),
  )
  assert train.train_and_evaluate(config, tmp_path / 'parts') == summary
  steps = [
    row['step']
    for row in workdir.RunFolder(tmp_path / 'parts').read_metrics()
    if 'train/loss' in row
  ]
  assert steps == [2, 4, 6]


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import conftest, test_train
from nfnets import train
train.train_and_evaluate(test_train.run_config(num_steps=8), sys.argv[1])
"""


def test_kill_9_and_resume_equals_an_unbroken_run_bit_for_bit(tmp_path):
  paths = [
    os.path.dirname(__file__),
    os.path.dirname(os.path.dirname(__file__)),
  ]
  script = [sys.executable, '-c', SCRIPT.format(paths=paths)]
  broken = subprocess.Popen(
    [*script, str(tmp_path / 'broken')], stdout=subprocess.DEVNULL
  )
  saved = tmp_path / 'broken' / 'checkpoints' / '4'
  deadline = time.time() + 300
  while not saved.exists() and time.time() < deadline:
    assert broken.poll() is None
    time.sleep(0.002)
  broken.kill()
  assert broken.wait() == -signal.SIGKILL
  config = run_config(num_steps=8)
  train.train_and_evaluate(config, tmp_path / 'broken')
  train.train_and_evaluate(config, tmp_path / 'whole')
  assert_bit_equal(
    last_state(config, tmp_path / 'broken'),
    last_state(config, tmp_path / 'whole'),
  )


@pytest.mark.parametrize('k', [1, 3])
def test_k_nonfinite_steps_stop_the_run_and_leave_the_last_good_checkpoint(
  k, tmp_path, capsys, monkeypatch
):
  config = run_config(
    num_steps=20, log_every=1, checkpoint_every=1, stop_after_nonfinite=k
  )
  schedule = lambda step: jnp.where(step < 3, 0.01, 1e38)
  monkeypatch.setattr(factory, 'schedule_of', lambda config: schedule)
  summary = train.train_and_evaluate(config, tmp_path)
  assert summary['status'] == 'diverged' and summary['step'] == 3 + k
  rows = workdir.RunFolder(tmp_path).read_metrics()
  skipped = [row['train/nonfinite'] for row in rows if 'train/loss' in row]
  assert skipped == [0, 0, 0] + [1] * k
  said = capsys.readouterr().out
  before = {1: '', 3: ', like the 2 before'}[k]
  assert f'step {3 + k} is not finite{before}' in said
  state = last_state(config, tmp_path)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
  assert f'checkpoint of step {int(state.step)}' in said


def test_another_configs_workdir_is_refused_naming_the_key(tmp_path):
  workdir.RunFolder(tmp_path).write_config(run_config().to_dict())
  running.set_up(run_config(log_every=1), tmp_path)
  with pytest.raises(ValueError, match='learning_rate .0.1 there, 0.3 here'):
    running.set_up(run_config(learning_rate=0.3), tmp_path)


def no_work(run):
  """A step of no work, in the place of `run.train_step_of`."""
  del run

  def step_of_no_work(state, batch, key):
    del key
    one = jnp.float32(1) + 0 * batch['stop'].max()
    names = 'loss', 'top_1', 'grad_norm', 'learning_rate'
    metrics = dict.fromkeys(names, one)
    metrics |= {'nonfinite': 0 * one, 'stop': batch['stop'].max()}
    return state._replace(step=state.step + 1), metrics

  return jax.jit(step_of_no_work, donate_argnums=0), jax.random.key(0)


def test_an_evaluation_that_a_signal_cut_off_is_made_up_for(
  tmp_path, monkeypatch
):
  config = run_config(
    num_steps=4, log_every=1, observe_every=0, eval_every=2, checkpoint_every=9
  )
  calls = []

  def evaluate(run, eval_step, state, interrupts):
    calls.append(int(state.step))
    if len(calls) == 1:
      os.kill(os.getpid(), signal.SIGTERM)
    return None if interrupts else {'eval/loss': float(len(calls))}

  monkeypatch.setattr(running, 'train_step_of', no_work)
  monkeypatch.setattr(running, 'evaluate', evaluate)
  first = train.train(running.set_up(config, tmp_path))
  assert first == {'status': 'interrupted', 'step': 2}
  second = train.train(running.set_up(config, tmp_path))
  assert second == {'status': 'finished', 'step': 4, 'eval/loss': 3.0}
  assert calls == [2, 2, 4]
  rows = workdir.RunFolder(tmp_path).read_metrics()
  found = [(r['step'], r['eval/loss']) for r in rows if 'eval/loss' in r]
  assert found == [(2, 2.0), (4, 3.0)]
  (tmp_path / 'summary.json').unlink()  # as a kill before it would leave it
  assert train.train(running.set_up(config, tmp_path)) == second
  assert len(calls) == 3


def test_a_checkpoint_that_cannot_be_written_ends_the_run_naming_the_last(
  tmp_path, monkeypatch
):
  config = run_config(num_steps=9, observe_every=0, checkpoint_every=1)
  save = checkpoint.ocp.CheckpointManager.save

  def fill_up(manager, step, **kwargs):
    if step == 3:
      raise OSError(errno.ENOSPC, 'No space left on device')
    return save(manager, step, **kwargs)

  monkeypatch.setattr(running, 'train_step_of', no_work)
  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, 'save', fill_up)
  with pytest.raises(OSError, match='No space left.*newest whole one is 2'):
    train.train(running.set_up(config, tmp_path))
  assert int(last_state(config, tmp_path).step) == 2


def memory_and_files():
  """Resident bytes and open files of this process."""
  gc.collect()
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE'), len(os.listdir('/proc/self/fd'))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_in_100000_steps_neither_memory_nor_open_files_grow(
  tmp_path, monkeypatch
):
  """The loop with all its sinks and checkpoints, around a step of no work."""
  num_steps = 100_000
  config = run_config(
    num_steps=num_steps,
    log_every=100,
    observe_every=0,
    eval_every=num_steps,
    checkpoint_every=5000,
  )
  found = {}

  def batches(run, start):
    for done in range(start, num_steps):
      if done % 20_000 == 2_500:  # between two checkpoints
        found[done] = memory_and_files()
      yield {}

  monkeypatch.setattr(running, 'train_batches', batches)
  monkeypatch.setattr(running, 'train_step_of', no_work)
  summary = train.train(running.set_up(config, tmp_path))
  assert summary['status'] == 'finished'
  assert len(workdir.RunFolder(tmp_path).read_metrics()) == 1001
  (_, _), (bytes_before, files_before), *_, (bytes_after, files_after) = (
    found.values()
  )
  assert bytes_after - bytes_before < 2**24  # 280 bytes a step would show
  assert files_after <= files_before


def test_steps_dispatched_together_are_those_dispatched_singly(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(running, 'evaluate', lambda *_: {})  # compiles for long
  rows = {}
  for count in (1, 3):
    config = run_config(
      steps_per_dispatch=count, log_every=3, checkpoint_every=6,
      data__on_device=True, augment__pad=1,
    )  # fmt: skip
    train.train(running.set_up(config, tmp_path / str(count)))
    folder = workdir.RunFolder(tmp_path / str(count))
    rows[count] = [
      {k: v for k, v in row.items() if 'seconds' not in k and '/loss' in k
       or 'top_1' in k or 'agc' in k}
      for row in folder.read_metrics()
    ]  # fmt: skip
  assert rows[3] == rows[1]
  one, three = (last_state(config, tmp_path / str(c)) for c in (1, 3))
  assert_bit_equal(one, three)
