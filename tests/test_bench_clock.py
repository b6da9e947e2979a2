"""nfnets/bench/clock.py: alternation, and what a rate counts."""

import time

import pytest

from nfnets.bench import clock


def test_subjects_take_turns_and_every_second_round_goes_backwards():
  calls = []

  def subject(name):
    def run(seconds):
      calls.append((name, seconds))
      return clock.Sample(1, 1.0, 1.0)

    return run

  samples = clock.alternate({n: subject(n) for n in 'abc'}, 3, 0.5)
  assert ''.join(name for name, _ in calls) == 'abccbaabc'
  assert {seconds for _, seconds in calls} == {0.5}
  assert {name: len(runs) for name, runs in samples.items()} == {
    'a': 3, 'b': 3, 'c': 3
  }  # fmt: skip


def test_rate_counts_only_images_of_the_measured_time(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(clock.time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(clock.time, 'process_time', lambda: now[0] / 2)
  monkeypatch.setattr(clock, 'settle', lambda: None)

  def work():
    now[0] += 0.25
    return 5

  sample = clock.subject(work)(1.0)  # one call of warm-up, four measured
  assert sample == (20, 1.0, 0.5) and now[0] == 1.25
  assert sample.rate == 20 and sample.core_rate == 40


def test_processor_time_leaves_out_sleep():
  def work():
    time.sleep(0.01)
    return 1

  sample = clock.subject(work)(0.1)
  assert sample.wall >= 0.1 and sample.cpu < sample.wall / 2


def test_ratio_is_the_median_of_the_rounds_own_ratios():
  ours = [clock.Sample(n, 1.0, 2.0) for n in (10, 40, 90)]
  theirs = [clock.Sample(n, 1.0, 1.0) for n in (10, 10, 30)]
  assert clock.ratio(ours, theirs) == pytest.approx(3)  # of 1, 4, 3
  assert clock.ratio(ours, theirs, by='core_rate') == pytest.approx(1.5)
