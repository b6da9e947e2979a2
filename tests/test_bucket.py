"""Runs in a bucket: a local copy, and what a kill leaves of it."""

import contextlib
import importlib.util
import pathlib
import tempfile
import types

import fsspec
import numpy as np
import pytest

from nfnets import bucket, checkpoint, mirror, workdir
from nfnets.data import sources


@pytest.fixture
def slept(monkeypatch):
  """The pauses between tries, in seconds; they take no time."""
  pauses = []
  clock = types.SimpleNamespace(sleep=pauses.append)
  monkeypatch.setattr(mirror, 'time', clock)
  return pauses


@pytest.fixture
def memory(monkeypatch, slept):
  """fsspec's storage in memory stands in for a bucket: objects by name."""
  monkeypatch.setitem(bucket.PACKAGES, 'memory', 'fsspec')
  storage = fsspec.filesystem('memory')
  storage.store.clear()
  yield storage
  storage.store.clear()


def names(storage):
  return sorted(name.removeprefix('/b/run/') for name in storage.store)


def write(path, *steps, rows=1, status='running'):
  """A folder as a run leaves it after its checkpoints `steps`."""
  path.mkdir(parents=True, exist_ok=True)
  (path / 'config.json').write_text('{}')
  (path / 'metrics.jsonl').write_text('{"step": 1}\n' * rows)
  (path / 'summary.json').write_text(status)
  for step in steps:
    (path / f'checkpoints/{step}/d').mkdir(parents=True, exist_ok=True)
    (path / f'checkpoints/{step}/d/data').write_text(f'numbers of {step}')
    (path / f'checkpoints/{step}/meta').write_text(f'{step}')


def contents(path):
  return {
    file.relative_to(path).as_posix(): file.read_text()
    for file in path.rglob('*')
    if file.is_file()
  }


def test_a_local_folder_is_used_itself(tmp_path):
  with bucket.working_copy(tmp_path / 'run') as (path, _, upload):
    write(path, 5)
    assert upload is None
  assert path == tmp_path / 'run'
  with bucket.fetched(path) as found:
    assert found == path
  assert (path / 'config.json').exists()


def test_a_run_survives_upload_and_fetch_and_the_copy_is_removed(memory):
  with bucket.working_copy('memory://b/run') as (path, _, upload):
    write(path, 5)
    upload()
    write(path, 10, rows=2)
    expected = contents(path)
  assert not path.exists()
  assert 'checkpoints/10/uploaded' in names(memory)
  # One slash, as pathlib writes it.
  with bucket.working_copy('memory:/b/run/') as (path, *_):
    assert contents(path) == expected
    write(path, 15, rows=3)
  with bucket.fetched('memory://b/run') as path:
    assert contents(path).keys() == {*expected, *(
      f'checkpoints/15/{name}' for name in ('d/data', 'meta')
    )}  # fmt: skip


def test_what_no_other_machine_needs_is_not_copied(memory):
  with bucket.working_copy('memory://b/run') as (path, *_):
    write(path, 5)
    for name in ('lock', 'x.1.tmp', 'tensorboard/e', 'checkpoints/7.tmp-0/d'):
      (path / name).parent.mkdir(exist_ok=True)
      (path / name).write_text('')
  assert 'tensorboard/e' in names(memory)
  assert not {'lock', 'x.1.tmp', 'checkpoints/7.tmp-0/d'} & set(names(memory))
  with bucket.fetched('memory://b/run') as path:
    assert not (path / 'tensorboard').exists()


def test_checkpoints_that_a_run_deletes_are_deleted_in_the_bucket(memory):
  with bucket.working_copy('memory://b/run') as (path, _, upload):
    write(path, 5, 10)
    upload()
    for file in [*path.glob('checkpoints/5/**/*')][::-1]:
      file.rmdir() if file.is_dir() else file.unlink()
    write(path, 15)
  kept = {name.split('/')[1] for name in names(memory) if 'checkpoints' in name}
  assert kept == {'10', '15'}


def test_a_checkpoint_that_a_run_set_aside_stays_in_the_bucket(memory):
  with bucket.working_copy('memory://b/run') as (path, _, upload):
    write(path, 5, 10)
    upload()
    (path / 'checkpoints/10').rename(path / 'checkpoints/10.damaged')
    write(path, 7)
  with bucket.fetched('memory://b/run') as path:
    steps = {folder.name for folder in (path / 'checkpoints').iterdir()}
    assert steps == {'5', '7', '10'}
    assert (path / 'checkpoints/10/meta').read_text() == '10'


