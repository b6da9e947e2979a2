"""Records: what they hold."""

import pytest

from experiments import records
from nfnets import loggers
from nfnets.workdir import RunFolder


def finished_run(path):
  folder = RunFolder(path)
  data = {'data_dir': '/home/me/data', 'name': 'digits', 'num_train': 100}
  folder.write_config({'seed': 3, 'batch_size': 10, 'data': data})
  folder.write_summary({'status': 'finished', 'step': 20, 'eval/top_1': 0.5})
  log = loggers.JsonLines(folder.path / 'metrics.jsonl')
  for step, loss in ((10, 2.0), (20, 1.0)):
    log.log(step, {'train/loss': loss, 'train/step_seconds': 0.1})
    log.log(step, {'eval/top_1': step / 40, 'eval/loss': loss})
  log.close()
  return folder


def test_a_record_holds_config_hardware_commit_and_the_curve(tmp_path):
  command = ['python', '--config.data.data_dir=/home/me/data', '--seed=1']
  run = records.Run('x', 'row', seed=3)
  record = records.of_run(run, command, finished_run(tmp_path / 'run'))
  path = records.write(tmp_path, record)
  assert path == tmp_path / 'x/runs/row_seed3.json' == run.path(tmp_path)
  (read,) = records.read_all(tmp_path, 'x')
  assert read['updates'] == 20 and read['config']['data']['data_dir'] == ''
  assert read['versions']['jax'] and read['hardware']['device_count'] == 4
  assert len(read['commit']) in (0, 40) and read['scale'] == 'full'
  assert [(p['step'], p['train/loss'], p['eval/top_1']) for p in
          read['curve']] == [(10, 2.0, 0.25), (20, 1.0, 0.5)]  # fmt: skip
  assert read['command'] == 'python --config.data.data_dir=DATA --seed=1'
  assert '/home' not in path.read_text()
  assert read['epochs'] == [
    {'epoch': 1, 'step': 10, 'train/loss': 2.0},
    {'epoch': 2, 'step': 20, 'train/loss': 1.0},
  ]


def test_an_epochs_metrics_are_means_of_what_is_finite():
  config = {'data': {'num_train': 100}, 'batch_size': 30}  # 3.3 updates
  rows = [
    {'step': 3, 'train/loss': 4.0, 'train/top_1': 0.1},
    {'step': 4, 'train/loss': 3.0},
    {'step': 5, 'eval/top_1': 0.5},
    {'step': 6, 'train/loss': float('nan'), 'train/grad_norm': 2.0},
    {'step': 9, 'train/loss': 'inf'},
  ]
  assert records.by_epoch(rows, config) == [
    {'epoch': 1, 'step': 3, 'train/loss': 4.0, 'train/top_1': 0.1},
    {'epoch': 2, 'step': 6, 'train/loss': 3.0, 'train/grad_norm': 2.0},
    {'epoch': 3, 'step': 9},
  ]


def test_a_command_names_no_place_of_this_machine():
  words = ['--data_dir=d', '--workdir=/a', '/b', '~/c', '--x=file:///d', 'x']
  told = '--data_dir=DATA --workdir=PATH PATH PATH --x=PATH x'
  assert records.portable(words) == told


@pytest.mark.parametrize('text', ['{', '[]'])
def test_a_damaged_record_is_named(tmp_path, text):
  path = records.Run('x', 'row').path(tmp_path)
  path.parent.mkdir(parents=True)
  path.write_text(text)
  with pytest.raises(ValueError, match=f'{path} is damaged'):
    records.read_all(tmp_path, 'x')
