"""Checkpoints on disk."""

import jax
import numpy as np
import pytest

from nfnets import checkpoint, parallel


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
