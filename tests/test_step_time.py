"""One step, timed: what is asked for runs, and the figures are of it."""

import json
import time

import pytest

from configs import cifar_resnet20
from nfnets.bench import programs, step_time

TINY = {'depths': (1, 1, 1), 'widths': (8, 8, 8), 'normalizer': 'nf'}
RECIPE = cifar_resnet20.get_config()


@pytest.mark.parametrize('mode', programs.MODES)
def test_a_measurement_says_what_ran_and_goes_into_json(mode):
  result = step_time.measure(
    'cifar_resnet_20', 2, 8, mode=mode, steps=6, seconds=0.2, config=RECIPE,
    overrides=TINY,
  )  # fmt: skip
  assert json.loads(json.dumps(result))['mode'] == mode
  seconds = result['seconds']
  assert 0 < seconds['fastest'] <= seconds['low'] <= seconds['median']
  assert seconds['median'] <= seconds['high']
  assert result['images_per_second'] == pytest.approx(2 / seconds['median'])
  assert result['steps'] % result['chunk'] == 0
  assert result['trace_seconds'] > 0 and result['compile_seconds'] > 0
  assert result['peak_source'] == 'compiler'  # CPUs keep no account
  assert result['peak_bytes'] >= result['memory']['arguments']
  assert result['utilization'] == pytest.approx(
    result['model_flops'] / seconds['median'] / result['peak_flops']
  )


def test_a_training_step_donates_its_state_and_inference_keeps_it():
  train = programs.prepare('cifar_resnet_20', 2, 8, 'float32', 'train',
                            config=RECIPE, overrides=TINY)  # fmt: skip
  assert train.memory['donated'] > train.memory['arguments'] / 2
  folded = programs.prepare('cifar_resnet_20', 2, 8, 'float32', 'folded',
                             overrides=TINY)  # fmt: skip
  assert folded.memory['donated'] == 0


def test_f0s_step_is_six_times_its_published_multiply_adds():
  assert step_time.default_size('nfnet_f0', 'train') == 192
  assert step_time.default_size('nfnet_f0', 'folded') == 256
  step = step_time.model_flops('nfnet_f0', 4, 192, 'train')
  assert step == pytest.approx(6 * 4 * 6.98e9, rel=1e-3)  # PAPER_FACTS 1.3
  inference = step_time.model_flops('nfnet_f0', 1, 256, 'folded')
  assert inference == pytest.approx(2 * 12.38e9, rel=1e-3)  # Table 3


def test_chunks_are_long_enough_to_hide_the_wait_and_three_at_least():
  calls = []

  def quick(count):
    calls.append(count)
    time.sleep(0.002 * count)

  times, chunk = step_time.time_chunks(quick, 60, 60.0)
  assert calls[:2] == [1, 1] and set(calls[2:]) == {chunk}
  assert 1 < chunk <= 20 and 3 <= len(times) <= 60 // chunk
  assert min(times) >= 0.002
  times, chunk = step_time.time_chunks(quick, 1, 0.0)
  assert (len(times), chunk) == (3, 1)


def test_nfnets_alone_are_clipped_by_default():
  assert step_time.default_clip('nfnet_f0', {}) == 'agc'
  assert step_time.default_clip('nfnet_f0', {'normalizer': 'batch'}) == 'none'
  assert step_time.default_clip('nf_resnet_50', {}) == 'none'


@pytest.mark.parametrize(
  ('values', 'said'),
  [
    ({'mode': 'test'}, "no mode 'test': choose one of train, eval, folded"),
    ({'precision': 'float16'}, "no precision 'float16'"),
    ({'batch_size': 0}, 'batch_size=0'),
    ({'model': 'nfnet_f9'}, 'nfnet_f'),
    ({}, 'training nfnet_f0 needs a recipe'),
    ({'model': 'resnet_50', 'mode': 'folded'}, 'not normalizer-free'),
  ],
)
def test_what_cannot_run_is_refused(values, said):
  arguments = {'model': 'nfnet_f0', 'batch_size': 1, 'image_size': 32} | values
  with pytest.raises(ValueError, match=said):
    step_time.measure(**arguments)