def test_what_a_run_is_can_be_read_without_its_checkpoints(memory, monkeypatch):
  with bucket.working_copy('memory://b/run') as (path, *_):
    write(path, 5, 10)
  memory.rm('/b/run/checkpoints/10/uploaded')
  with bucket.fetched('memory://b/run', whole=False) as path:
    assert contents(path).keys() == {'config.json', 'summary.json'}
    assert workdir.RunFolder(path).saved_steps() == [5]


def test_other_processes_upload_nothing(memory):
  with bucket.working_copy('memory://b/run', uploads=False) as (
    path,
    url,
    upload,
  ):
    write(path, 5)
    assert (url, upload) == ('memory://b/run', None)
  assert not memory.store


class Killed(BaseException):
  """Stands for a kill."""


@contextlib.contextmanager
def killed_after(storage, monkeypatch, count):
  """Ends the block, like a kill, before it changes object number `count`."""
  left = [count]

  def counting(function):
    def called(*args, **kwargs):
      if not left[0]:
        raise Killed
      left[0] -= 1
      return function(*args, **kwargs)

    return called

  with monkeypatch.context() as patch:
    for name in ('pipe_file', 'put_file', 'rm_file'):
      patch.setattr(storage, name, counting(getattr(storage, name)))
    with contextlib.suppress(Killed):
      yield left


def test_a_kill_at_any_point_leaves_a_complete_run(memory, monkeypatch):
  for count in range(100):
    memory.store.clear()
    with bucket.working_copy('memory://b/run') as (path, *_):
      write(path, 5)
    with (
      killed_after(memory, monkeypatch, count) as left,
      bucket.working_copy('memory://b/run') as (path, _, upload),
    ):
      write(path, 10, rows=2)
      upload()
      for file in [*path.glob('checkpoints/5/**/*')][::-1]:
        file.rmdir() if file.is_dir() else file.unlink()
      (path / 'checkpoints/10/meta').write_text('anew')  # the step again
      write(path, 15, rows=3, status='finished')
    with bucket.fetched('memory://b/run') as path:
      found = contents(path)
    steps = {name.split('/')[1] for name in found if 'checkpoints' in name}
    assert steps
    for step in steps:
      assert found[f'checkpoints/{step}/d/data'] == f'numbers of {step}'
      assert f'checkpoints/{step}/meta' in found
    assert found['metrics.jsonl']
    assert (found['summary.json'] != 'finished') or '15' in steps
    if left[0]:  # nothing was left to break
      assert steps == {'10', '15'}
      break
  assert count > 10


def test_an_incomplete_first_upload_leaves_the_folder_usable(
  memory, monkeypatch
):
  for count in range(100):
    memory.store.clear()
    with (
      killed_after(memory, monkeypatch, count) as left,
      bucket.working_copy('memory://b/run') as (path, *_),
    ):
      write(path, 5, status='{}')
    with bucket.fetched('memory://b/run') as path:
      folder = workdir.RunFolder(path)
      folder.check_same_run({})
    if left[0]:
      break


def fails(*_, **__):
  raise RuntimeError('403\nforbidden')


def failing_once(function):
  calls = []

  def called(*args, **kwargs):
    calls.append(args)
    return fails() if len(calls) == 1 else function(*args, **kwargs)

  return called


@pytest.mark.parametrize('raises', [False, True])
def test_a_copy_that_could_not_be_uploaded_is_kept_and_named(
  memory, monkeypatch, tmp_path, raises
):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  with (
    pytest.raises(OSError, match='memory://b/run could not be writ') as refusal,
    bucket.working_copy('memory://b/run') as (path, _, upload),
  ):
    checkpoints = checkpoint.Checkpoints(path, written=upload)
    checkpoints.save(10, {'step': np.int32(10)})
    checkpoints.wait()
    for name in ('pipe_file', 'put_file'):
      monkeypatch.setattr(memory, name, fails)
    checkpoints.save(20, {'step': np.int32(20)})
    with pytest.raises(OSError, match='^memory://b/run could .*forb') as failed:
      checkpoints.wait()
    assert str(path) not in str(failed.value)  # that folder could be written
    checkpoints.close()
    if raises:
      raise failed.value
  said = str(refusal.value)
  assert said.endswith(f'go on there, with --workdir={path}')
  assert '\n' not in said
  assert 'checkpoints/10/uploaded' in names(memory)
  assert not any(name.startswith('checkpoints/20') for name in names(memory))
  kept = checkpoint.Checkpoints(path)
  assert kept.restore_latest({'step': np.int32(0)})['step'] == 20
  kept.close()


