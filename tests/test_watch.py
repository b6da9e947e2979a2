"""A process that is gone is noticed and named; one that is done is not."""

import json
import time

import jax
import pytest

from nfnets import watch


def make(folder, index, count=2, timeout=1000.0):
  left = []
  made = watch.Watch(folder, index, count, timeout, leave=left.append)
  made.left = left
  return made


@pytest.fixture
def pair(tmp_path):
  """Two processes' watches whose threads sleep: the test looks."""
  with make(tmp_path, 0) as first:
    second = make(tmp_path, 1)
    second.step = 7
    second._write(None)
    yield first, second


def test_a_process_that_writes_is_never_missing(pair):
  first, second = pair
  for _ in range(3 * watch.LOOKS):
    second._write(None)
    assert first.look() is None


def test_silence_over_all_looks_is_named_with_host_pid_and_step(pair):
  first, _ = pair
  verdicts = [first.look() for _ in range(watch.LOOKS + 1)]
  assert verdicts[:-1] == [None] * watch.LOOKS
  assert verdicts[-1].startswith('process 1 of 2 (')
  assert 'at step 7) is missing: silent for 1000 seconds' in verdicts[-1]


def test_a_process_that_never_came_is_missing_too(tmp_path):
  with make(tmp_path, 0) as first:
    verdicts = [first.look() for _ in range(watch.LOOKS)]
  assert verdicts[-1].startswith('process 1 of 2 is missing')


def test_a_process_that_is_over_may_be_silent(pair):
  first, second = pair
  second._write('over')
  assert [first.look() for _ in range(3 * watch.LOOKS)] == [None] * 30


def test_what_an_earlier_run_left_is_no_news(tmp_path):
  make(tmp_path, 1)._write('ValueError: of last week')
  with make(tmp_path, 0) as first:
    assert first.look() is None
    make(tmp_path, 1, timeout=1)._write(None)
    assert first.look() is None
    verdicts = [first.look() for _ in range(watch.LOOKS)]
  assert 'at step 0) is missing: silent' in verdicts[-1]


def test_what_another_found_out_is_passed_on_as_it_is(pair):
  first, second = pair
  second._write('process 2 of 3 is missing: silent for 1000 seconds')
  assert first.look() == 'process 2 of 3 is missing: silent for 1000 seconds'


def test_a_process_that_failed_is_quoted_at_once(pair):
  first, second = pair
  second._write('ValueError: example 3 is unreadable')
  assert first.look().endswith('ended: ValueError: example 3 is unreadable')


def test_the_thread_ends_this_process_and_says_why(tmp_path, capfd):
  with make(tmp_path, 0, timeout=0.2) as first:
    deadline = time.time() + 60
    while not first.left and time.time() < deadline:
      time.sleep(0.01)
  assert first.left == [watch.EXIT_CODE]
  said = capfd.readouterr().err
  assert said.startswith('error: process 1 of 2 is missing')
  assert 'run the same command again' in said


def test_an_error_is_told_to_the_others_in_one_line(tmp_path, capfd):
  with pytest.raises(ValueError), make(tmp_path, 0, timeout=0.2) as first:
    raise ValueError('bad\nluck')
  assert 2 in first.left
  news = json.loads((tmp_path / 'processes' / '0.json').read_text())
  assert news['ended'] == 'ValueError: bad luck'
  assert 'process 0 of 2: ValueError: bad luck' in capfd.readouterr().err


def test_a_failed_collective_waits_for_the_name_of_the_missing(tmp_path, capfd):
  with (
    pytest.raises(jax.errors.JaxRuntimeError),
    make(tmp_path, 0, timeout=0.3) as first,
  ):
    raise jax.errors.JaxRuntimeError('connection closed by peer')
  assert first.left[0] == watch.EXIT_CODE
  assert 'process 1 of 2 is missing' in capfd.readouterr().err


def test_what_all_refuse_alike_is_told_to_nobody(tmp_path, capfd):
  with (
    pytest.raises(watch.Agreed, match='another folder'),
    make(tmp_path, 0, timeout=1000) as first,
  ):
    raise watch.Agreed('another folder')
  assert not first.left and not capfd.readouterr().err
  news = json.loads((tmp_path / 'processes' / '0.json').read_text())
  assert news['ended'] == 'over'


def test_where_nothing_can_be_written_the_first_error_is_the_one_said(
  tmp_path, capfd, monkeypatch
):
  def full(path, text):
    raise OSError(28, 'No space left on device')

  with (
    pytest.raises(ValueError, match='bad luck'),
    make(tmp_path, 0, timeout=0.2) as first,
  ):
    monkeypatch.setattr(watch.results, 'write_atomically', full)
    raise ValueError('bad luck')
  assert first.left[-1] == 2
  assert 'process 0 of 2: ValueError: bad luck' in capfd.readouterr().err


@pytest.mark.parametrize(
  ('error', 'expected'),
  [
    (jax.errors.JaxRuntimeError('UNAVAILABLE: Socket closed'), True),
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory'), False),
    (ValueError('UNKNOWN: Gloo AllGather failed: Read error'), True),
    (ValueError('16 examples do not divide'), False),
    (OSError('connection reset'), False),
    (None, False),
  ],
)
def test_the_loss_of_a_partner_is_told_from_other_errors(error, expected):
  assert watch.is_collective(error) == expected
  around = OSError('a checkpoint could not be written')
  around.__cause__ = error
  assert watch.is_collective(around) == expected


def test_alone_there_is_nothing_to_watch(tmp_path):
  with make(tmp_path, 0, count=1) as alone:
    pass
  assert not alone.left and not list(tmp_path.iterdir())
