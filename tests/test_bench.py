"""nfnets/bench and scripts.benchmark: fair turns, right numbers, refusals."""

import json
import sys
import types

import jax
import numpy as np
import pytest
import tiny

from configs import cifar_resnet20, nfnet_f0
from nfnets.analysis import counts
from nfnets.bench import clock, pieces, programs, report, step_time
from nfnets.bench import input as stages
from scripts import benchmark

TINY = {'depths': (1, 1, 1), 'widths': (8, 8, 8), 'normalizer': 'nf'}


def plain(mode='train', **values):
  values = {'overrides': TINY} | values
  return programs.plain(
    cifar_resnet20.get_config(), 'cifar_resnet_20', 2, 8, mode=mode, **values
  )


@pytest.fixture
def timer(monkeypatch):
  """A clock that goes on by `timer[1]` at each `tick`; half of it is work."""
  now = [0.0]
  monkeypatch.setattr(clock.time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(clock.time, 'process_time', lambda: now[0] / 2)
  return now


def test_all_take_turns_and_every_second_round_goes_backwards():
  calls = []
  turns = {
    name: lambda name=name: calls.append(name) or len(calls) for name in 'abc'
  }
  found = clock.alternate(turns, 3)
  assert ''.join(calls) == 'abccbaabc'
  assert found == {'a': [1, 6, 7], 'b': [2, 5, 8], 'c': [3, 4, 9]}


def test_a_chunk_of_steps_hides_the_wait_that_ends_it(timer):
  counts = []

  def run(count):
    counts.append(count)
    timer[0] += 0.02 * count + 0.01  # dispatch, then the device's wait

  times = clock.step_seconds(run, 0.5)
  assert counts == [1, 1] + [3] * 8
  assert times == pytest.approx([0.07 / 3] * 8)
  slow = lambda count: timer.__setitem__(0, timer[0] + 9 * count)
  assert clock.step_seconds(slow, 0.0, at_least=3) == pytest.approx([9] * 3)


def test_a_rate_counts_only_what_was_done_in_its_time(timer):
  def work():
    timer[0] += 0.25
    return 5

  assert clock.rate(work, 1.0) == (20, 40)  # a second, a core's second
  assert timer[0] == 1.25  # a quarter unmeasured


@pytest.mark.parametrize('size', [1, 2, 9])
def test_spreads_are_numpys_percentiles(size):
  values = np.random.RandomState(size).randn(size).tolist()
  wanted = np.percentile(values, [0, 25, 50, 75, 100])
  np.testing.assert_allclose(list(clock.spread(values).values()), wanted)


def test_a_ratio_is_taken_round_by_round():
  ours, theirs = [1.0, 4.0, 9.0], [1.0, 1.0, 3.0]
  assert clock.ratio(ours, theirs)['median'] == 3  # of 1, 4 and 3, not 4 / 1
  with pytest.raises(ValueError, match='shorter'):
    clock.ratio(ours, theirs[:2])


@pytest.mark.parametrize('mode', programs.MODES)
def test_a_measurement_says_what_ran_and_how_fast(mode):
  result = step_time.measure(plain(mode), mode, seconds=0.05)
  json.dumps(result)
  seconds = result['seconds']
  assert 0 < seconds['lowest'] <= seconds['median'] <= seconds['highest']
  assert result['images_per_second'] == pytest.approx(2 / seconds['median'])
  parts = counts.parts('cifar_resnet_20', 8, 10, **TINY)
  macs = sum(part.macs for part in parts)
  flops = 2 * 2 * macs * (3 if mode == 'train' else 1)
  assert result['flops_per_second'] == pytest.approx(flops / seconds['median'])
  assert result['trace_seconds'] > 0 and result['compile_seconds'] > 0
  memory = result['memory']
  params = 4 * sum(part.params for part in parts)
  if mode == 'train':  # parameters and momentum are updated where they are
    assert 2 * params <= memory['donated'] < memory['argument']
  assert memory['peak'] >= params + memory['temp']
  assert result['utilization'] is None  # of a CPU


def test_the_step_is_the_recipes_without_its_pieces():
  recipe = nfnet_f0.get_config()
  for found in (
    programs.plain(recipe, 'nfnet_f0', 4),
    pieces.with_piece(recipe, {}),
  ):
    assert (found.sam.rho, found.ema.mode) == (0, 'none')
    assert (found.augment.mix, found.augment.randaugment_layers) == ('none', 0)
    assert found.optimizer.weight_decay == 2e-5 and found.observe_every == 0
  assert recipe.augment.mix == 'mixup_cutmix'
  assert pieces.with_piece(recipe, {'sam.rho': 0.1}).sam.rho == 0.1


def test_size_and_clipping_follow_the_network():
  of = lambda *a, **kw: programs.plain(nfnet_f0.get_config(), *a, **kw)
  assert of('nfnet_f1', 4).data.train_image_size == 224
  assert of('nfnet_f1', 4, mode='eval').data.train_image_size == 320
  assert of('nfnet_f0', 4).optimizer.clip == 'agc'
  assert of('nfnet_f0', 4, mode='eval').optimizer.clip == 'none'
  twin = of('nfnet_f0', 4, overrides={'normalizer': 'batch'})
  assert twin.optimizer.clip == 'none'
  assert of('nfnet_f0', 4, clip='none').optimizer.clip == 'none'
  assert of('nfnet_f0', 4, ema=True).ema.mode == 'warmup'


def test_a_piece_is_compared_with_the_plain_steps_beside_it(monkeypatch, timer):
  load = [1.0]

  def training(config):
    share = 2.0 if config.optimizer.clip == 'agc' else 1.0
    share = 3.0 if config.sam.rho else share

    def run(count):
      timer[0] += share * count * load[0]
      load[0] *= 1 + (share == 3.0)  # the machine slows down meanwhile

    return programs.Program(run, 1.0, 1.0, {'temp': int(share)})

  monkeypatch.setattr(programs, 'training', training)
  found = pieces.measure(tiny.config(), rounds=4, seconds=0.1)
  assert set(found['AGC']['ratio'].values()) == {2.0}
  assert set(found['EMA']['ratio'].values()) == {1.0}
  assert found['SAM on the whole batch']['temp'] == 3
  table = report.pieces(found)
  assert '| AGC ' in table and '| 2 (2, 2) ' in table


def test_pieces_that_do_not_fit_are_refused_before_any_is_measured(monkeypatch):
  monkeypatch.setattr(programs, 'training', lambda _: pytest.fail('compiled'))
  with pytest.raises(ValueError, match='config.micro_batches=4'):
    pieces.measure(tiny.config(batch_size=2))


@pytest.mark.parametrize(
  ('flag', 'device', 'compiler'),
  [
    ('auto', 'cpu', 'none'),
    ('auto', 'NVIDIA H100', 'default'),
    ('max-autotune', 'cpu', 'max-autotune'),
  ],
)
def test_pytorch_compiles_as_asked(monkeypatch, flag, device, compiler):
  found = {}
  compare = lambda *_, **values: found.update(values)
  monkeypatch.setattr(step_time, 'compare', compare)
  monkeypatch.setattr(programs, 'plain', lambda *_, **__: None)
  flags = {'TIMM_PYTHON': 'p', 'ROUNDS': 1, 'SECONDS': 1.0}
  for name, value in flags.items():
    holder = types.SimpleNamespace(value=value)
    monkeypatch.setattr(benchmark, name, holder)
  benchmark.measured(
    {'model': 'nfnet_f0', 'mode': 'eval', 'against': 'timm', 'device': device}
    | {'torch_compile': flag}
  )
  assert found['compiler'] == compiler


def test_a_whole_recipe_is_compiled_and_takes_steps():
  config = tiny.config(
    ema__mode='warmup', augment__mix='mixup', augment__pairs='fresh'
  )
  program = programs.training(config)
  program.run(2)
  assert program.memory['temp'] > 2 * 16 * 8 * 8 * 16 * 4


WORKER = """
import json, sys
job = json.loads(sys.stdin.readline())
answer = lambda what: print(json.dumps(what), flush=True)
answer({'versions': {'job': job['peer']}})
for line in sys.stdin:
  seconds = json.loads(line)['seconds']
  if seconds == 1:
    answer({'error': 'out of memory'})
  elif seconds == 2:
    sys.exit('all is lost')
  else:
    answer({'seconds': 2 * seconds})
"""


def test_both_sides_take_turns_and_the_ratio_is_of_each_round():
  command = [sys.executable, '-c', WORKER]
  result = step_time.compare(
    plain('eval'), 'eval', command, rounds=3, seconds=0.02
  )
  assert result['about']['versions'] == {'job': 'cifar_resnet'}
  assert set(result['theirs'].values()) == {0.04}
  for key, ratio in result['ratio'].items():
    assert ratio == pytest.approx(result['seconds'][key] / 0.04)
  table = report.steps([result])
  assert '| 40 (40, 40) ' in table


def test_what_the_other_side_refuses_is_one_line():
  with step_time.worker([sys.executable, '-c', WORKER]) as ask:
    ask({'peer': 'x', 'compile': 'none'})
    with pytest.raises(ValueError, match='out of memory'):
      ask({'seconds': 1})
    with pytest.raises(ValueError, match='all is lost'):
      ask({'seconds': 2})
  command = [sys.executable, '-m', 'nothing.there']
  with (
    pytest.raises(ValueError, match='No module named'),
    step_time.worker(command) as ask,
  ):
    ask({})
  with (
    pytest.raises(OSError, match='no_such_python'),
    step_time.worker(['no_such_python']),
  ):
    pass


def test_the_same_network_of_timm_is_found():
  assert step_time.counterpart('nfnet_f3')[0] == 'dm_nfnet_f3'
  assert step_time.counterpart('nf_resnet_50')[0] == 'nf_resnet50'
  with pytest.raises(ValueError, match='fixup_resnet_50 has no counterpart'):
    step_time.counterpart('fixup_resnet_50')


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_pytorchs_side_is_the_same_network(mode, python_with_timm):
  command = [python_with_timm, '-m', 'nfnets.bench.torch_step']
  for model, recipe in (('cifar_resnet_20', cifar_resnet20),
                        ('nfnet_f0', nfnet_f0)):  # fmt: skip
    _, overrides = step_time.counterpart(model)
    config = programs.plain(
      recipe.get_config(), model, 2, 32, mode=mode, overrides=overrides
    )
    result = step_time.compare(config, mode, command, rounds=1, seconds=0.01)
    assert result['ratio']['median'] > 0
    parts = counts.parts(model, None, config.data.num_classes, **overrides)
    ours = sum(part.params for part in parts)
    assert result['about']['parameters'] == ours


def test_every_stage_of_the_input_has_a_rate():
  config = tiny.config(data__num_threads=2, data__cache=True)
  found = stages.measure(config, rounds=2, seconds=0.02)
  assert list(found['rates']) == [
    'host: read', 'host: decode', 'host: crop, flip, resize',
    'host pipeline, 1 thread', 'host pipeline, 2 threads',
    'device: augmentation', 'device: train step',
  ]  # fmt: skip
  for rate in found['rates'].values():
    assert rate['per_second']['low'] > 0 and rate['per_core']['low'] > 0
  json.dumps(found)
  table = report.rates(found)
  assert all(f'| {name} ' in table for name in found['rates'])
  held = tiny.config(data__on_device=True)
  found = stages.measure(held, rounds=1, seconds=0.01)
  assert 'host pipeline: ids' in found['rates']


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_the_bottleneck_is_the_slower_side(monkeypatch, platform):
  monkeypatch.setattr(stages.jax, 'default_backend', lambda: platform)
  by = 'per_core' if platform == 'cpu' else 'per_second'
  devices = 1 if platform == 'cpu' else jax.local_device_count()
  rate = lambda value: {by: {'median': value}}
  rates = {
    'host pipeline, 2 threads': rate(300 * devices),
    'device: train step': rate(200),
  }
  fresh = tiny.config(augment__pairs='fresh', augment__mix='mixup')
  said = stages.bottleneck(tiny.config(), rates)
  assert said.startswith('device: train step; ') and '1.5 times' in said
  said = stages.bottleneck(fresh, rates)  # two decodes for each image
  assert said.startswith('host pipeline, 2 threads; ') and '0.75' in said


def test_the_command_prints_a_table_and_goes_on_with_its_file(
  run_script, tmp_path
):
  path = tmp_path / 'results.jsonl'
  command = [
    'scripts.benchmark', '--model=cifar_resnet_20', '--batch_size=2',
    '--image_size=8', '--override={"depths": [1, 1, 1]}', '--mode=eval',
    '--seconds=0.01', f'--json={path}',
  ]  # fmt: skip
  code, out, _ = run_script(*command)
  assert code == 0 and '| cifar_resnet_20 | eval ' in out
  first = path.read_text()
  assert json.loads(first)['batch_size'] == 2
  code, again, _ = run_script(*command)
  assert code == 0 and path.read_text() == first
  assert again.splitlines()[-1] == out.splitlines()[-1]
