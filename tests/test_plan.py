"""The step's memory, FLOPs and collectives, compiled and from shapes."""

import math

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import Mesh

from nfnets import compiler_words, factory, parallel, plan, pods, step
from nfnets.models import onednn

POD = pods.find('v3:2x2')  # 8 devices on 1 host
needs_libtpu = pytest.mark.skipif(
  not plan.has_compiler(), reason='libtpu is not installed'
)


def recipe_of(**values):
  return tiny.config(**{'eval_batch_size': 16, **values})


@pytest.fixture(scope='module')
def estimate():
  return plan.measure(recipe_of(), POD, compiled=False)


def test_arguments_are_the_state_and_a_devices_images(estimate):
  config = recipe_of()
  init = step.init_state(
    config,
    factory.network_of(config),
    factory.optimizer_of(config),
    jax.random.key(0),
  )
  state = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(init))
  assert estimate.state_bytes == state
  assert estimate.arguments == state + 2 * (8 * 8 * 3 + 4)
  assert estimate.method == 'estimated' and estimate.code is None
  assert estimate.memory == estimate.arguments + estimate.temporaries


def test_collectives_carry_every_gradient_once(estimate):
  config = recipe_of()
  _, _, state = tiny.network_and_state(config)
  gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
  loss_and_hits = 8
  assert estimate.collective_bytes == gradients + loss_and_hits


def test_the_estimate_agrees_with_a_compiler_that_is_there(estimate):
  config = recipe_of(batch_size=8)  # 2 on each of four devices, as above
  train_step, shapes = plan.step_of(config)
  mesh = Mesh(np.array(jax.devices()), (parallel.AXIS,))
  with onednn.portable():  # XLA counts no work in calls of a library
    compiled = plan.lower(train_step, shapes, mesh).compile()
  memory = compiled.memory_analysis()
  # Nothing draws: the key goes unused.
  assert memory.argument_size_in_bytes == estimate.arguments
  text = compiled.as_text()
  assert compiler_words.collective_bytes(text) == estimate.collective_bytes
  # XLA counts elementwise arithmetic too, of which eight pixels have much.
  assert 1 < compiled.cost_analysis()['flops'] / estimate.flops < 2


def test_more_images_take_more_memory_and_work(estimate):
  twice = plan.measure(recipe_of(batch_size=32), POD, compiled=False)
  assert twice.flops == 2 * estimate.flops
  assert estimate.temporaries < twice.temporaries < 2 * estimate.temporaries
  assert twice.state_bytes == estimate.state_bytes


def test_what_exceeds_the_memory_does_not_fit(estimate):
  assert estimate.fits
  small = POD._replace(chip=POD.chip._replace(memory=estimate.memory - 1))
  assert not plan.measure(recipe_of(), small, compiled=False).fits


@pytest.mark.parametrize(
  ('values', 'says'),
  [
    ({'batch_size': 20}, 'config.batch_size=20 does not divide into 8 devices'),
    ({'batch_size': 16, 'micro_batches': 4}, '8 devices x 4 micro-batches'),
    ({'eval_batch_size': 12}, 'eval_batch_size=12 .* take 16'),
    ({'data__eval_split': ''}, 'evaluation set would be dropped'),
  ],
)
def test_what_can_not_run_whole_is_refused_in_one_line(values, says):
  with pytest.raises(ValueError, match=says) as error:
    plan.measure(recipe_of(**values), POD, compiled=False)
  assert '\n' not in str(error.value)


@pytest.mark.skipif(plan.has_compiler(), reason='libtpu is installed')
def test_compiling_without_the_compiler_says_what_to_do():
  with pytest.raises(ValueError, match='requirements-plan.txt'):
    plan.measure(recipe_of(), POD, compiled=True)


def test_collectives_are_read_from_a_compiled_program():
  text = """
  %a = f32[3,4]{1,0} all-reduce(f32[3,4]{1,0} %x), replica_groups={}
  %b = (bf16[8]{0}, f32[]) all-reduce-start(bf16[8]{0} %y, f32[] %z)
  %c = (bf16[8]{0}, f32[]) all-reduce-done(%b)
  %d = f32[100]{0} add(f32[100]{0} %x, f32[100]{0} %all-reduce.1)
  """
  assert compiler_words.collective_bytes(text) == 4 * 12 + 2 * 8 + 4


def test_the_compilers_refusal_is_read():
  said = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (20.50G) exceeds available HBM (15.48G).'
  )
  assert compiler_words.needed_memory(said) == 20.5 * 2**30
  said = 'RESOURCE_EXHAUSTED: Ran out of memory. Used 512.0M of 15.48G hbm.'
  assert compiler_words.needed_memory(said) == 512 * 2**20
  assert math.isinf(compiler_words.needed_memory('RESOURCE_EXHAUSTED: no room'))
  assert compiler_words.needed_memory('INVALID_ARGUMENT: what?') is None


@needs_libtpu
@pytest.mark.slow
def test_the_tpu_compiler_agrees_with_the_estimate():
  config = recipe_of(batch_size=256)
  compiled = plan.measure(config, POD, compiled=True)
  estimate = plan.measure(config, POD, compiled=False)
  assert compiled.method == 'compiled' and compiled.fits
  assert compiled.arguments == pytest.approx(estimate.arguments, rel=0.2)
  assert 0.7 < compiled.flops / estimate.flops < 2
  assert compiled.collective_bytes == pytest.approx(
    estimate.collective_bytes, rel=0.2
  )


@needs_libtpu
@pytest.mark.slow
def test_the_tpu_compiler_refuses_what_does_not_fit():
  config = recipe_of(batch_size=8 * 2**17)
  refused = plan.measure(config, POD, compiled=True)
  assert refused.method == 'refused' and not refused.fits
  assert refused.memory > POD.chip.memory


@needs_libtpu
@pytest.mark.slow
def test_a_grouped_convolution_stays_one_on_a_tpu():
  config = recipe_of(
    model__name='nfnet_f0',
    model__depths=(1, 1, 1, 1),
    model__widths=(256, 256, 256, 512),
  )
  train_step, shapes = plan.step_of(config)
  mesh = Mesh(np.array(plan.devices(POD)), (parallel.AXIS,))
  text = plan.lower(train_step, shapes, mesh).as_text()
  assert 'feature_group_count = 2' in text
