"""scripts.experiment: the rows that it runs, in order, and their records."""

import pathlib
import shutil
import subprocess
import types
from concurrent import futures
from unittest import mock

import pytest
from invented import record

from experiments import clipping_threshold, records, resnet20_three_ways
from nfnets.workdir import RunFolder
from scripts import experiment

THREE_WAYS = ('--experiment=resnet20_three_ways', '--scale=cpu')


@pytest.fixture
def command(run_script, tmp_path, monkeypatch):
  """Calls the command; its trainings are played by `outcomes`, name to code.

  A training that ends with 0 leaves a finished run's folder. A code in a tuple
  is that of a training during which Ctrl-C comes.
  """
  real = subprocess.Popen

  def run(verb, *arguments, outcomes=None):
    called = []

    def popen(words, *arguments, **keywords):
      folders = [w.partition('=')[2] for w in words if '--workdir=' in w]
      if not folders:
        return real(words, *arguments, **keywords)
      path = pathlib.Path(folders[0])
      called.append(path.name)
      code = (outcomes or {}).get(path.name, 2)
      waits = [KeyboardInterrupt, *code] if isinstance(code, tuple) else [code]
      if waits[-1] == 0:
        folder, data = RunFolder(path), {'num_train': 100}
        folder.write_config({'seed': 0, 'batch_size': 10, 'data': data})
        folder.write_summary(record('x', 0.5)['summary'])
      return types.SimpleNamespace(wait=mock.Mock(side_effect=waits))

    with monkeypatch.context() as patch:
      patch.setattr(subprocess, 'Popen', popen)
      threads = lambda *_: futures.ThreadPoolExecutor(1)
      patch.setattr(futures, 'ProcessPoolExecutor', threads)
      places = (f'--results={tmp_path}/results', f'--workdir={tmp_path}/runs')
      done = run_script('scripts.experiment', verb, *places, *arguments)
    return done, called

  return run


def test_commands_are_printed_all_arms_of_the_first_seed_first(command):
  done, called = command('print', *THREE_WAYS, '--', '--config.x=1')
  lines = done.stdout.splitlines()
  assert (done.code, called, len(lines)) == (0, [], 18)
  assert all('--config.seed=0 --config.x=1' in line for line in lines[:6])
  start = 'python -m scripts.train --config=experiments/resnet20_three_ways.py:'
  assert lines[0].startswith(f'{start}batch@cpu --workdir=')


def test_one_rows_failure_is_told_and_does_not_stop_the_others(command):
  done, called = command('run', *THREE_WAYS, '--only=nf,batch', '--seeds=0,1')
  assert called == [
    f'{row}@cpu_seed{seed}' for seed in (0, 1) for row in ('nf', 'batch')
  ]
  assert done.code == 1
  failed = 'failed with exit code 2: python -m scripts.train'
  assert done.stdout.count(failed) == 4


def test_an_interrupt_ends_the_runs(command):
  outcomes = {'nf@cpu_seed0': 75}
  done, called = command(
    'run', *THREE_WAYS, '--only=nf,batch', outcomes=outcomes
  )
  assert (done.code, called) == (75, ['nf@cpu_seed0'])


@pytest.mark.parametrize(
  ('code', 'told'),
  [
    (2, 'interrupted'),
    (-2, 'interrupted'),
    (0, 'finished, interrupted'),
    (1, 'the run is not over, interrupted'),
  ],
)
def test_ctrl_c_ends_the_runs_however_far_the_row_is(command, code, told):
  done, called = command(
    'run', *THREE_WAYS, '--only=nf,batch', outcomes={'nf@cpu_seed0': (code,)}
  )
  assert (done.code, called) == (75, ['nf@cpu_seed0'])
  assert 'nf@cpu_seed0: ' in done.stdout and f'{told}\n' in done.stdout


def test_sigterm_is_passed_on_to_the_training_which_may_save():
  child = """if True:
  import os, signal, time
  signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
  os.kill(os.getppid(), signal.SIGTERM)
  time.sleep(60)
  """
  assert experiment.call(['-c', child]) == (75, True)


def test_a_crash_is_a_failure_though_its_exit_code_is_that_of_divergence(
  command,
):
  only = ('--only=nf', '--seeds=0')
  done, _ = command('run', *THREE_WAYS, *only, outcomes={'nf@cpu_seed0': 1})
  assert done.code == 1 and 'nf@cpu_seed0: failed: ' in done.stdout


def test_a_row_is_recorded_skipped_the_next_time_and_redone_if_asked(
  command, tmp_path
):
  row = (*THREE_WAYS, '--only=nf', '--seeds=0')
  outcomes = {'nf@cpu_seed0': 0}
  done, _ = command('run', *row, outcomes=outcomes)
  assert done.code == 0 and 'nf@cpu_seed0: finished' in done.stdout
  (one,) = records.read_all(tmp_path / 'results', 'resnet20_three_ways')
  assert (one['row'], one['scale'], one['updates']) == ('nf', 'cpu', 1000)
  done, called = command('run', *row)
  assert called == [] and 'already recorded (--again' in done.stdout
  done, called = command('run', *row, '--again', outcomes=outcomes)
  assert called == ['nf@cpu_seed0'] and 'nf@cpu_seed0: finished' in done.stdout


