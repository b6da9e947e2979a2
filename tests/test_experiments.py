"""Experiments: rows, records, reports."""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from nfnets import factory, loggers, records, workdir

ROOT = pathlib.Path(__file__).parents[1]
NAMES = sorted(p.stem for p in (ROOT / 'experiments').glob('[!_]*.py'))
TRAINED = [
  name
  for name in NAMES
  if hasattr(importlib.import_module(f'experiments.{name}'), 'SEEDS')
]
ROWS = [
  (name, row)
  for name in TRAINED
  for row in importlib.import_module(f'experiments.{name}').RUNS
]


@pytest.mark.parametrize(('name', 'row'), ROWS)
def test_every_row_resolves_to_a_config_that_can_be_trained(name, row):
  config = importlib.import_module(f'experiments.{name}').get_config(row)
  assert config.is_locked
  factory.check(config.copy_and_resolve_references(), 1, 1)
  factory.network_of(config)


def finished_run(path):
  folder = workdir.RunFolder(path)
  data = {'data_dir': '/home/me/data', 'name': 'digits', 'num_train': 100}
  folder.write_config({'seed': 3, 'batch_size': 10, 'data': data})
  folder.write_summary({'status': 'finished', 'step': 20, 'eval/top_1': 0.5})
  log = loggers.JsonLines(path / 'metrics.jsonl', 0)
  for step, loss in ((10, 2.0), (20, 1.0)):
    log.log(step, {'train/loss': loss, 'train/step_seconds': 0.1})
    log.log(step, {'eval/top_1': step / 40, 'eval/loss': loss})
  log.close()
  return folder


def test_a_record_holds_config_hardware_updates_and_the_curve(tmp_path):
  command = ['python', '--config.data.data_dir=/home/me/data', '--seed=1']
  record = records.make(finished_run(tmp_path / 'run'), 'x', 'row', command)
  path = records.write(tmp_path, record)
  assert path == tmp_path / 'x' / 'runs' / 'row_seed3.json'
  (read,) = records.read_all(tmp_path, 'x')
  assert read['updates'] == 20 and read['config']['data']['data_dir'] == ''
  assert read['versions']['jax'] and read['hardware']['device_count'] == 4
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
    {'step': 9, 'train/loss': float('inf')},
  ]
  assert records.by_epoch(rows, config) == [
    {'epoch': 1, 'step': 3, 'train/loss': 4.0, 'train/top_1': 0.1},
    {'epoch': 2, 'step': 6, 'train/loss': 3.0, 'train/grad_norm': 2.0},
    {'epoch': 3, 'step': 9},
  ]


def test_a_run_that_is_not_over_has_no_record(tmp_path):
  folder = finished_run(tmp_path)
  folder.write_summary({'status': 'interrupted', 'step': 10})
  with pytest.raises(ValueError, match='the run is not over'):
    records.make(folder, 'x', 'row', [])


def test_no_committed_record_names_a_place_of_a_machine():
  for path in (ROOT / 'results').glob('*/runs/*.json'):
    command = json.loads(path.read_text())['command']
    assert not re.search(r'(=|\s)["\']?/', command), path.name


def call(*arguments):
  environment = os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  return subprocess.run(
    [sys.executable, '-m', *arguments],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )


def test_a_sweep_prints_its_commands_and_refuses_what_is_unknown():
  said = call('scripts.sweep', '--experiment=cifar10_first_runs', '--print')
  assert said.stdout.count('python -m scripts.train --config=experiments/') == 2
  said = call('scripts.sweep', '--experiment=cifar10')
  assert said.returncode == 2 and 'choose one of agc_sweep, ' in said.stderr
  said = call('scripts.sweep', '--experiment=cifar10_first_runs', '--only=bach')
  assert (
    said.returncode == 2
    and '--only=bach: rows at scale full are batch' in said.stderr
  )


@pytest.mark.slow
def test_a_sweep_records_what_finished_and_skips_it_the_next_time(tmp_path):
  command = (
    'scripts.sweep',
    '--experiment=cifar10_first_runs',
    f'--workdir={tmp_path / "runs"}',
    f'--results={tmp_path / "results"}',
    '--only=nf_agc',
    '--',
    '--config.data.name=digits',
    '--config.data.num_train=1438',
    '--config.data.train_image_size=8',
    '--config.data.eval_image_size=8',
    '--config.num_steps=3',
    '--config.schedule.warmup_steps=1',
  )
  said = call(*command)
  assert said.returncode == 0, said.stderr
  assert said.stdout.endswith('nf_agc_seed0: finished\n')
  record = json.loads(
    (tmp_path / 'results/cifar10_first_runs/runs/nf_agc_seed0.json').read_text()
  )
  assert ConfigDict(record['config']).optimizer.clip == 'agc'
  assert call(*command).stdout.endswith('nf_agc_seed0: was there\n')
  said = call('scripts.report', f'--results={tmp_path / "results"}')
  assert said.returncode == 0, said.stderr
  page = tmp_path / 'results/cifar10_first_runs/README.md'
  assert '| nf_agc |' in page.read_text()
  assert (page.parent / 'curves.png').exists()
