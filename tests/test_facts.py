"""What a report says of hardware, cost and commands."""

import functools
import types

import pytest

from nfnets.pages import facts

HARDWARE = {'device': 'cpu', 'device_count': 1, 'cpu': 'EPYC', 'cores': 2}


def record(**values):
  return {
    'hardware': HARDWARE,
    'versions': {'jax': '0.10.2'},
    'updates': 30,
    'curve': [
      {'step': 10, 'train/step_seconds': 60.0},
      {'step': 20, 'train/step_seconds': 900.0},  # stopped for a while
      {'step': 30, 'train/step_seconds': 100.0},
    ],
    **values,
  }


def test_the_time_of_a_run_is_its_steps_at_their_usual_pace():
  assert facts.trained_seconds(record()) == 30 * 100
  assert facts.trained_seconds({'signals': []}) == 0


def test_each_machine_is_named_once():
  assert facts.hardware([record(), record()]) == [
    '1 x cpu (EPYC, 2 cores), jax 0.10.2'
  ]


def test_what_another_experiment_ran_is_named_and_not_paid_twice():
  module = types.SimpleNamespace(RUNS={'a': {}}, SEEDS=(0,))
  other = record(row='a', same_as='b/c@cpu_seed0')
  told = facts.cost(module, [record(), other])
  assert told.startswith('1 run, 30 updates,')
  assert told.endswith('equal runs of other experiments: a (b/c@cpu_seed0).')
  assert facts.cost(module, [other]).startswith('Taken over')


def test_cost_is_of_what_was_run_and_of_what_full_size_would_take():
  module = types.SimpleNamespace(
    RUNS={'a': {}, 'b': {}}, SEEDS=(0, 1), cost={'a': 20.0, 'b': 1000.0}.get
  )
  told = facts.cost(module, [record()])
  assert told.startswith('1 run, 30 updates, 50 minutes of steps')
  assert '2 rows, about 20 to 1,000 TPUv3 chip-hours each, 1,020 in all' in told
  assert facts.cost(types.SimpleNamespace(), []) == ''


def test_a_run_without_a_timed_step_is_told_and_not_counted_as_free():
  module = types.SimpleNamespace()
  early = record(curve=[], updates=8)
  probe = record(curve=[{'step': 30, 'eval/top_1': 0.5}])
  told = facts.cost(module, [record(), early, early])
  assert told == (
    '1 run, 30 updates, 50 minutes of steps at their usual pace, without '
    '2 runs that ended before their first evaluation.'
  )
  told = facts.cost(module, [record(), probe])
  assert told.endswith(', without 1 whose steps were not timed.')
  told = facts.cost(module, [early])
  assert told == '1 run, 8 updates, none of them timed.'


def test_a_measurement_s_time_is_told_where_it_was_recorded():
  module = types.SimpleNamespace()
  one = {'hardware': HARDWARE}
  told = facts.cost(module, [one | {'seconds': 100.0}, one | {'seconds': 80}])
  assert told == '2 measurements, 3 minutes.'
  told = facts.cost(module, [one | {'seconds': 4.0}, one])
  assert told == (
    '1 measurement, 4 seconds, without 1 whose time is not recorded.'
  )
  told = facts.cost(module, [one, one])
  assert told == '2 measurements; how long it took is not recorded.'
  chip = {'hardware': HARDWARE | {'device': 'TPU v3'}, 'seconds': 4.0}
  assert facts.cost(module, [chip]) == '1 measurement, 4 seconds.'


def test_a_verdict_rests_on_the_seeds_of_its_own_scale():
  trained = types.SimpleNamespace(SEEDS=(0, 1))
  runs = [
    record(row=row, seed=seed, scale=scale)
    for row, seed, scale in (
      ('a', 0, 'cpu'), ('a', 1, 'cpu'), ('b', 0, 'cpu'), ('a', 2, 'full'),
    )
  ]  # fmt: skip
  basis = functools.partial(facts.basis, trained, runs)
  assert basis(('mixed', 'At scale cpu: a.')) == 'scale cpu, 1 to 2 seeds'
  assert basis(('borne out', 'a.')) == 'scale full, 1 seed'
  assert basis(('not run', 'At scale cpu: a: no record yet.')) == ''
  measured = types.SimpleNamespace()
  on_device = ('mixed', 'At scale cpu on 2 cores: a.')
  assert facts.basis(measured, runs, on_device) == 'scale cpu'


def test_records_with_metrics_by_epoch_are_counted_among_the_runs():
  runs = [record(epochs=[{'epoch': 1}]), record(epochs=[]), record()]
  assert facts.by_epoch([*runs, {'seconds': 1.0}]) == (
    'Training metrics by epoch: in 1 of 3 records.'
  )
  assert facts.by_epoch([{'seconds': 1.0}]) == ''


def test_commands_name_the_scales_that_ran():
  module = types.SimpleNamespace(
    SEEDS=(0,), SCALES={'full': {}, 'cifar': {}, 'cpu': {}}
  )
  found = facts.commands('x', module, [record(scale='cifar')])
  assert found == [
    'python -m scripts.sweep --experiment=x -- --config.data.data_dir=DATA',
    'python -m scripts.sweep --experiment=x --scale=cifar -- '
    '--config.data.data_dir=DATA',
    'python -m scripts.report --experiment=x',
  ]
  measured = [record(command=f'python -m m --only={row} --n=1') for row in 'ab']
  found = facts.commands('x', types.SimpleNamespace(), measured)
  assert found[0] == 'python -m m --n=1' and len(found) == 2


def test_commands_that_an_experiment_needs_come_first():
  before = 'python -m scripts.sweep --experiment=a'
  trained = types.SimpleNamespace(SEEDS=(0,), BEFORE=(before,))
  measured = types.SimpleNamespace(BEFORE=(before,))
  for module in (trained, measured):
    found = facts.commands('x', module, [])
    assert found[0] == before and len(found) == 3
    assert facts.commands('x', types.SimpleNamespace(), []) == [
      'python -m scripts.measure --experiment=x',
      'python -m scripts.report --experiment=x',
    ]


def test_a_note_is_the_docstring_less_its_title_and_commands():
  module = types.SimpleNamespace(__doc__='Title.\n\n  python -m x\n\nHow.\n')
  assert facts.note(module) == 'How.'


@pytest.mark.parametrize(('hours', 'text'), [(3.04, '3.0'), (1234.5, '1,234')])
def test_hours_are_rounded_for_reading(hours, text):
  assert facts._round(hours) == text
