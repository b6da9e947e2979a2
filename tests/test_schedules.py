"""Schedules: their end points, and the papers' own numbers."""

import jax
import numpy as np
import pytest

from nfnets.optim import schedules


def values(schedule, steps):
  return [float(jax.jit(schedule)(step)) for step in steps]


def test_warmup_cosine_starts_peaks_halves_and_ends_as_stated():
  schedule = schedules.warmup_cosine(1.6, 110, 10, start=0.1, end=0.2)
  np.testing.assert_allclose(
    values(schedule, [0, 5, 10, 60, 110, 1000]),
    [0.1, 0.85, 1.6, 0.9, 0.2, 0.2],
    rtol=1e-6,
  )


def test_warm_ups_may_be_none_or_all():
  assert values(schedules.warmup_cosine(0.5, 10, 0), [0]) == [0.5]
  assert values(schedules.warmup_cosine(0.5, 10, 10), [5, 10]) == [0.25, 0.5]


def test_the_first_rates_of_a_long_warm_up_are_exact():
  schedule = schedules.warmup_cosine(1.6, 450_000, 60_000)
  np.testing.assert_allclose(
    values(schedule, [1, 2]), [1.6 / 60_000, 3.2 / 60_000], rtol=1e-6
  )


def test_warmup_exponential_decays_by_its_rate_and_stops():
  schedule = schedules.warmup_exponential(
    2.0, num_steps=50, warmup_steps=10, decay_rate=0.5, decay_steps=20
  )
  np.testing.assert_allclose(
    values(schedule, [0, 5, 10, 20, 30, 50, 99]),
    [0, 1, 2, 2 * 0.5**0.5, 1, 0.5, 0.5],
    rtol=1e-6,
  )


def test_piecewise_and_constant_warm_up_when_asked():
  warm = schedules.piecewise(0.1, (400,), warmup_steps=400, start=0.01)
  np.testing.assert_allclose(values(warm, [0, 399]), [0.01, 0.099775])
  assert values(schedules.constant(0.5), [0, 7]) == [0.5, 0.5]
  warm = schedules.constant(0.5, warmup_steps=2)
  assert values(warm, [0, 1, 2]) == [0, 0.25, 0.5]


@pytest.mark.parametrize(
  'make',
  [
    lambda: schedules.warmup_exponential(0.1, 10, 1, decay_rate=0.0),
    lambda: schedules.piecewise(0.1, (20, 10)),
    lambda: schedules.piecewise(0.1, (20,), warmup_steps=30),
  ],
)
def test_impossible_schedules_are_refused(make):
  with pytest.raises(ValueError, match='must|within'):
    make()
