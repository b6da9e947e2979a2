"""The step's memory, FLOPs and collectives, and what scripts.plan prints."""

import math

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import Mesh

from configs import nfnet_f0
from nfnets import factory, parallel, step
from nfnets.data import pipeline
from nfnets.plan import budget, compiled, pods

POD = pods.find('v3:2x2')  # 8 devices on 1 host
needs_libtpu = pytest.mark.skipif(
  not compiled.has_compiler(), reason='libtpu is not installed'
)


@pytest.fixture(scope='module')
def estimate():
  return compiled.measure(tiny.config(), POD, is_compiled=False)


def test_arguments_are_the_state_and_a_devices_images(estimate):
  shapes = step.state_shapes(tiny.config())
  state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
  assert estimate.state_bytes == state
  assert estimate.arguments == state + 2 * (8 * 8 * 3 + 4)
  assert estimate.method == 'estimated' and estimate.code is None
  assert estimate.memory == estimate.arguments + estimate.temporaries


def test_a_set_on_the_device_is_counted_whole_on_each(estimate):
  config = tiny.config(
    data__on_device=True, data__crop='none', data__flip=False
  )
  held = compiled.measure(config, POD, is_compiled=False)
  examples = pipeline.load_all(factory.sources_of(config)[0], config.data)
  size = sum(array.nbytes for array in examples.values())
  assert held.arguments == estimate.arguments + size
  assert held.state_bytes == estimate.state_bytes


def test_collectives_carry_every_gradient_once(estimate):
  _, _, state = tiny.network_and_state(tiny.config())
  gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
  loss_and_hits = 8
  assert estimate.collective_bytes == gradients + loss_and_hits


def test_the_estimate_agrees_with_a_compiler_that_is_there(estimate):
  config = tiny.config(batch_size=8)  # 2 on each of four devices, as above
  train_step, shapes = compiled.step_of(config)
  mesh = Mesh(np.array(jax.devices()), (parallel.AXIS,))
  program = compiled.lower(train_step, shapes, mesh).compile()
  memory = program.memory_analysis()
  # Nothing draws: the key goes unused.
  assert memory.argument_size_in_bytes == estimate.arguments
  # XLA counts elementwise arithmetic too, of which eight pixels have much, and
  # no products with what convolutions pad.
  assert 0.9 < program.cost_analysis()['flops'] / estimate.flops < 2


def test_what_exceeds_the_memory_does_not_fit(estimate):
  assert estimate.fits
  small = POD._replace(chip=POD.chip._replace(memory=estimate.memory - 1))
  assert not compiled.measure(tiny.config(), small, is_compiled=False).fits


@pytest.mark.parametrize(
  ('values', 'says'),
  [
    ({'batch_size': 20}, 'config.batch_size=20 does not divide into 8 devices'),
    (
      {'batch_size': 16, 'micro_batches': 4},
      '8 devices x config.micro_batches=4',
    ),
    ({'data__eval_split': ''}, "config.data.eval_split=''"),
  ],
)
def test_what_can_not_run_whole_is_refused(values, says):
  with pytest.raises(ValueError, match=says):
    compiled.measure(tiny.config(**values), POD, is_compiled=False)


def test_the_memory_that_a_refusal_asks_for_is_read():
  said = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (20.50G) exceeds available HBM (15.48G).'
  )
  assert compiled.needed_memory(said) == 20.5 * 2**30
  said = 'RESOURCE_EXHAUSTED: Ran out of memory. Used 512.0M of 15.48G hbm.'
  assert compiled.needed_memory(said) == 512 * 2**20
  assert math.isinf(compiled.needed_memory('RESOURCE_EXHAUSTED: no room'))
  assert compiled.needed_memory('INVALID_ARGUMENT: what?') is None


@needs_libtpu
@pytest.mark.slow
def test_the_tpu_compiler_agrees_with_the_estimate():
  # Whole tiles of 128 channels: the compiler pads narrower arrays to them.
  config = tiny.config(batch_size=256, model__widths=(128, 128, 256))
  program = compiled.measure(config, POD, is_compiled=True)
  estimate = compiled.measure(config, POD, is_compiled=False)
  assert program.method == 'compiled' and program.fits
  assert program.arguments == pytest.approx(estimate.arguments, rel=0.2)
  assert 0.7 < program.flops / estimate.flops < 2


@needs_libtpu
@pytest.mark.slow
def test_the_tpu_compiler_refuses_what_does_not_fit():
  config = tiny.config(
    batch_size=8 * 2**17,
    data__train_image_size=32,
    eval_every=1,
    checkpoint_every=1,
  )
  refused = compiled.measure(config, POD, is_compiled=True)
  assert refused.method == 'refused' and not refused.fits
  assert refused.memory > POD.chip.memory


PROGRAM = compiled.Program(
  'estimated', 1e9, 2e9, None, 1.23e12, 4.5e9, 8.3e8, 8e8, True
)


