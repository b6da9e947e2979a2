"""The measurement of what a recipe's pieces cost, and its report."""

import pytest
import tiny

from nfnets.analysis import cost
from scripts import recipe_cost


def entry(**values):
  return {
    'part': 'time',
    'network': 'a network',
    'machine': 'a machine',
    'command': 'a command',
    'rounds': 9,
    'steps': 2,
    'observe_every': 100,
    'seconds': [0.9, 1.0, 1.25],
    'ratios': {name: [1.0, 1.01, 1.02] for name in cost.TIMED}
    | {cost.OBSERVED: [1.4, 1.51, 1.6], 'AGC': [1.02, 1.04, 1.07]},
    **values,
  }


def test_the_report_states_medians_quartiles_machine_and_command():
  text = recipe_cost.report([entry()])
  assert '| AGC | +4 % | +2 % to +7 % |' in text
  assert 'takes 1 s (quartiles 0.9 and 1.25)' in text
  assert 'Measured on a machine by `a command`.' in text


def test_the_observatory_costs_its_excess_over_the_steps_between():
  # (1.51 - 1.01) of a plain step, each 100th step.
  assert 'it adds +0.50 % of a plain step' in recipe_cost.report([entry()])


def test_memory_is_reported_in_mib_and_relative_to_the_plain_step():
  sizes = {'arguments': 3 << 20, 'donated': 2 << 20, 'temporary': 8 << 20}
  found = {'plain': sizes, 'rematerialization': sizes | {'temporary': 2 << 20}}
  text = recipe_cost.report([entry(part='memory', bytes=found)])
  assert '| plain | 8 | 1.00 | 3 | 2 |' in text
  assert '| rematerialization | 2 | 0.25 | 3 | 2 |' in text


def test_a_piece_is_compared_with_the_plain_step_of_its_own_pair(monkeypatch):
  machine = {'load': 1.0}

  def make_stepper(config):
    share = 2.0 if config.optimizer.clip == 'agc' else 1.0
    share = 3.0 if config.sam.rho else share

    def seconds(count):
      assert count == 5
      return share * machine['load']

    return seconds

  monkeypatch.setattr(cost, 'make_stepper', make_stepper)
  found = cost.measure_time(tiny.config(observe_every=50), rounds=4, steps=5)
  assert found['ratios']['AGC'] == [2.0, 2.0, 2.0]
  assert found['ratios']['SAM, ascent on the whole batch'] == [3.0, 3.0, 3.0]
  assert found['ratios']['EMA'] == [1.0, 1.0, 1.0]
  assert found['observe_every'] == 50 and found['rounds'] == 4


def test_the_plain_step_has_none_of_the_pieces():
  config = tiny.config(
    optimizer__clip='agc', sam__rho=0.1, ema__mode='warmup', observe_every=7
  )
  plain = cost.with_overrides(config, {})
  assert plain.optimizer.clip == 'none' and plain.ema.mode == 'none'
  assert plain.sam.rho == 0 and plain.observe_every == 0
  assert config.sam.rho == 0.1
  agc = cost.with_overrides(config, cost.TIMED['AGC'])
  assert agc.optimizer.clip == 'agc' and agc.sam.rho == 0


def test_the_compiler_counts_the_state_as_donated(monkeypatch):
  monkeypatch.setattr(cost, 'MEMORY', {'plain': {}})
  sizes = cost.measure_memory(tiny.config())['plain']
  # Parameters and momentum are needed twice at least, 4 bytes each.
  assert sizes['donated'] > 2 * 4 * 5000
  assert sizes['donated'] <= sizes['arguments']
  assert sizes['temporary'] > 16 * 8 * 8 * 16 * 4  # one activation


@pytest.mark.slow
def test_a_real_step_takes_time():
  config = cost.with_overrides(tiny.config(), cost.TIMED['EMA'])
  seconds = cost.make_stepper(config)
  assert 1e-5 < seconds(2) < 60