def trained(root, row, **changes):
  """Writes the record of a run of resnet20_three_ways at scale cpu."""
  config = resnet20_three_ways.get_config(f'{row}@cpu')
  config = config.copy_and_resolve_references().to_dict() | changes
  del config['probe']  # as in a record from before that key
  one = record(row, 0.5, scale='cpu') | {'config': config}
  records.write(root / 'results', one | {'experiment': 'resnet20_three_ways'})


TWIN = ('--experiment=clipping_threshold', '--scale=cpu', '--only=lr1_t1')


def test_an_equal_run_of_another_experiment_is_taken_over(command, tmp_path):
  trained(tmp_path, 'nf_norm')
  done, called = command('run', *TWIN)
  assert (done.code, called) == (0, [])
  assert 'lr1_t1@cpu_seed0: the same as resnet20_three_ways/' in done.stdout
  (made,) = records.read_all(tmp_path / 'results', 'clipping_threshold')
  assert made['same_as'] == 'resnet20_three_ways/nf_norm@cpu_seed0'
  assert made['row'] == 'lr1_t1' and made['curve']


def test_other_configs_flags_or_a_run_begun_here_have_no_twin(
  command, tmp_path
):
  trained(tmp_path, 'nf_norm', batch_size=7)
  trained(tmp_path, 'nf', weights='a.npz')
  assert command('run', *TWIN)[1] == ['lr1_t1@cpu_seed0']
  trained(tmp_path, 'nf_norm')
  assert command('run', *TWIN, '--', '--config.x=1')[1] == ['lr1_t1@cpu_seed0']
  (tmp_path / 'runs/clipping_threshold/lr1_t1@cpu_seed0').mkdir(parents=True)
  assert command('run', *TWIN)[1] == ['lr1_t1@cpu_seed0']
  shutil.rmtree(tmp_path / 'runs')
  assert command('run', *TWIN)[1] == []
  assert command('run', *TWIN, '--again')[1] == ['lr1_t1@cpu_seed0']


@pytest.mark.parametrize(
  'change', [{'model.normalizer': 'batch'}, {'weights': 'a.npz'}]
)
def test_a_run_that_depends_on_more_than_its_config_has_no_twin(
  tmp_path, change
):
  trained(tmp_path, 'nf_norm')
  config = clipping_threshold.get_config('lr1_t1@cpu')
  run = records.Run('clipping_threshold', 'lr1_t1', 'cpu')
  assert records.twin(tmp_path / 'results', config, run)
  config.update_from_flattened_dict(change)
  assert records.twin(tmp_path / 'results', config, run) is None


def test_a_measured_row_is_recorded_once(command, tmp_path):
  row = ('--experiment=table_family', '--only=f0')
  done, _ = command('measure', *row)
  assert done.code == 0 and 'f0_seed0: measured' in done.stdout
  (one,) = records.read_all(tmp_path / 'results', 'table_family')
  assert one['measured']['params'] == pytest.approx(71.49e6, abs=5e3)
  assert one['command'].endswith('=table_family --scale=full --only=f0')
  assert one['seconds'] >= 0 and one['hardware']['device_count']
  assert 'f0_seed0: already recorded' in command('measure', *row)[0].stdout


@pytest.mark.parametrize(
  ('arguments', 'told'),
  [
    (('sweep',), "choose one of print, run, measure, report, not 'sweep'"),
    (('run', '--experiment=x'), '--experiment=x: choose one of agc_grid, '),
    (('run', '--experiment=table_family'), 'trains nothing: use measure'),
    (('measure', *THREE_WAYS), 'is trained: use run'),
    (('measure', '--experiment=table_family', '--data_dir=x'), 'no data'),
    (('measure', '--experiment=table_family', '--seeds=1'), 'each row once'),
    (('report', '--results=nowhere'), '--results=nowhere: no records here'),
    (('run', *THREE_WAYS, '--seeds=a'), '--seeds=a: give whole numbers'),
    (('run', *THREE_WAYS, '--seeds=-1'), '--seeds=-1: give whole numbers'),
    (('report', *THREE_WAYS), 'ones are in --results=results'),
    (('run', '--experiment=batchnorm_batch_size', '--scale=cpu',
      '--only=b1024_of32'), 'b1024_of32 is at full, short'),
  ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_a_line(command, arguments, told):
  done, called = command(*arguments)
  assert (done.code, called, done.stdout) == (2, [], '')
  assert told in done.stderr and done.stderr.count('\n') == 1


def test_a_pilot_that_goes_on_tries_what_it_would_have_tried(
  run_script, tmp_path
):
  def left():
    places = ('--list', f'--results={tmp_path}')
    lines = run_script('scripts.study', *places).stdout.splitlines()
    return [x.split('/')[1] for x in lines if 'pilot/none_x' in x]

  top_1 = {0.5: 0.2, 0.25: 0.3, 0.125: 0.4, 0.0625: 0.45}
  for factor, value in top_1.items():
    one = record(f'none_x{factor:g}', value) | {'experiment': 'pilot'}
    records.write(tmp_path, one)
  assert left() == ['none_x0.03125_seed0']
  records.write(tmp_path, one | {'row': 'none_x0.03125'})
  assert left() == ['none_x0.015625_seed0']


def test_the_study_begins_with_the_pilot_and_ends_with_he_s(
  run_script, tmp_path
):
  places = ('--list', f'--results={tmp_path}')
  lines = run_script('scripts.study', *places).stdout.splitlines()
  assert lines[0].endswith('hours: pilot/batch_x1_seed0')
  assert lines[-1].endswith('hours: he_resnet20/batch_seed0')
