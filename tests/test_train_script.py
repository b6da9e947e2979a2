"""scripts/train.py as its user meets it: one clear line, a clear exit code."""

import json
import pathlib
import re

import pytest

from nfnets import train

RECIPE = '--config=configs/quickstart.py'
EXIT_CODES = {'finished': 0, 'diverged': 1, 'interrupted': 75}
OFF = '--compilation_cache=off'  # it would stay for other tests


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.model.normalizer=group'], "normalizer='group'"),
    (['--config.batch_size=0'], 'config.batch_size=0: must be in [1,'),
    (['--config.data.name=cifar10', '--config.data.data_dir=/nowhere'],
     'cifar10'),
    (['--profile_steps=15:10'], 'first step and the one after the last'),
    (['--profile_steps=10:99999'], 'profile_steps=10:99999: the run has'),
    (['--profile_steps=1:2', '--config.probe=True'], 'a linear probe takes no'),
    (['--coordinator_address=a:1'], 'missing: num_processes, process_id'),
  ],
)  # fmt: skip
def test_a_mistake_is_refused_in_one_line_before_compilation(
  arguments, message, tmp_path, run_script, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', '')
  workdir = tmp_path / 'run'
  code, out, said = run_script(
    'scripts.train', RECIPE, f'--workdir={workdir}', OFF, *arguments
  )
  assert code == 2 and not out and not workdir.exists()
  assert said.startswith('error: ') and said.count('\n') == 1
  assert message in said


PAGE = (pathlib.Path(__file__).parents[1] / 'ARCHITECTURE.md').read_text()
SENTENCE = re.search(r'Exit codes:(.*?)\.', PAGE, re.S)[1]
CODES = re.findall(r'(\d+) (\w+)', SENTENCE)


def test_the_documentation_has_every_exit_code():
  ends = {str(code): what for what, code in EXIT_CODES.items()}
  assert dict(CODES) == ends | {'2': 'refused'}


@pytest.mark.parametrize('code, what', CODES)
def test_a_runs_end_is_its_exit_code(
  code, what, tmp_path, run_script, monkeypatch
):
  def end(*args, **kwargs):
    if what == 'refused':
      raise ValueError('why')
    return {'status': what}

  def leave(code):  # as common does, less the end of this process
    raise SystemExit(code)

  monkeypatch.setattr(train, 'train_and_evaluate', end)
  monkeypatch.setattr('scripts.common.leave', leave)
  done = run_script('scripts.train', RECIPE, f'--workdir={tmp_path}', OFF)
  assert done.code == int(code)
  assert done.stderr == ('error: why\n' if what == 'refused' else '')


def test_print_config_prints_the_resolved_config_as_json(run_script):
  done = run_script(
    'scripts.train', '--config=configs/nfnet_f0.py', '--print_config',
    '--config.batch_size=1024', '--config.model.name=nfnet_f3',
  )  # fmt: skip
  config = json.loads(done.stdout)
  assert done.code == 0 and config['learning_rate'] == 0.4
  assert config['data']['train_image_size'] == 320
  assert config['augment']['randaugment_magnitude'] == 15


def test_print_config_prints_nothing_else_to_stdout(run_script):
  done = run_script(
    'scripts.train', '--config=configs/quickstart.py', '--print_config',
    '--config.data.num_train=0',
  )  # fmt: skip
  assert done.code == 0
  assert json.loads(done.stdout)['data']['num_train'] == 1438


def test_a_workdir_that_cannot_be_created_is_named(run_script):
  code, _, said = run_script(
    'scripts.train', RECIPE, '--workdir=/proc/run', OFF
  )
  assert code == 2 and '/proc/run: ' in said and said.count('\n') == 1


@pytest.mark.slow
def test_a_run_caches_its_programs_traces_steps_and_logs_its_speed(
  tmp_path, run_script
):
  done = run_script(
    'scripts.train',
    RECIPE,
    f'--workdir={tmp_path / "run"}',
    f'--compilation_cache={tmp_path / "cache"}',
    '--profile_steps=2:4',
    '--config.num_steps=6',
    '--config.schedule.warmup_steps=1',
    '--config.log_every=2',
    '--config.eval_every=6',
    process=True,
    env={'XLA_FLAGS': '--xla_force_host_platform_device_count=4'},
  )
  assert done.code == 0, done.stderr
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
