"""Checkpoints on disk."""

import gc
import resource
import time

import jax
import numpy as np
import pytest
import tiny

from nfnets import checkpoint, parallel

# After a failed read its other reads call back into orbax's loop, which is
# over; what they raise in their threads may be found in a later test.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


def tree(value):
  return {
    'params': {'net/~/conv': {'w': np.full((4, 3), value, np.float32)}},
    'opt_state': ({}, (np.float32(value), np.int32(value))),
    'step': np.int32(value),
  }


def save(path, *steps):
  checkpoints = checkpoint.Checkpoints(path, keep=2)
  for step in steps:
    checkpoints.save(step, parallel.replicate(tree(step)))
  checkpoints.wait()
  checkpoints.close()


def restore(path):
  checkpoints = checkpoint.Checkpoints(path)
  state = checkpoints.restore_latest(jax.eval_shape(lambda: tree(0)))
  checkpoints.close()
  return state


def test_the_newest_checkpoint_comes_back_bit_for_bit(tmp_path):
  save(tmp_path, 1, 2, 3)
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path), tree(3))


@pytest.mark.parametrize('normalizer', ['nf', 'batch'])
def test_averages_that_an_earlier_version_kept_are_left_out(
  tmp_path, normalizer
):
  config = tiny.config(normalizer, ema__mode='none')
  _, _, like = tiny.network_and_state(config)
  earlier = like._replace(ema_params=like.params, ema_state=like.state)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, parallel.replicate(earlier))
  checkpoints.wait()
  found = checkpoints.restore_latest(like)
  checkpoints.close()
  assert type(found) is type(like)
  jax.tree.map(np.testing.assert_array_equal, found, like)


def test_a_state_of_another_shape_is_still_refused(tmp_path):
  _, _, state = tiny.network_and_state(tiny.config(ema__mode='none'))
  other = tiny.config(ema__mode='none', data__num_classes=3)
  _, _, like = tiny.network_and_state(other)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, parallel.replicate(state))
  checkpoints.wait()
  with pytest.raises(ValueError, match=r'linear.* is \(10,\) there and \(3,\)'):
    checkpoints.restore_latest(like)
  checkpoints.close()


def test_as_many_stay_as_asked(tmp_path):
  save(tmp_path, 1, 2, 3, 4)
  kept = {p.name for p in (tmp_path / 'checkpoints').iterdir() if p.is_dir()}
  assert kept == {'3', '4'}


def test_no_checkpoint_is_none(tmp_path):
  assert restore(tmp_path) is None


def damage(path, keep_bytes):
  files = [p for p in path.rglob('*') if p.is_file() and p.stat().st_size > 8]
  for file in files:
    file.write_bytes(file.read_bytes()[:keep_bytes])


def test_a_half_written_checkpoint_gives_way_to_the_one_before(tmp_path):
  save(tmp_path, 1, 2)
  damage(tmp_path / 'checkpoints' / '2', 7)
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path), tree(1))


def test_a_damaged_checkpoint_makes_room_for_the_steps_taken_again(tmp_path):
  save(tmp_path, 1, 3)
  damage(tmp_path / 'checkpoints' / '3', 7)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.restore_latest(tree(0))
  checkpoints.save(2, tree(2))
  checkpoints.save(3, tree(3))
  checkpoints.close()
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path), tree(3))


def test_when_all_are_damaged_the_error_names_them(tmp_path):
  save(tmp_path, 1, 2)
  damage(tmp_path / 'checkpoints', 7)
  with pytest.raises(ValueError, match='no readable checkpoint.*checkpoints/2'):
    restore(tmp_path)


def test_whichever_file_is_cut_short_a_whole_checkpoint_is_used(tmp_path):
  save(tmp_path, 1, 2)
  newest = tmp_path / 'checkpoints' / '2'
  files = [p for p in newest.rglob('*') if p.is_file()]
  assert len(files) > 4
  given_way = 0
  for file in files:
    whole = file.read_bytes()
    for size in {0, len(whole) // 2}:
      file.write_bytes(whole[:size])
      step = int(restore(tmp_path)['step'])
      jax.tree.map(np.testing.assert_array_equal, restore(tmp_path), tree(step))
      given_way += step == 1
    file.write_bytes(whole)
  assert given_way > 0
  assert int(restore(tmp_path)['step']) == 2
  time.sleep(0.2)
  gc.collect()


def test_a_full_disk_is_named_and_leaves_the_last_whole_checkpoint(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  large = tree(1) | {'noise': np.random.RandomState(0).bytes(10**6)}
  large['noise'] = np.frombuffer(large['noise'], np.uint8)
  checkpoints.save(1, large)
  checkpoints.wait()
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, old[1]))
  try:
    with pytest.raises(OSError, match='checkpoints.*newest whole one is 1'):
      checkpoints.save(2, large)
      checkpoints.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
  again = checkpoint.Checkpoints(tmp_path)
  assert again.latest_step() == 1
  jax.tree.map(
    np.testing.assert_array_equal, again.restore_latest(large), large
  )
  again.save(2, large)
  again.close()


def test_jax_failing_in_a_save_is_named_where_nobody_else_can_be_gone(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  named = pytest.raises(OSError, match='could not be written .*: lost a buffer')
  with named, checkpoints._naming_failures():
    raise jax.errors.JaxRuntimeError('lost a buffer')
  checkpoints.close()


def test_reading_alone_makes_no_folder(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, read_only=True)
  assert checkpoints.restore_latest(tree(0)) is None
  checkpoints.close()
  assert not list(tmp_path.iterdir())
