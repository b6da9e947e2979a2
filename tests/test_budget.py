"""A planned run's totals, and what makes a step fit."""

import pytest
import tiny

from configs import nfnet_f0
from nfnets import budget, plan, pods

POD = pods.find('v3:8x8')
PROGRAM = plan.Program(
  'estimated', 1e9, 2e9, None, 1.23e12, 4.5e9, 8.3e8, 8e8, 0.0, True
)


def test_the_roofline_is_the_largest_of_three_bounds():
  config = nfnet_f0.get_config()
  bounds = budget.roofline(config, POD, PROGRAM)
  assert bounds.arithmetic == pytest.approx(1.23e12 / 61.5e12)
  assert bounds.memory == pytest.approx(0.01)
  assert bounds.collectives == pytest.approx(0.01)
  assert bounds.seconds == bounds.arithmetic


def test_f0_at_the_papers_pace_takes_the_hours_its_recipe_says():
  config = nfnet_f0.get_config()
  run = budget.run(config, POD, PROGRAM, 0.0733, images_per_core=1000)
  assert run.steps == 112602  # 1281167 * 360 // 4096
  assert run.hours == pytest.approx(2.3, abs=0.05)
  assert run.chip_hours == pytest.approx(64 * run.hours)
  assert run.checkpoint_bytes == 8e8 and run.kept_bytes == 1.6e9
  assert run.host_images_per_second == pytest.approx(4096 / 0.0733 / 16)
  assert run.host_cores == pytest.approx(run.host_images_per_second / 1000)


def test_published_pairs_decode_twice():
  config = nfnet_f0.get_config()
  once = budget.run(config, POD, PROGRAM, 0.1, 1000)
  config.augment.pairs = 'fresh'
  twice = budget.run(config, POD, PROGRAM, 0.1, 1000)
  assert twice.host_cores == 2 * once.host_cores


def test_remedies_are_tried_from_the_mildest_until_one_fits():
  pod = pods.find('v3:2x2')
  config = tiny.config(batch_size=512, eval_batch_size=16)
  whole = plan.estimate_step(config, pod)
  room = whole.arguments + 0.6 * whole.temporaries
  small = pod._replace(chip=pod.chip._replace(memory=room))
  refused = plan.estimate_step(config, small)
  assert not refused.fits
  tried = budget.remedies(config, small, refused, compiled=False)
  fits = {r.flags for r in tried if r.program.fits}
  assert any('micro_batches' in flags for flags in fits)
  assert any('batch_size' in flags for flags in fits)
  for remedy in tried:
    assert remedy.program.fits == (remedy.program.memory <= room)
  half = next(r for r in tried if 'config.batch_size=256' in r.flags).program
  really = plan.estimate_step(
    tiny.config(batch_size=256, eval_batch_size=16), pod
  )
  assert half.temporaries == pytest.approx(really.temporaries)
  assert half.flops == pytest.approx(really.flops)