def test_a_copy_is_kept_if_its_last_upload_is_interrupted(
  memory, monkeypatch, tmp_path
):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  monkeypatch.setattr(memory, 'pipe_file', interrupted)
  with (
    pytest.raises(OSError, match='memory://b/run: the upload was interrupted'),
    bucket.working_copy('memory://b/run') as (path, *_),
  ):
    write(path, 5)
  assert (path / 'checkpoints/5/meta').exists()


def test_what_ended_a_run_is_said_though_its_last_upload_fails(
  memory, monkeypatch, tmp_path
):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  monkeypatch.setattr(memory, 'pipe_file', fails)
  with (
    pytest.raises(OSError, match='^config.x is wrong; the newest state is in'),
    bucket.working_copy('memory://b/run') as (path, *_),
  ):
    write(path, 5)
    raise ValueError('config.x is wrong')


@pytest.mark.parametrize('call', ['pipe_file', 'put_file'])
def test_an_upload_is_tried_again_after_a_pause(
  memory, monkeypatch, slept, call
):
  monkeypatch.setattr(memory, call, failing_once(getattr(memory, call)))
  with bucket.working_copy('memory://b/run') as (path, _, upload):
    write(path, 5)
    upload()
  assert 'checkpoints/5/uploaded' in names(memory)
  assert not path.exists()
  assert len(slept) == 1 and slept[0] > 0


def test_a_checkpoint_deleted_during_the_fetch_is_skipped(memory, monkeypatch):
  with bucket.working_copy('memory://b/run') as (path, *_):
    write(path, 5, 10)
  get = memory.get
  calls = []

  def pruned(wanted, *args, **kwargs):
    if not calls:
      memory.rm('/b/run/checkpoints/5', recursive=True)
    calls.append(wanted)
    return get(wanted, *args, **kwargs)

  monkeypatch.setattr(memory, 'get', pruned)
  with bucket.fetched('memory://b/run') as path:
    assert [p.name for p in (path / 'checkpoints').iterdir()] == ['10']
  assert len(calls) == 2


@pytest.mark.parametrize('made', ['', 'checkpoints/', 'checkpoints/5/'])
def test_a_folder_made_in_a_console_is_a_workdir(memory, monkeypatch, made):
  find = memory.find

  def with_folders(root, detail):  # empty objects, as s3fs lists them
    return {
      f'{root}/{name}': {'type': 'file', 'size': 0} for name in ('', made)
    } | find(root, detail=detail)

  monkeypatch.setattr(memory, 'find', with_folders)
  with bucket.working_copy('memory://b/run') as (path, *_):
    assert not path.exists()
    write(path, 5)
    expected = contents(path)
  with bucket.fetched('memory://b/run') as path:
    assert contents(path) == expected


def test_a_file_of_weights_is_fetched_under_its_name(memory):
  memory.pipe_file('/b/weights/F0.npz', b'numbers')
  with bucket.fetched('memory://b/weights/F0.npz') as path:
    assert path.name == 'F0.npz'
    assert path.read_bytes() == b'numbers'


@pytest.mark.parametrize('place', ['ftp://x/y', 'hdfs:/x', 'file:///tmp/x'])
def test_an_unknown_scheme_is_refused_in_one_line(place):
  with (
    pytest.raises(ValueError, match='give a local path, gs:// or s3://'),
    bucket.fetched(place),
  ):
    pass


@pytest.mark.parametrize('package', ['gcsfs', 's3fs'])
def test_a_missing_package_is_named(monkeypatch, package):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  scheme = {'gcsfs': 'gs', 's3fs': 's3'}[package]
  with (
    pytest.raises(ValueError, match=f'pip install {package}'),
    bucket.working_copy(f'{scheme}://b/run'),
  ):
    pass


def test_data_in_a_bucket_is_refused_with_the_remedy():
  with pytest.raises(ValueError, match='gs://b/data: data cannot .*gcsfuse'):
    sources.create('cifar10', 'test', 'gs://b/data')


def test_an_error_of_the_storage_is_one_line_with_the_url(memory, monkeypatch):
  monkeypatch.setattr(memory, 'find', fails)
  with (
    pytest.raises(
      OSError, match='memory://b/run could not be read: .*: 403 forb'
    ),
    bucket.fetched('memory://b/run'),
  ):
    pass


def test_paths_and_urls_are_made_absolute(tmp_path, monkeypatch):
  assert bucket.absolute(pathlib.Path('gs://b/run/')) == 'gs://b/run'
  monkeypatch.chdir(tmp_path)
  assert bucket.absolute('run') == str(tmp_path / 'run')
  assert not bucket.is_url('hf-hub:timm/dm_nfnet_f0')
  with pytest.raises(ValueError, match='gs://b/run: copy the run to a local'):
    workdir.RunFolder('gs://b/run')
