"""What the loop watches."""

import os
import signal
import types

import jax
import numpy as np
import pytest

from nfnets import metrics


def test_the_meter_averages_between_logs_and_counts_skipped_steps():
  class Config:
    log_every, num_steps, batch_size, observe_every = 2, 4, 8, 0
    stop_after_nonfinite, steps_per_dispatch = 2, 1

  meter = metrics.Meter(Config, 0)
  for step, (loss, bad) in enumerate([(1, 0), (3, 0), (5, 1), (7, 1)], 1):
    meter.add(step, {'loss': loss, 'learning_rate': step, 'nonfinite': bad})
  rows = list(meter.due())
  assert [step for step, _ in rows] == [2, 4]
  assert [row['train/loss'] for _, row in rows] == [2, 6]
  assert [row['train/learning_rate'] for _, row in rows] == [2, 4]
  assert [row['train/nonfinite'] for _, row in rows] == [0, 2]
  assert meter.nonfinite_in_a_row == 2 and meter.diverged_at == 4


def test_a_good_step_behind_the_bad_one_does_not_hide_it():
  class Config:
    log_every, num_steps, batch_size, observe_every = 2, 4, 8, 0
    stop_after_nonfinite = steps_per_dispatch = 1

  meter = metrics.Meter(Config, 0)
  for step, bad in enumerate([0, 1, 0], 1):
    meter.add(step, {'loss': 1, 'learning_rate': 1, 'nonfinite': bad})
  assert meter.diverged_at == 2


def config(**values):
  return types.SimpleNamespace(
    **{
      'log_every': 2,
      'num_steps': 6,
      'batch_size': 32,
      'observe_every': 0,
      'stop_after_nonfinite': 2,
      'steps_per_dispatch': 1,
      **values,
    }
  )


GOOD = {'loss': 1, 'learning_rate': 1, 'nonfinite': 0}


@pytest.fixture
def clock(monkeypatch):
  """A clock that the test moves."""
  now = types.SimpleNamespace(time=100.0)
  monkeypatch.setattr(metrics.time, 'perf_counter', lambda: now.time)
  return now


def test_speed_is_the_models_flops_over_the_chips_peak(clock):
  work = metrics.Work(flops=8e12, devices=4, peak=10e12)
  meter = metrics.Meter(config(), 0, (), work)
  clock.time += 50  # the first step compiles
  for step in range(1, 5):
    meter.add(step, dict(GOOD))
    clock.time += 0.5
  first, second = (row for _, row in meter.due())
  assert first['train/step_seconds'] == second['train/step_seconds'] == 0.5
  assert second['train/images_per_second'] == 64
  assert second['train/images_per_second_per_device'] == 16
  assert second['train/teraflops_per_device'] == 4
  assert second['train/model_flops_utilization'] == 0.4
  assert second['train/seconds_left'] == 1


def test_a_chip_without_a_published_peak_has_no_utilization(clock):
  meter = metrics.Meter(config(), 0, (), metrics.Work(8e12, 4, None))
  for step in (1, 2):
    meter.add(step, dict(GOOD))
    clock.time += 1
  ((_, row),) = meter.due()
  assert row['train/teraflops_per_device'] == 2
  assert 'train/model_flops_utilization' not in row


def test_the_wait_for_input_is_the_time_in_next(clock):
  def slow():
    while True:
      clock.time += 0.25
      yield {}

  meter = metrics.Meter(config(), 0)
  batches = slow()
  for step in (1, 2):
    meter.next_of(batches)
    clock.time += 1
    meter.add(step, dict(GOOD))
  ((_, row),) = meter.due()
  assert row['train/input_wait_seconds'] == 0.25


def test_compilations_are_counted_whenever_they_happen():
  meter = metrics.Meter(config(log_every=1), 0)
  meter.add(1, dict(GOOD))
  number = np.random.RandomState().randint(1 << 30)
  jax.block_until_ready(jax.jit(lambda x: x * number + 1)(1.0))
  meter.add(2, dict(GOOD))
  meter.add(3, dict(GOOD))
  rows = [row['train/compile_seconds'] for _, row in meter.due()]
  assert rows[1] > 0 and rows[2] == 0


def test_memory_is_the_hosts_peak_and_the_fullest_devices(monkeypatch):
  assert 2**27 < metrics.memory()['host/peak_memory_bytes'] < 2**37
  stats = [{'peak_bytes_in_use': 7}, {'peak_bytes_in_use': 9}, None]
  devices = [types.SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
  monkeypatch.setattr(metrics.jax, 'local_devices', lambda: devices)
  assert metrics.memory()['train/peak_memory_bytes'] == 9


def test_a_profile_is_there_for_tensorboard(tmp_path):
  step = jax.jit(lambda x: x + 1)
  with metrics.Profile((2, 4), tmp_path) as profile:
    for done in range(6):
      profile.before(done, None)
      jax.block_until_ready(step(1.0))
  (trace,) = tmp_path.glob('plugins/profile/*/*.xplane.pb')
  assert trace.stat().st_size > 1000


def test_a_stop_is_asked_by_any_process():
  meter = metrics.Meter(config(), 0)
  meter.add(1, GOOD | {'stop': 0.0})
  assert not meter.stop_asked
  meter.add(2, GOOD | {'stop': 1.0})
  meter.add(3, GOOD | {'stop': 0.0})
  assert meter.stop_asked
  assert not any('stop' in key for _, row in meter.due() for key in row)


@pytest.mark.parametrize(
  'number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
)
def test_signals_only_ask_until_the_block_ends(number):
  handler = lambda *_: None
  before = signal.signal(number, handler)  # nohup and `&` ignore some
  try:
    with metrics.Interrupts() as interrupts:
      assert not interrupts
      os.kill(os.getpid(), number)
      assert interrupts
    assert signal.getsignal(number) == handler
  finally:
    signal.signal(number, before)


def test_a_second_ctrl_c_insists_unless_it_is_the_first_once_more(monkeypatch):
  before = signal.signal(signal.SIGINT, lambda *_: None)
  try:
    with metrics.Interrupts() as interrupts:
      os.kill(os.getpid(), signal.SIGINT)
      monkeypatch.setattr(interrupts, 'PATIENCE', 3600.0)
      os.kill(os.getpid(), signal.SIGINT)
      assert interrupts
      monkeypatch.setattr(interrupts, 'PATIENCE', 0.0)
      with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, before)
