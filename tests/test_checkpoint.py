"""Checkpoints on disk."""

import json
import resource
import time

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


def restore(path, like=None, read_only=False):
  checkpoints = checkpoint.Checkpoints(path, read_only=read_only)
  like = like or tree(0)
  state = checkpoints.restore_latest(jax.eval_shape(lambda: like))
  checkpoints.close()
  return state


def test_the_newest_checkpoint_is_restored_bit_for_bit(tmp_path):
  save(tmp_path, 1, 2, 3)
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path), tree(3))


def test_a_state_of_another_shape_is_refused_naming_what_differs(tmp_path):
  save(tmp_path, 1)
  other = tree(1)
  other['params']['net/~/conv']['w'] = np.zeros((3, 3), np.float32)
  other['opt_state'] += (np.float32(0),)
  with pytest.raises(ValueError, match=r'it has no opt_state/2'):
    restore(tmp_path, other)
  with pytest.raises(ValueError, match=r'w has shape \(4, 3\), not \(3, 3\)'):
    restore(tmp_path, {'params': other['params']})


def test_a_part_of_a_state_can_be_restored(tmp_path):
  save(tmp_path, 1)
  found = restore(tmp_path, {'params': tree(0)['params']})
  jax.tree.map(
    np.testing.assert_array_equal, found, {'params': tree(1)['params']}
  )


def damage(path, keep_bytes):
  files = [p for p in path.rglob('*') if p.is_file() and p.stat().st_size > 8]
  for file in files:
    file.write_bytes(file.read_bytes()[:keep_bytes])


def test_a_damaged_checkpoint_makes_way_for_the_repeated_step(tmp_path):
  save(tmp_path, 1, 3)
  damage(tmp_path / 'checkpoints' / '3', 7)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  found = checkpoints.restore_latest(tree(0))
  jax.tree.map(np.testing.assert_array_equal, found, tree(1))
  checkpoints.save(2, tree(2))
  checkpoints.save(3, tree(3))
  checkpoints.close()
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path), tree(3))
  assert (tmp_path / 'checkpoints' / '3.damaged').exists()


def test_an_empty_newest_folder_is_skipped(tmp_path):
  save(tmp_path, 1, 2)
  (tmp_path / 'checkpoints' / '7').mkdir()
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path), tree(2))


@pytest.mark.parametrize('sums', [None, {}, {'step': '9182ffb0'}])
def test_a_checkpoint_without_its_checksums_is_damaged(tmp_path, sums):
  save(tmp_path, 1, 2)
  told = tmp_path / 'checkpoints' / '2' / '_CHECKPOINT_METADATA'
  if sums is None:
    told.unlink()
  else:
    content = json.loads(told.read_text())
    content['custom_metadata']['checksums'] = sums
    told.write_text(json.dumps(content))
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path), tree(1))


def test_a_checkpoint_from_before_checksums_is_restored_with_a_warning(
  tmp_path, caplog
):
  save(tmp_path, 1)
  told = tmp_path / 'checkpoints' / '1' / '_CHECKPOINT_METADATA'
  content = json.loads(told.read_text())
  told.write_text(json.dumps(content | {'custom_metadata': {}}))
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path), tree(1))
  assert 'without checksums' in caplog.text


def test_a_renamed_checkpoint_is_refused(tmp_path):
  save(tmp_path, 1, 2)
  (tmp_path / 'checkpoints' / '2').rename(tmp_path / 'checkpoints' / '9')
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path), tree(1))


def test_a_refused_save_raises(tmp_path):
  save(tmp_path, 5)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  with pytest.raises(OSError, match='step 3 does not follow 5'):
    checkpoints.save(3, tree(3))
    checkpoints.wait()
  checkpoints.close()


def test_a_flipped_bit_anywhere_in_the_data_is_noticed(tmp_path):
  save(tmp_path, 1, 2)
  newest = tmp_path / 'checkpoints' / '2'
  files = [p for p in newest.rglob('d/*') if p.is_file()]
  random = np.random.RandomState(0)
  for turn in range(8):
    file = files[turn % len(files)]
    whole = file.read_bytes()
    bits = bytearray(whole)
    bits[random.randint(len(bits))] ^= 1 << random.randint(8)
    file.write_bytes(bits)
    found = restore(tmp_path, read_only=True)
    expected = tree(int(found['step']))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    file.write_bytes(whole)


def test_when_all_are_damaged_the_error_names_them(tmp_path):
  save(tmp_path, 1, 2)
  damage(tmp_path / 'checkpoints', 7)
  with pytest.raises(
    ValueError, match='no readable checkpoint.*from a copy.*checkpoints/2'
  ) as refusal:
    restore(tmp_path)
  assert 'tensorstore_spec' not in str(refusal.value)


def test_whichever_file_is_truncated_an_intact_checkpoint_is_used(tmp_path):
  save(tmp_path, 1, 2)
  newest = tmp_path / 'checkpoints' / '2'
  files = [p for p in newest.rglob('*') if p.is_file()]
  assert len(files) > 4
  given_way = 0
  for file in files:
    whole = file.read_bytes()
    for size in {0, len(whole) // 2}:
      file.write_bytes(whole[:size])
      found = restore(tmp_path, read_only=True)
      step = int(found['step'])
      jax.tree.map(np.testing.assert_array_equal, found, tree(step))
      given_way += step == 1
    file.write_bytes(whole)
  assert given_way > 0
  assert int(restore(tmp_path)['step']) == 2


def test_a_full_disk_is_one_line_and_leaves_the_previous_checkpoint(
  tmp_path, capfd
):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  large = tree(1) | {'noise': np.random.RandomState(0).bytes(10**6)}
  large['noise'] = np.frombuffer(large['noise'], np.uint8)
  checkpoints.save(1, large)
  checkpoints.wait()
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, old[1]))
  try:
    said = f'{tmp_path}/checkpoints: File too large; the newest intact one is 1'
    with pytest.raises(OSError, match=said):
      checkpoints.save(2, large)
      checkpoints.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
  time.sleep(1)  # its threads are done
  assert capfd.readouterr() == ('', '')
  again = checkpoint.Checkpoints(tmp_path)
  assert again.latest_step() == 1
  jax.tree.map(
    np.testing.assert_array_equal, again.restore_latest(large), large
  )
  again.save(2, large)
  again.close()


def test_reading_creates_no_folder(tmp_path):
  assert restore(tmp_path, read_only=True) is None
  assert not list(tmp_path.iterdir())
