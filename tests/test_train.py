"""The loop: what it writes, how it stops, how it resumes."""

import functools
import gc
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs import base
from nfnets import (
  checkpoint,
  factory,
  loggers,
  metrics,
  parallel,
  step,
  train,
  weights,
  workdir,
)
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
  checkpoints = checkpoint.Checkpoints(workdir)
  state = checkpoints.restore_latest(step.state_shapes(config))
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
def test_a_run_writes_config_metrics_summary_curves_and_checkpoints(
  tmp_path, capfd
):
  config = run_config(optimizer__clip='agc')
  summary = train.train_and_evaluate(config, tmp_path)
  jax.config.update('jax_transfer_guard', 'allow')
  said, complaints = capfd.readouterr()
  told = [
    'cifar_resnet_20 on digits', 'initializing', 'gain_or_bias',
    'compiling the first step',
    'step 2/6  loss', 'step 6/6', 'test accuracy', 'curves', 'run folder',
  ]  # fmt: skip
  found = [said.index(words) for words in told]
  assert found == sorted(found) and not complaints
  assert summary['status'] == 'finished' and summary['step'] == 6
  assert summary['eval/count'] == summary['eval_ema/count'] == 359
  folder = workdir.RunFolder(tmp_path)
  assert folder.read_summary() == pytest.approx(summary)
  assert folder.read_config()['batch_size'] == config.batch_size
  assert folder.read_class_names() == [str(i) for i in range(10)]
  rows = [r for r in folder.read_metrics() if 'train/loss' in r]
  assert [row['step'] for row in rows] == [2, 4, 6]
  rows = [r for r in folder.read_metrics() if 'agc/clipped_fraction' in r]
  assert [row['step'] for row in rows] == [3, 6]
  assert all(0 < row['agc/stage/stage_1/ratio_q50'] < 10 for row in rows)
  for picture in ('curves.png', 'clipping.png'):
    assert (tmp_path / picture).read_bytes().startswith(b'\x89PNG')
  assert list((tmp_path / 'tensorboard').iterdir())
  assert int(last_state(config, tmp_path).step) == 6


def test_sigterm_saves_and_the_same_command_resumes_bit_for_bit(
  tmp_path, monkeypatch
):
  config = run_config(model__drop_rate=0.1, checkpoint_every=4)
  train.train_and_evaluate(config, tmp_path / 'whole')
  log = train._log

  def terminated(run, done, row):
    log(run, done, row)
    if 'train/loss' in row:  # of step 2, while the third runs
      os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(train, '_log', terminated)
  summary = train.train_and_evaluate(config, tmp_path / 'parts')
  assert summary == {'status': 'interrupted', 'step': 3}
  monkeypatch.undo()
  summary = train.train_and_evaluate(config, tmp_path / 'parts')
  assert summary['status'] == 'finished' and summary['step'] == 6
  assert_bit_equal(
    last_state(config, tmp_path / 'parts'),
    last_state(config, tmp_path / 'whole'),
  )
  assert train.train_and_evaluate(config, tmp_path / 'parts') == summary
  rows = workdir.RunFolder(tmp_path / 'parts').read_metrics()
  assert [r['step'] for r in rows if 'train/loss' in r] == [2, 4, 6]
  assert [r['step'] for r in rows if 'agc/clipped_fraction' in r] == [3, 6]


