"""What is started where: the words that arrive are the words that were given.

Stand-ins for gcloud, ssh, srun and sbatch run here what they would run there.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = [
  '--config=configs/nfnet_f0.py',
  '--workdir=/shared/my runs/f0',
  "--config.data.name=it's",
]
PROGRAMS = {
  'gcloud': 'for last; do :; done; exec bash -c "${last#--command=}"',
  'ssh': 'shift 2; exec bash -c "$1"',
  'srun': 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
  'sbatch': 'exec bash',
  'scontrol': 'echo "requeued: $*"',
  'shown': 'pwd; exec {python} -c "import json, sys; '
  'print(json.dumps(sys.argv[1:]))" "$@"',
  'saved': 'exit 75',
  'killed': 'kill -KILL $$',
  'waiting': 'trap "echo saved; exit 75" TERM; echo up; '
  'while :; do sleep 0.1; done',
}


@pytest.fixture(scope='module')
def programs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('bin')
  for name, text in PROGRAMS.items():
    text = text.replace('{python}', sys.executable)
    (folder / name).write_text(f'#!/bin/bash\n{text}\n')
    (folder / name).chmod(0o755)
  return folder


def command(programs, python, *arguments):
  return [
    sys.executable,
    '-m',
    'scripts.launch',
    f'--python={programs / python}',
    *arguments,
    '--',
    *FLAGS,
  ]


def launch(programs, python, *arguments):
  return subprocess.run(
    command(programs, python, *arguments),
    cwd=ROOT,
    env=os.environ
    | {'PATH': f'{programs}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'},
    capture_output=True,
    text=True,
    check=False,
  )


def arrived(line):
  """The words that a process got, without the launcher's mark."""
  return json.loads(line[line.index('["-m"') :])


@pytest.mark.parametrize(
  'where',
  [('--on=tpu_pod', '--tpu=pod', '--zone=z', '--project=p'), ('--on=slurm',)],
)
def test_a_pod_and_slurm_get_the_very_words_in_the_checkout(programs, where):
  done = launch(programs, 'shown', '--directory=/tmp', *where)
  assert done.returncode == 0, done.stderr
  folder, words = done.stdout.splitlines()
  assert folder == '/tmp'
  assert arrived(words) == ['-m', 'scripts.train', *FLAGS]


def test_hosts_get_their_places_too_and_their_lines_are_marked(programs):
  done = launch(
    programs, 'shown', '--on=hosts', '--hosts=me@gpu0,gpu1', '--port=99'
  )
  assert done.returncode == 0, done.stderr
  lines = [line for line in done.stdout.splitlines() if '"-m"' in line]
  for index, host in enumerate(['me@gpu0', 'gpu1']):
    (line,) = (x for x in lines if x.startswith(f'[{index} {host}] '))
    assert arrived(line) == [
      '-m',
      'scripts.train',
      *FLAGS,
      '--coordinator_address=gpu0:99',
      '--num_processes=2',
      f'--process_id={index}',
    ]


def test_a_local_address_is_not_given_to_other_machines(programs):
  done = launch(programs, 'shown', '--on=hosts', '--hosts=localhost,gpu1')
  assert done.returncode == 2 and done.stderr.count('\n') == 1
  assert "not 'localhost'" in done.stderr


def test_a_process_that_a_signal_killed_gives_a_shells_code(programs):
  done = launch(programs, 'killed', '--on=hosts', '--hosts=localhost')
  assert done.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize(
  'where', [('--on=slurm',), ('--on=hosts', '--hosts=localhost')]
)
@pytest.mark.parametrize('wrong', ['--python=/none', '--directory=/none'])
def test_what_could_not_be_started_is_refused(programs, where, wrong):
  done = launch(programs, 'shown', wrong, *where)
  assert done.returncode == 2
  if wrong == '--python=/none':
    assert 'not started (code 127)' in done.stderr