def test_the_bound_is_the_largest_of_three():
  bounds = budget.roofline(nfnet_f0.get_config(), pods.find('v3:8x8'), PROGRAM)
  assert bounds.arithmetic == pytest.approx(1.23e12 / 61.5e12)
  assert bounds.memory == pytest.approx(4.5e9 / 450e9)
  assert bounds.collectives == pytest.approx(2 * 8.3e8 / 166e9)
  assert bounds.seconds == bounds.arithmetic


def test_hosts_prepare_the_images_of_a_step_and_twice_for_fresh_pairs():
  config, pod = nfnet_f0.get_config(), pods.find('v3:8x8')
  images = budget.host_images_per_second(config, pod, 0.0733)
  assert images == pytest.approx(4096 / 0.0733 / 16)
  config.augment.pairs = 'fresh'
  decoded = budget.host_images_per_second(config, pod, 0.0733)
  assert decoded == 2 * images


def test_remedies_are_tried_from_the_mildest_until_one_fits():
  config = tiny.config(batch_size=512)
  whole = compiled.estimate_step(config, POD)
  room = whole.arguments + 0.6 * whole.temporaries
  small = POD._replace(chip=POD.chip._replace(memory=room))
  refused = compiled.estimate_step(config, small)
  assert not refused.fits
  tried = budget.remedies(config, small, refused, is_compiled=False)
  for _, program in tried:
    assert program.fits == (program.memory <= room)
  fits = {flags: program for flags, program in tried if program.fits}
  assert any('micro_batches' in flags for flags in fits)
  half = fits['--config.batch_size=256']
  really = compiled.estimate_step(tiny.config(batch_size=256), POD)
  assert half.temporaries == pytest.approx(really.temporaries)
  assert half.flops == pytest.approx(really.flops)


def test_a_remedy_that_the_recipe_excludes_is_left_out():
  config = tiny.config(batch_size=64, sam__rho=0.05, sam__m=64)
  refused = compiled.estimate_step(config, POD)
  small = POD._replace(chip=POD.chip._replace(memory=1.0))
  tried = budget.remedies(config, small, refused, is_compiled=False)
  flags = [flags for flags, _ in tried]
  assert any('micro_batches' in flag for flag in flags)
  assert not any('batch_size' in flag for flag in flags)  # m doesn't divide it


def test_the_command_prints_bound_published_time_and_a_range_of_hours(
  run_script, monkeypatch
):
  monkeypatch.setattr(compiled, 'measure', lambda *_: PROGRAM)
  flags = ['--config=configs/nfnet_f0.py', '--abstract', '--topology=v3:8x8']
  done = run_script('scripts.plan', *flags)
  assert done.code == 0, done.stderr
  assert '128 devices (each a TPU v3 core), 16 hosts' in done.stdout
  assert 'bound        20.0 ms' in done.stdout
  assert 'published    73.3 ms' in done.stdout
  assert 'hours        0.63 to 2.29' in done.stdout  # 20.0 and 73.3 ms
  assert done.stdout.splitlines()[-1] == 'it fits'
  # Nothing is published for v4: the range ends at a multiple of the bound.
  v4 = run_script('scripts.plan', *flags[:2], '--topology=v4:4x4x4').stdout
  assert '2.6 times the bound' in v4


def test_the_table_has_each_network_on_each_topology(
  run_script, monkeypatch, tmp_path
):
  batches = set()

  def measure(config, pod, is_compiled):
    batches.add(config.batch_size)
    # More than a core of v3 has, as the compiler says of what it accepted.
    return PROGRAM._replace(
      method='compiled' if is_compiled else 'estimated',
      temporaries=17e9 if is_compiled else 2e9,
      fits=not pod.name.startswith('v6e'),
    )

  monkeypatch.setattr(compiled, 'measure', measure)
  monkeypatch.setattr(compiled, 'estimate_step', lambda *_: PROGRAM)
  monkeypatch.setattr('importlib.metadata.version', lambda name: '1')
  flags = ['--table', f'--out={tmp_path}', '--compile=nfnet_f6_sam@v3']
  done = run_script('scripts.plan', *flags)
  assert done.code == 0, done.stderr
  assert batches == {4096}  # 32 images a core
  text = (tmp_path / 'pod_plan.md').read_text()
  rows = [
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in text.splitlines()
    if line.startswith('| nfnet')
  ]
  assert len(rows) == 7 * 4
  cells = {(row[0], row[1].partition(':')[0]): row for row in rows}
  assert cells['nfnet_f0', 'v3'][-1] == '73.3'
  assert cells['nfnet_f0', 'v4'][-1] == ''
  assert cells['nfnet_f4', 'v6e'][4].startswith('no; with `model.remat=True`')
  f6 = cells['nfnet_f6 with SAM, remat', 'v3']
  assert f6[2:5] == ['compiled', '16.76 of 15.48', 'not known']