SCRIPT = """
import sys
import conftest, test_train
from nfnets import train
train.train_and_evaluate(test_train.run_config(num_steps=8), sys.argv[1])
"""


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
  here = pathlib.Path(__file__).parent
  broken = subprocess.Popen(
    [sys.executable, '-c', SCRIPT, tmp_path / 'broken'],
    env=os.environ | {'PYTHONPATH': f'{here}{os.pathsep}{here.parent}'},
    stdout=subprocess.DEVNULL,
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
  rows = workdir.RunFolder(tmp_path / 'broken').read_metrics()
  assert [r['step'] for r in rows if 'train/loss' in r] == [2, 4, 6, 8]


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
  assert f'step {3 + k}: ' in said and f'not finite in {k} steps' in said
  state = last_state(config, tmp_path)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
  assert f'checkpoint of step {int(state.step)}' in said


def no_work(*_, nonfinite=0):
  """Stands in for `train._train_step`, with a step that does nothing."""

  def step_of_no_work(state, batch, key):
    del batch, key
    names = 'loss', 'top_1', 'grad_norm', 'learning_rate'
    metrics = dict.fromkeys(names, jnp.float32(1))
    metrics['nonfinite'] = jnp.float32(nonfinite)
    return state._replace(step=state.step + 1), metrics

  return jax.jit(step_of_no_work, donate_argnums=0), jax.random.key(0)


def test_a_signal_hides_no_divergence(tmp_path, monkeypatch):
  diverges = functools.partial(no_work, nonfinite=1)
  monkeypatch.setattr(train, '_train_step', diverges)
  advance = loggers.Console.advance

  def terminated(console, done):
    advance(console, done)
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(loggers.Console, 'advance', terminated)
  config = run_config(stop_after_nonfinite=1, observe_every=0)
  summary = train.train_and_evaluate(config, tmp_path)
  assert summary == {'status': 'diverged', 'step': 1}


@pytest.mark.parametrize('clip', ['agc', 'norm'])
def test_what_agc_clips_is_drawn_only_with_agc(tmp_path, monkeypatch, clip):
  config = run_config(num_steps=1, observe_every=0, optimizer__clip=clip)
  row = {'eval/loss': 1.0, 'agc/Net/~/stem/clipped_fraction': 0.5}
  monkeypatch.setattr(train, '_train_step', no_work)
  monkeypatch.setattr(train, '_evaluate', lambda *_: row)
  train.train_and_evaluate(config, tmp_path)
  assert (tmp_path / 'curves.png').exists()
  assert (tmp_path / 'clipping.png').exists() == (clip == 'agc')


def test_an_interrupted_evaluation_is_repeated_by_the_resumed_run(
  tmp_path, monkeypatch
):
  config = run_config(
    num_steps=4, log_every=1, observe_every=0, eval_every=2, checkpoint_every=9
  )
  calls = []

  def evaluate(run, eval_step, state):
    calls.append(int(state.step))
    if len(calls) == 1:
      os.kill(os.getpid(), signal.SIGTERM)
    run.interrupts.check()
    return {'eval/loss': float(len(calls))}

  monkeypatch.setattr(train, '_train_step', no_work)
  monkeypatch.setattr(train, '_evaluate', evaluate)
  first = train.train_and_evaluate(config, tmp_path)
  assert first == {'status': 'interrupted', 'step': 2}
  second = train.train_and_evaluate(config, tmp_path)
  assert second == {'status': 'finished', 'step': 4, 'eval/loss': 3.0}
  assert calls == [2, 2, 4]
  rows = workdir.RunFolder(tmp_path).read_metrics()
  found = [(r['step'], r['eval/loss']) for r in rows if 'eval/loss' in r]
  assert found == [(2, 2.0), (4, 3.0)]
  # What a kill leaves while the curves are plotted.
  (tmp_path / 'summary.json').unlink()
  (tmp_path / 'curves.png').write_bytes(b'\x89PN')
  assert train.train_and_evaluate(config, tmp_path) == second
  assert len(calls) == 3
  assert (tmp_path / 'curves.png').stat().st_size > 1000


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
  """The loop with all loggers and checkpoints, around an empty step."""
  num_steps = 100_000
  config = run_config(
    num_steps=num_steps,
    log_every=100,
    observe_every=0,
    eval_every=num_steps,
    checkpoint_every=5000,
  )
  found = {}

  def batches(config, source, start, skipped):
    for done in range(start, num_steps):
      if done % 20_000 == 2_500:  # between two checkpoints
        found[done] = memory_and_files()
      yield {}

  monkeypatch.setattr(factory, 'train_batches', batches)
  monkeypatch.setattr(train, '_train_step', no_work)
  summary = train.train_and_evaluate(config, tmp_path)
  assert summary['status'] == 'finished'
  assert len(workdir.RunFolder(tmp_path).read_metrics()) == 1001
  (_, _), (bytes_before, files_before), *_, (bytes_after, files_after) = (
    found.values()
  )
  assert bytes_after - bytes_before < 2**24  # 280 bytes a step would show
  assert files_after <= files_before


def test_a_signal_during_compilation_ends_the_run_at_once(
  tmp_path, monkeypatch
):
  def compiling(*_):
    def compiles(*_):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(60)

    return compiles, jax.random.key(0)

  monkeypatch.setattr(train, '_train_step', compiling)
  start = time.monotonic()
  summary = train.train_and_evaluate(run_config(), tmp_path)
  assert summary == {'status': 'interrupted', 'step': 0}
  assert time.monotonic() - start < 40
  monkeypatch.undo()
  other = run_config(seed=1, num_steps=1)  # nothing was lost
  summary = train.train_and_evaluate(other, tmp_path)
  assert summary['status'] == 'finished'


def test_the_loop_reads_a_steps_metrics_after_dispatching_the_next(
  tmp_path, monkeypatch
):
  """And it waits for the device nowhere else."""
  config = run_config(num_steps=5, eval_every=4, checkpoint_every=100,
                      observe_every=0, data__on_device=True)  # fmt: skip
  events = []
  inside = []
  step_of, add, to_host = (
    train._train_step, metrics.Meter.add, parallel.to_host
  )  # fmt: skip

  def logged_step_of(*args):
    step, key = step_of(*args)

    def logged(state, batch, key):
      events.append('dispatch')
      jax.config.update('jax_transfer_guard', 'disallow')
      return step(state, batch, key)

    return logged, key

  def logged_add(meter, step_done, metrics):
    events.append(f'read {step_done}')
    inside.append(step_done)
    row = add(meter, step_done, metrics)
    inside.pop()
    return row

  def blocks(name, function):
    def logged(*args, **kwargs):
      if not inside:
        events.append(name)
      return function(*args, **kwargs)

    return logged

  # An evaluation takes long to compile.
  monkeypatch.setattr(train, '_evaluate', lambda *_: {'eval/loss': 0.0})
  monkeypatch.setattr(train, '_train_step', logged_step_of)
  monkeypatch.setattr(metrics.Meter, 'add', logged_add)
  monkeypatch.setattr(parallel, 'to_host', blocks('to_host', to_host))
  for name in ('device_get', 'block_until_ready'):
    monkeypatch.setattr(jax, name, blocks(name, getattr(jax, name)))
  try:
    train.train_and_evaluate(config, tmp_path)
  finally:
    jax.config.update('jax_transfer_guard', 'allow')
  first, last = events.index('dispatch'), events.index('read 4')
  assert events[first : last + 1] == [
    'dispatch', 'dispatch', 'read 1', 'dispatch', 'read 2', 'dispatch',
    'read 3', 'read 4',  # an evaluation follows
  ]  # fmt: skip


def test_a_run_of_an_earlier_version_resumes_with_that_versions_numbers(
  tmp_path,
):
  """Commit 2369095 started it and stopped at step 4; losses are its own."""
  golden = pathlib.Path(__file__).parent / 'golden' / 'run_of_2369095.tar.gz'
  with tarfile.open(golden) as file:
    file.extractall(tmp_path, filter='data')
  config = tiny.config(
    num_steps=8, log_every=1, eval_every=4, eval_batch_size=100,
    checkpoint_every=2, optimizer__clip='agc', sam__rho=0.05,
    ema__mode='warmup', model__widths=(4, 4, 4), keep_checkpoints=1,
    optimizer__unclipped=('head',),
  )  # fmt: skip
  found = weights.of_run(tmp_path / 'run')
  assert set(found) == {'eval', 'eval_ema'}
  summary = train.train_and_evaluate(
    config, tmp_path / 'run', defaults=base.defaults()
  )
  rows = workdir.RunFolder(tmp_path / 'run').read_metrics()
  losses = {r['step']: r['train/loss'] for r in rows if 'train/loss' in r}
  there = {5: 2.325284, 6: 2.419393, 7: 2.359896, 8: 2.269136}
  assert {k: losses[k] for k in there} == pytest.approx(there, rel=1e-5)
  assert summary['eval/loss'] == pytest.approx(2.289193, rel=1e-5)
  assert summary['eval_ema/loss'] == pytest.approx(2.292933, rel=1e-5)
