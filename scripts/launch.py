"""Starts scripts.train on many machines: a TPU pod, SLURM, or hosts by ssh.

  python -m scripts.launch --on=tpu_pod --tpu=NAME --zone=ZONE -- FLAGS
  python -m scripts.launch --on=slurm --nodes=4 --gpus_per_node=8 -- FLAGS
  python -m scripts.launch --on=hosts --hosts=ADDRESS,ADDRESS -- FLAGS

FLAGS are those of scripts.train; the workdir must be on a file system that all
machines share. Each machine has the checkout in --directory. --dry_run prints
what would run. Exit codes are those of scripts.train; 2 if refused here.

To stop: SIGTERM to any process lets all save and exit with 75; the same command
goes on. On hosts, Ctrl-C here does it; on a TPU pod, where it may not reach the
workers: gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all
--command='pkill -TERM -f "[s]cripts[.]train"'; under SLURM, scancel
--signal=TERM JOB, and the job queues itself again.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from typing import IO

from absl import flags

from scripts import common

INTERRUPTED = 75
NOT_STARTED = (126, 127, 255)  # bash's, and ssh's
LOCAL = ('localhost', '127.0.0.1')

ON = flags.DEFINE_enum('on', None, ['tpu_pod', 'slurm', 'hosts'], 'Where.')
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print it and stop.')
DIRECTORY = flags.DEFINE_string(
  'directory', None, 'The checkout, on each machine; default: as here.'
)
PYTHON = flags.DEFINE_string('python', '.venv/bin/python', 'In the checkout.')
TPU = flags.DEFINE_string('tpu', None, "tpu_pod: the pod's name.")
ZONE = flags.DEFINE_string('zone', None, "tpu_pod: the pod's zone.")
PROJECT = flags.DEFINE_string('project', None, 'tpu_pod: of Google Cloud.')
NODES = flags.DEFINE_integer('nodes', 1, 'slurm: how many.', lower_bound=1)
GPUS = flags.DEFINE_integer(
  'gpus_per_node', 8, 'slurm: one process each.', lower_bound=1
)
CPUS = flags.DEFINE_integer(
  'cpus_per_gpu', 8, 'slurm: to prepare images with.', lower_bound=1
)
HOURS = flags.DEFINE_integer('hours', 24, 'slurm: the limit.', lower_bound=1)
SBATCH = flags.DEFINE_multi_string(
  'sbatch', [], 'slurm: another option, as account=ME; may be repeated.'
)
HOSTS = flags.DEFINE_list(
  'hosts', [], "hosts: the first coordinates; 'localhost' needs no ssh."
)
PORT = flags.DEFINE_integer(
  'port', 9876, "hosts: the coordinator's.", lower_bound=1, upper_bound=65535
)


def main(train: list[str]) -> int:
  if not any(re.match('--workdir=.', flag) for flag in train):
    raise ValueError(
      'after --, give the flags of scripts.train and --workdir=DIR'
    )
  match ON.value:
    case 'tpu_pod' if TPU.value and ZONE.value:
      return run_one(tpu_command(train))
    case 'tpu_pod':
      raise ValueError('--on=tpu_pod needs --tpu=NAME and --zone=ZONE')
    case 'slurm':
      return run_one(['sbatch'], sbatch_script(train))
    case 'hosts' if HOSTS.value:
      for host in HOSTS.value:
        if not host or host[0] == '-' or re.search(r'\s', host):
          raise ValueError(
            f'--hosts={",".join(HOSTS.value)}: {host!r} is no address'
          )
      return run_all(host_commands(train))
    case 'hosts':
      raise ValueError('--on=hosts needs --hosts=ADDRESS,ADDRESS')
  raise ValueError('name --on=tpu_pod, --on=slurm or --on=hosts')


def tpu_command(train: list[str]) -> list[str]:
  """gcloud's, which runs the same on every worker; JAX finds the others."""
  project = [f'--project={PROJECT.value}'] if PROJECT.value else []
  where = [TPU.value, f'--zone={ZONE.value}', *project, '--worker=all']
  ssh = ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', *where]
  return [*ssh, f'--command={remote(train)}']


