"""Sweeps: order, failures, progress."""

import json
import pathlib

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import resnet20_three_ways
from nfnets import records
from scripts import sweep


@pytest.fixture
def sweeping(monkeypatch, tmp_path):
  """Calls a sweep whose trainings are played by `outcomes`, name to code."""

  def run(outcomes, *arguments):
    called = []

    def call(command):
      name = next(
        pathlib.Path(a.partition('=')[2]).name
        for a in command
        if a.startswith('--workdir')
      )
      called.append(name)
      return outcomes.get(name, 2)

    monkeypatch.setattr(sweep, 'call', call)
    parsed = flags.FLAGS(
      ['sweep', f'--results={tmp_path}', f'--workdir={tmp_path}', *arguments]
    )
    return sweep.main(parsed), called

  with flagsaver.flagsaver():
    yield run


THREE_WAYS = ('--experiment=resnet20_three_ways', '--scale=cpu')


def test_one_rows_failure_is_told_and_does_not_stop_the_others(
  sweeping, capsys
):
  code, called = sweeping({}, *THREE_WAYS, '--only=nf,batch', '--seeds=0,1')
  assert called == [
    f'{row}@cpu_seed{seed}' for seed in (0, 1) for row in ('nf', 'batch')
  ]
  said = capsys.readouterr().out
  assert code == 1
  assert said.count('failed with exit code 2: python -m scripts.train') == 4
  assert '[------------------------] 0/4 nf@cpu_seed0\n' in said
  assert '[##################------] 3/4 batch@cpu_seed1, at most' in said
  assert '[########################] 4/4 over\n' in said


def test_all_arms_of_the_first_seed_come_first(sweeping, capsys):
  code, called = sweeping({}, *THREE_WAYS, '--print')
  lines = capsys.readouterr().out.splitlines()
  assert (code, called, len(lines)) == (0, [], 18)
  assert all('--config.seed=0' in line for line in lines[:6])
  assert all('@cpu_seed' in line for line in lines)


def test_an_interrupt_ends_the_sweep(sweeping):
  outcomes = {'nf@cpu_seed0': 75}
  code, called = sweeping(outcomes, *THREE_WAYS, '--only=nf,batch')
  assert code == 75 and called == ['nf@cpu_seed0']


def test_a_crash_is_a_failure_though_its_exit_code_is_that_of_divergence(
  sweeping, capsys
):
  outcomes = {'nf@cpu_seed0': 1}  # Python's, for an exception
  code, _ = sweeping(outcomes, *THREE_WAYS, '--only=nf', '--seeds=0')
  assert code == 1 and 'nf@cpu_seed0: failed: ' in capsys.readouterr().out


def test_an_unknown_scale_and_an_untrained_experiment_are_refused(
  sweeping, capsys
):
  assert sweeping({}, THREE_WAYS[0], '--scale=tpu')[0] == 2
  said = capsys.readouterr().err
  assert '--scale=tpu: choose one of full, short, cpu' in said
  assert sweeping({}, '--experiment=signal_propagation')[0] == 2
  assert 'trains nothing' in capsys.readouterr().err


def test_rows_that_the_scale_lacks_are_refused_before_anything_runs(
  sweeping, capsys
):
  scaled = ('--experiment=table_ablation', '--scale=cifar')
  for more in ([], ['--print']):
    only = '--only=f1_baseline,f0_baseline,nothing'
    code, called = sweeping({}, *scaled, only, *more)
    said = capsys.readouterr()
    assert (code, called, said.out) == (2, [], '')
    start = '--only=f1_baseline,nothing: rows at scale cifar are f0_baseline, '
    assert start in said.err
    assert said.err.endswith('f0_batchnorm; f1_baseline is at full\n')
    assert said.err.count('\n') == 1
  # That network takes the row, yet the scale's report has no place for it.
  lacking = ('--experiment=batchnorm_batch_size', '--scale=cpu',
             '--only=b1024_of32')  # fmt: skip
  assert sweeping({}, *lacking)[0] == 2
  assert 'b1024_of32 is at full, short\n' in capsys.readouterr().err