def test_home_is_the_machines_and_an_option_may_hold_commas(run_script):
  code, said, _ = run_script(
    'scripts.launch', '--on=slurm', '--dry_run', '--python=~/v/bin/python',
    '--sbatch=mail-type=BEGIN,END', '--', *FLAGS,
  )  # fmt: skip
  assert code == 0 and '; exec ~/v/bin/python -m scripts.train ' in said
  assert '#SBATCH --mail-type=BEGIN,END\n' in said


def test_a_saved_slurm_job_is_queued_again_and_the_code_passes(programs):
  done = launch(programs, 'saved', '--on=slurm')
  assert 'requeued: requeue 7' in done.stdout and done.returncode == 75
  done = launch(programs, 'saved', '--on=hosts', '--hosts=localhost,localhost')
  assert done.returncode == 75


def test_a_signal_to_the_launcher_lets_every_process_save(programs):
  running = subprocess.Popen(
    command(programs, 'waiting', '--on=hosts', '--hosts=localhost,127.0.0.1'),
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  for _ in range(2):
    assert running.stdout.readline().endswith('up\n')
  running.send_signal(signal.SIGTERM)
  said = running.communicate()[0]
  assert said.count('saved') == 2 and running.returncode == 75


@pytest.mark.parametrize(
  'directory', ['~/it; touch PWN', "~/my nfnets'", '/tmp/$(touch PWN)']
)
def test_no_directory_is_a_command(programs, tmp_path, directory):
  folder = tmp_path / directory.removeprefix('~/').replace('/', '_')
  if directory.startswith('~'):
    folder.mkdir()
  done = subprocess.run(
    command(programs, 'shown', '--on=tpu_pod', '--tpu=p', '--zone=z',
            f'--directory={directory}'),
    cwd=ROOT, capture_output=True, text=True, check=False,
    env=os.environ
    | {'PATH': f'{programs}:{os.environ["PATH"]}', 'HOME': str(tmp_path)},
  )  # fmt: skip
  if directory.startswith('~'):
    assert done.stdout.splitlines()[0] == str(folder), done.stderr
  assert not list(tmp_path.rglob('PWN')) and not (ROOT / 'PWN').exists()


def test_a_host_that_is_gone_does_not_keep_others_from_being_asked(
  programs, tmp_path
):
  (tmp_path / 'ssh').write_text('#!/bin/bash\nexec 0<&-\necho up\nsleep 2\n')
  (tmp_path / 'ssh').chmod(0o755)
  process = subprocess.Popen(
    command(programs, 'waiting', '--on=hosts', '--hosts=far,localhost'),
    cwd=ROOT,
    env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'},
    stdout=subprocess.PIPE,
    text=True,
  )
  for _ in range(2):
    assert process.stdout.readline().endswith('up\n')
  process.send_signal(signal.SIGINT)
  said = process.communicate()[0]
  assert '[1 localhost] saved' in said and process.returncode == 75
  assert 'far could not be told to stop' in said


@pytest.mark.parametrize(
  ('where', 'begins'),
  [
    (('--on=tpu_pod', '--tpu=pod', '--zone=z'), 'gcloud compute tpus tpu-vm '),
    (('--on=slurm', '--nodes=3', '--sbatch=account=me'), 'sbatch <<< '),
    (('--on=hosts', '--hosts=gpu0'), 'ssh -tt gpu0 '),
  ],
)
def test_a_dry_run_prints_what_a_shell_would_run_and_starts_nothing(
  programs, where, begins
):
  printed = launch(programs, 'shown', '--dry_run', *where)
  assert printed.stdout.startswith(begins) and '["-m"' not in printed.stdout
  done = subprocess.run(
    ['bash', '-c', printed.stdout],
    env={'PATH': f'{programs}:{os.environ["PATH"]}'},
    capture_output=True,
    text=True,
    check=True,
  )
  assert arrived(done.stdout)[: 2 + len(FLAGS)] == [
    '-m',
    'scripts.train',
    *FLAGS,
  ]
