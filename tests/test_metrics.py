"""Measurements of a run."""

import types

import jax
import numpy as np
import pytest

from configs import nfnet_f0
from nfnets import factory, metrics
from nfnets.step import state_shapes


def config(**values):
  return types.SimpleNamespace(
    **{
      'log_every': 2,
      'num_steps': 6,
      'batch_size': 32,
      'observe_every': 0,
      'stop_after_nonfinite': 2,
      'precision': 'float32',
      **values,
    }
  )


GOOD = {'loss': 1, 'learning_rate': 1, 'nonfinite': 0}


def test_every_scalar_of_the_step_is_averaged_loss_and_accuracy_first():
  meter = metrics.Meter(config(stop_after_nonfinite=9), 0)
  rows = {}
  for step, loss in enumerate([1, 3, 5, 7], 1):
    own = {'distillation': 10.0 * step, 'top_1': 0.5, 'loss': loss}
    own |= {'learning_rate': step, 'nonfinite': step > 3}
    rows[step] = meter.add(step, own)
  assert rows.pop(1) == rows.pop(3) == {}
  for name, values in {
    'loss': [2, 6], 'distillation': [15, 35], 'learning_rate': [2, 4],
    'nonfinite': [0, 1],
  }.items():  # fmt: skip
    assert [row[f'train/{name}'] for row in rows.values()] == values
  first = ['train/loss', 'train/top_1', 'train/distillation']
  assert list(rows[2])[:3] == first


@pytest.mark.parametrize(
  ('k', 'bad', 'diverged_at'),
  [(2, [0, 1, 0, 1, 1, 0], 5), (1, [0, 1, 0], 2), (3, [1, 1, 0, 1], None)],
)
def test_k_nonfinite_steps_in_a_row_end_a_run(k, bad, diverged_at):
  meter = metrics.Meter(config(stop_after_nonfinite=k), 0)
  for step, nonfinite in enumerate(bad, 1):
    meter.add(step, GOOD | {'nonfinite': nonfinite})
  assert meter.diverged_at == diverged_at


@pytest.fixture
def clock(monkeypatch):
  """A clock that the test moves."""
  now = types.SimpleNamespace(time=100.0)
  monkeypatch.setattr(metrics.time, 'perf_counter', lambda: now.time)
  return now


def test_speed_is_the_models_flops_over_the_chips_peak(clock, monkeypatch):
  for peak in (10e12, None):
    monkeypatch.setattr(metrics.chips, 'peak_flops', lambda *_, p=peak: p)
    meter = metrics.Meter(config(), 0, (), flops=8e12)
    clock.time += 50  # the first step compiles
    rows = []
    for step in range(1, 5):
      rows.append(meter.add(step, dict(GOOD)))
      clock.time += 0.5
    _, first, _, second = rows
    assert first['train/step_seconds'] == second['train/step_seconds'] == 0.5
    assert second['train/images_per_second'] == 64
    assert second['train/images_per_second_per_device'] == 16
    assert second['train/teraflops_per_device'] == 4
    assert second['train/seconds_left'] == 1
    utilization = second.get('train/model_flops_utilization')
    assert utilization == (0.4 if peak else None)


def test_a_compiling_step_that_is_logged_has_no_speed(clock):
  meter = metrics.Meter(config(log_every=1), 9)
  clock.time += 60
  assert 'train/step_seconds' not in meter.add(10, dict(GOOD))
  clock.time += 0.5
  assert meter.add(11, dict(GOOD))['train/step_seconds'] == 0.5


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
    row = meter.add(step, dict(GOOD))
  assert row['train/input_wait_seconds'] == 0.25


def test_compilations_are_counted_whenever_they_happen():
  meter = metrics.Meter(config(log_every=1), 0)
  rows = [meter.add(1, dict(GOOD))]
  number = np.random.RandomState().randint(1 << 30)
  jax.block_until_ready(jax.jit(lambda x: x * number + 1)(1.0))
  rows += [meter.add(step, dict(GOOD)) for step in (2, 3)]
  _, during, after = (row['train/compile_seconds'] for row in rows)
  assert during > 0 and after == 0


def test_memory_is_the_peak_of_the_host_and_of_the_fullest_device(monkeypatch):
  assert 2**27 < metrics.memory()['host/peak_memory_bytes'] < 2**37
  stats = [{'peak_bytes_in_use': 7}, {'peak_bytes_in_use': 9}, None]
  devices = [types.SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
  monkeypatch.setattr(metrics.jax, 'local_devices', lambda: devices)
  assert metrics.memory()['train/peak_memory_bytes'] == 9


def test_a_profile_is_written_for_tensorboard(tmp_path):
  step = jax.jit(lambda x: x + 1)
  profile = metrics.Profile((2, 4), tmp_path)
  for done in range(6):
    profile.before(done, None)
    jax.block_until_ready(step(1.0))
  profile.close()
  (trace,) = tmp_path.glob('plugins/profile/*/*.xplane.pb')
  assert trace.stat().st_size > 1000


def flops(config):
  network, shapes = factory.network_of(config), state_shapes(config)
  return metrics.step_flops(config, network, shapes)


def test_flops_are_the_published_count_however_the_step_is_compiled():
  config = nfnet_f0.get_config().copy_and_resolve_references()
  macs = 12.38e9  # paper A, Table 6, at 256 pixels
  config.data.train_image_size = 256
  plain = flops(config)
  assert plain == pytest.approx(6 * macs * config.batch_size, rel=0.01)
  config.model.remat = config.model.scan = True
  assert flops(config) == plain
  config.sam.rho, config.sam.ascent_fraction = 0.05, 0.25
  assert flops(config) == 1.25 * plain