def record_of(config, experiment, row):
  """As if that row had been trained to its end."""
  point = {'step': 1015, 'eval/top_1': 0.5, 'agc/clipped_fraction': 0.1}
  return {
    'experiment': experiment, 'row': row, 'scale': 'cpu', 'seed': config.seed,
    'command': 'python -m scripts.train', 'status': 'finished', 'updates': 1015,
    'config': json.loads(json.dumps(records.without_paths(config.to_dict()))),
    'summary': {'eval/top_1': 0.5}, 'curve': [point],
  }  # fmt: skip


def trained(root, row, seed=0):
  config = resnet20_three_ways.get_config(f'{row}@cpu')
  config.seed = seed
  config = config.copy_and_resolve_references()
  records.write(root, record_of(config, 'resnet20_three_ways', row))


def test_an_equal_run_of_another_experiment_is_taken_over(
  sweeping, tmp_path, capsys
):
  trained(tmp_path, 'nf_norm')
  only = ('--experiment=clipping_threshold', '--scale=cpu', '--only=lr1_t1')
  code, called = sweeping({}, *only)
  assert (code, called) == (0, [])
  assert 'lr1_t1@cpu_seed0: was made by another' in capsys.readouterr().out
  (made,) = records.read_all(tmp_path, 'clipping_threshold')
  assert made['same_as'] == 'resnet20_three_ways/nf_norm@cpu_seed0'
  assert made['row'] == 'lr1_t1' and made['curve'][0]['agc/clipped_fraction']


@pytest.mark.parametrize(
  'row, seed, flags_of_train',
  [('nf', 0, []), ('nf_norm', 1, []), ('nf_norm', 0, ['--', '--config.x=1'])],
)
def test_other_configs_seeds_or_flags_are_other_runs(
  sweeping, tmp_path, row, seed, flags_of_train
):
  trained(tmp_path, row, seed)
  only = ('--experiment=clipping_threshold', '--scale=cpu', '--only=lr1_t1')
  _, called = sweeping({}, *only, *flags_of_train)
  assert called == ['lr1_t1@cpu_seed0']


def test_a_threshold_that_nothing_is_clipped_with_makes_no_difference(
  sweeping, tmp_path
):
  trained(tmp_path, 'nf')
  only = ('--experiment=where_to_clip', '--scale=cpu', '--seeds=0')
  only += ('--only=nothing',)
  _, called = sweeping({}, *only)
  (made,) = records.read_all(tmp_path, 'where_to_clip')
  assert not called and made['config']['optimizer']['clipping'] == 0.16
  # It was observed with the other threshold.
  assert made['curve'] == [{'step': 1015, 'eval/top_1': 0.5}]


def test_a_run_that_was_begun_here_goes_on(sweeping, tmp_path):
  trained(tmp_path, 'nf_norm')
  (tmp_path / 'clipping_threshold' / 'lr1_t1@cpu_seed0').mkdir(parents=True)
  only = ('--experiment=clipping_threshold', '--scale=cpu', '--only=lr1_t1')
  _, called = sweeping({}, *only)
  assert called == ['lr1_t1@cpu_seed0']


def test_a_damaged_record_fails_the_row_and_not_the_sweep(
  sweeping, tmp_path, capsys
):
  path = records.path_of(tmp_path, 'sam_cifar', 'none', 0, 'cpu')
  path.parent.mkdir(parents=True)
  path.write_text('{')
  only = ('--experiment=where_to_clip', '--scale=cpu', '--seeds=0')
  only += ('--only=nothing,all',)
  code, called = sweeping({}, *only)
  assert (code, called) == (1, [])
  assert capsys.readouterr().out.count('failed: a record is damaged') == 2


def test_a_batch_normalized_run_depends_on_the_devices(sweeping, tmp_path):
  trained(tmp_path, 'batch')
  only = ('--experiment=learning_rate', '--scale=cpu', '--only=batch_b128_x1')
  _, called = sweeping({}, *only)
  assert called == ['batch_b128_x1@cpu_seed0']


def test_a_record_from_before_a_key_is_equal_where_the_key_changes_nothing(
  sweeping, tmp_path
):
  trained(tmp_path, 'nf')
  (path,) = tmp_path.glob('*/runs/*.json')
  record = json.loads(path.read_text())
  assert record['config'].pop('steps_per_dispatch') == 1
  assert record['config']['optimizer'].pop('frozen') == []
  path.write_text(json.dumps(record))
  only = ('--experiment=where_to_clip', '--scale=cpu', '--seeds=0')
  only += ('--only=nothing',)
  _, called = sweeping({}, *only)
  assert not called
