"""scripts/train.py as its user meets it: one clear line, a clear exit code."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import tiny

from nfnets.weights import files

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments):
  environment = os.environ | {
    'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
    'TFDS_DATA_DIR': '',
  }
  return subprocess.run(
    [sys.executable, '-m', 'scripts.train', *arguments],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.batch_sise=8'], 'Did you mean "batch_size"'),
    (['--config.batch_size=many'], 'batch_size=many'),
    (['--config.data.num_threds=1'], 'Did you mean "num_threads"'),
    (['--config.optimizer.momentum=2'], 'must be in [0, 1)'),
    (['--config.model.normalizer=group'], 'use one of batch, none, nf'),
    (['--config.batch_size=0'], 'config.batch_size=0: must be above 0'),
    (['--config.batch_size=30'], 'take 28 or 32'),
    (['--config.data.name=cifar10', '--config.data.data_dir=/nowhere'],
     'cifar10'),
    (['--profile_steps=15:10'], 'first step and the one after the last'),
    (['--coordinator_address=a:1'], 'missing: num_processes, process_id'),
    (['--distributed'], 'no TPU pod, SLURM or Open MPI found'),
    (['stray'], "unexpected argument 'stray'"),
  ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_before_any_compilation(
  arguments, message, tmp_path
):
  workdir = tmp_path / 'run'
  done = run(
    '--config=configs/quickstart.py', f'--workdir={workdir}', *arguments
  )
  assert done.returncode == 2, done.stderr
  assert message in done.stderr
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
  assert not done.stdout and not workdir.exists()


def test_a_missing_recipe_and_a_missing_workdir_are_named():
  assert 'name a recipe' in run().stderr
  assert "name the run's folder" in run('--config=configs/nfnet_f0.py').stderr
  missing = run('--config=configs/nfnet_f9.py')
  assert 'nfnet_f9.py' in missing.stderr and missing.returncode == 2


def test_print_config_prints_the_resolved_config_as_json_and_stops():
  done = run(
    '--config=configs/nfnet_f0.py',
    '--print_config',
    '--config.batch_size=1024',
    '--config.model.name=nfnet_f3',
  )
  config = json.loads(done.stdout)
  assert done.returncode == 0 and config['learning_rate'] == 0.4
  assert config['data']['train_image_size'] == 320
  assert config['augment']['randaugment_magnitude'] == 15


def test_weights_that_do_not_fit_are_one_report_of_all_that_is_wrong(tmp_path):
  config = tiny.config()
  _, _, state = tiny.network_and_state(config)
  overrides = config.model.to_dict()
  name = overrides.pop('name')
  params = {
    module.replace('nf_block_2', 'nf_block_3'): leaves
    for module, leaves in state.params.items()
  }
  path = tmp_path / 'weights.npz'
  files.write(path, files.Weights(params, {}, name, 10, overrides))
  done = run(
    '--config=configs/finetune.py', f'--workdir={tmp_path / "run"}',
    f'--config.weights={path}', '--config.data.name=digits',
    '--config.data.train_image_size=8', '--config.data.eval_image_size=8',
  )  # fmt: skip
  assert done.returncode == 2
  title, *lines = done.stderr.splitlines()
  assert title.startswith(f'error: {path}: not the weights of this network')
  assert '0 of another shape' in title
  kinds = [line.split(':')[0].strip() for line in lines]
  assert set(kinds) == {'missing', 'unexpected'}
  assert all('nf_block_2' in line for line in lines if 'missing' in line)
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_a_workdir_that_cannot_be_made_is_named():
  done = run('--config=configs/quickstart.py', '--workdir=/proc/run')
  assert done.returncode == 2 and "'/proc/run'" in done.stderr
  assert done.stderr.count('\n') == 1


@pytest.mark.slow
def test_a_run_keeps_its_programs_traces_steps_and_says_its_speed(tmp_path):
  done = run(
    '--config=configs/quickstart.py',
    f'--workdir={tmp_path / "run"}',
    f'--compilation_cache={tmp_path / "cache"}',
    '--profile_steps=2:4',
    '--config.num_steps=6',
    '--config.schedule.warmup_steps=1',
    '--config.log_every=2',
    '--config.eval_every=6',
  )
  assert done.returncode == 0, done.stderr
  kept = list((tmp_path / 'cache').glob('*-cache'))
  assert len(kept) >= 2  # the first state's and the step's, at least
  traces = (tmp_path / 'run' / 'tensorboard').glob('plugins/profile/*/*.pb')
  assert [p.stat().st_size > 10**4 for p in traces] == [True]
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  rows = [row for row in rows if 'train/loss' in row]
  for row in rows:
    assert row['train/input_wait_seconds'] >= 0
    assert row['host/peak_memory_bytes'] > 2**27
    assert row['train/images_per_second_per_device'] * 4 == pytest.approx(
      row['train/images_per_second']
    )
    assert row['train/teraflops_per_device'] > 0
  assert rows[0]['train/compile_seconds'] > rows[-1]['train/compile_seconds']