def sbatch_script(train: list[str]) -> str:
  """A job that is told before its time is up, and queued again if it saved."""
  options = {
    'job-name': 'nfnets',
    'nodes': NODES.value,
    'ntasks-per-node': GPUS.value,  # JAX gives each task one GPU
    'gpus-per-node': GPUS.value,
    'cpus-per-task': CPUS.value,
    'time': f'{HOURS.value}:00:00',
    'signal': 'TERM@180',
  }
  lines = [f'#SBATCH --{name}={value}' for name, value in options.items()]
  for option in SBATCH.value:
    if '\n' in option or not option.partition('=')[0]:
      raise ValueError(f'--sbatch={option!r}: give one option, as account=ME')
    lines.append(f'#SBATCH --{shlex.quote(option)}')
  return '\n'.join(
    [
      '#!/bin/bash',
      *lines,
      '#SBATCH --requeue',
      '#SBATCH --open-mode=append',
      # Since 22.05 srun takes no CPUs over from sbatch (release notes).
      f'srun --cpus-per-task={CPUS.value} --kill-on-bad-exit=0 bash -c '
      + shlex.quote(remote(train)),
      'code=$?',
      f'if [ $code -eq {INTERRUPTED} ]; then',
      '  scontrol requeue "$SLURM_JOB_ID"',
      'fi',
      'exit $code',
      '',
    ]
  )


def host_commands(train: list[str]) -> list[tuple[str, list[str]]]:
  """(host, command) of each process; a host may be named more than once."""
  address = HOSTS.value[0].rpartition('@')[2]
  commands = []
  for index, host in enumerate(HOSTS.value):
    place = [
      f'--coordinator_address={address}:{PORT.value}',
      f'--num_processes={len(HOSTS.value)}',
      f'--process_id={index}',
    ]
    line = remote([*train, *place])
    # With a terminal there, Ctrl-C can be typed, and a lost line is a hang-up.
    start = ['bash', '-c'] if host in LOCAL else ['ssh', '-tt', host]
    commands.append((host, [*start, line]))
  return commands


def remote(train: list[str]) -> str:
  """What a machine's shell runs."""
  directory = quoted(DIRECTORY.value or os.getcwd())
  command = shlex.join(['-m', 'scripts.train', *train])
  refused = f'cd {directory} || exit {common.REFUSED}'
  return f'{refused}; exec {quoted(PYTHON.value)} {command}'


def quoted(path: str) -> str:
  """For a machine's shell, which expands `~` alone."""
  home, slash, rest = path.partition('/')
  if re.fullmatch(r'~[\w.-]*', home):
    return home + slash + (shlex.quote(rest) if rest else '')
  return shlex.quote(path)


def run_one(command: list[str], text: str = '') -> int:
  if DRY_RUN.value:
    here = f' <<< {shlex.quote(text)}' if text else ''
    print(shlex.join(command) + here)
    return 0
  need(command[0])
  done = subprocess.run(command, input=text, text=True, check=False)
  # sbatch only queues: its 1 is no run that diverged.
  is_unsent = command[0] == 'sbatch' and done.returncode == 1
  if is_unsent or done.returncode in NOT_STARTED:
    return not_started(command[0], done.returncode)
  return done.returncode


def not_started(where: str, code: int) -> int:
  return common.refuse(
    f'{where}: not started (code {code}): does it answer, and is '
    f'--python={PYTHON.value} there, in --directory?'
  )


def need(program: str) -> None:
  if shutil.which(program) is None:
    raise ValueError(f'{program} is not installed here')


def run_all(commands: list[tuple[str, list[str]]]) -> int:
  """Runs them side by side; Ctrl-C and SIGTERM ask them all to save."""
  if DRY_RUN.value:
    for _, command in commands:
      print(shlex.join(command))
    return 0
  for program in {command[0] for _, command in commands}:
    need(program)  # before any of them is started
  children = [
    subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )
    for _, command in commands
  ]

  def stop(*_: object) -> None:
    for (host, _), child in zip(commands, children):
      if child.poll() is not None:
        continue
      try:
        if host in LOCAL:
          child.send_signal(signal.SIGTERM)
        else:
          child.stdin.write('\x03')
          child.stdin.flush()
      except OSError as error:
        print(f'{host} could not be asked to stop: {error}', flush=True)

  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, stop)
  readers = [
    threading.Thread(target=relay, args=(f'[{index} {host}] ', child.stdout))
    for index, ((host, _), child) in enumerate(zip(commands, children))
  ]
  for reader in readers:
    reader.start()
  for reader in readers:
    reader.join()
  for (host, _), child in zip(commands, children):
    if child.wait() in NOT_STARTED:
      return not_started(host, child.returncode)
  codes = {abs(child.returncode) for child in children} - {0}
  return max(codes - {INTERRUPTED} or codes, default=0)


def relay(prefix: str, lines: IO[str]) -> None:
  for line in lines:
    print(prefix + line, end='', flush=True)


if __name__ == '__main__':
  common.run(main, positional=True, elsewhere=True, waits=True)
