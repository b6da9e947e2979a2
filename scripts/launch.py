r"""Starts scripts.train on several machines: a TPU pod, SLURM, or hosts by ssh.

  python -m scripts.launch --on=tpu_pod --tpu=NAME --zone=ZONE -- FLAGS
  python -m scripts.launch --on=slurm --nodes=4 --gpus_per_node=8 -- FLAGS
  python -m scripts.launch --on=hosts --hosts=ADDRESS,ADDRESS -- FLAGS

FLAGS are those of scripts.train. The workdir must be a bucket or on a file
system that all machines share, and each machine needs a checkout in
--directory. --dry_run prints the commands without running them. The exit codes
are those of scripts.train; 2 also means that nothing was started.

To stop a run, send SIGTERM to any of its processes: all of them save and exit
with code 75, and the same command resumes. On hosts, press Ctrl-C here. Under
SLURM, use scancel --signal=TERM JOB; the job then requeues itself. On a TPU
pod, where Ctrl-C may not reach the workers, use

  gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all \
    --command='pkill -TERM -f "[s]cripts[.]train"'
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
NOT_STARTED = (126, 127, 255)  # exit codes of bash, and of ssh
LOCAL = ('localhost', '127.0.0.1')

ON = flags.DEFINE_enum(
  'on', None, ['tpu_pod', 'slurm', 'hosts'], 'The kind of machines.'
)
DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print the commands without running them.'
)
DIRECTORY = flags.DEFINE_string(
  'directory',
  None,
  'The checkout on each machine. By default the path of the current one.',
)
PYTHON = flags.DEFINE_string(
  'python', '.venv/bin/python', 'The Python to run, relative to the checkout.'
)
TPU = flags.DEFINE_string('tpu', None, 'tpu_pod: the name of the pod.')
ZONE = flags.DEFINE_string('zone', None, 'tpu_pod: its zone.')
PROJECT = flags.DEFINE_string(
  'project', None, "tpu_pod: its project. By default gcloud's."
)
NODES = flags.DEFINE_integer(
  'nodes', 1, 'slurm: the number of nodes.', lower_bound=1
)
GPUS = flags.DEFINE_integer(
  'gpus_per_node', 8, 'slurm: GPUs, each with a process.', lower_bound=1
)
CPUS = flags.DEFINE_integer(
  'cpus_per_gpu', 8, 'slurm: cores that prepare its images.', lower_bound=1
)
HOURS = flags.DEFINE_integer(
  'hours', 24, 'slurm: the time limit of the job.', lower_bound=1
)
SBATCH = flags.DEFINE_multi_string(
  'sbatch', [], 'slurm: another option, as account=ME. Repeat for several.'
)
HOSTS = flags.DEFINE_list(
  'hosts',
  [],
  'hosts: addresses, the coordinator first; localhost needs no ssh.',
)
PORT = flags.DEFINE_integer(
  'port',
  9876,
  "hosts: the coordinator's port.",
  lower_bound=1,
  upper_bound=65535,
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
      return run_all(host_commands(train))
    case 'hosts':
      raise ValueError('--on=hosts needs --hosts=ADDRESS,ADDRESS')
  raise ValueError('set --on=tpu_pod, --on=slurm or --on=hosts')


def tpu_command(train: list[str]) -> list[str]:
  """Runs the same command on every worker; JAX connects them."""
  project = [f'--project={PROJECT.value}'] if PROJECT.value else []
  where = [TPU.value, f'--zone={ZONE.value}', *project, '--worker=all']
  ssh = ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', *where]
  return [*ssh, f'--command={remote(train)}']


def sbatch_script(train: list[str]) -> str:
  """A job that saves before its time is up, and requeues itself if it did."""
  options = {
    'job-name': 'nfnets',
    'nodes': NODES.value,
    'ntasks-per-node': GPUS.value,  # JAX assigns one GPU to each task
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
      # Since SLURM 22.05 srun doesn't inherit this from sbatch.
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
  """The host and the command of each process; a host may be repeated."""
  address = HOSTS.value[0].rpartition('@')[2]
  if address in LOCAL and not set(HOSTS.value) <= set(LOCAL):
    raise ValueError(
      f'--hosts={",".join(HOSTS.value)}: the others connect to the first one: '
      f'give the address at which they reach it, not {address!r}'
    )
  commands = []
  for index, host in enumerate(HOSTS.value):
    if not host or host[0] == '-' or re.search(r'\s', host):
      raise ValueError(
        f'--hosts={",".join(HOSTS.value)}: {host!r} is not an address'
      )
    line = remote(
      [
        *train,
        f'--coordinator_address={address}:{PORT.value}',
        f'--num_processes={len(HOSTS.value)}',
        f'--process_id={index}',
      ]
    )
    # With a terminal, ssh forwards Ctrl-C, and its end hangs the process up.
    start = ['bash', '-c'] if host in LOCAL else ['ssh', '-tt', host]
    commands.append((host, [*start, line]))
  return commands


def remote(train: list[str]) -> str:
  """The command line that starts scripts.train in a machine's shell."""
  directory = quoted(DIRECTORY.value or os.getcwd())
  command = shlex.join(['-m', 'scripts.train', *train])
  return (
    f'cd {directory} || exit {common.REFUSED}; '
    f'exec {quoted(PYTHON.value)} {command}'
  )


def quoted(path: str) -> str:
  """Quotes a path for a shell, except for a leading `~`."""
  home, slash, rest = path.partition('/')
  if re.fullmatch(r'~[\w.-]*', home):
    return home + slash + (shlex.quote(rest) if rest else '')
  return shlex.quote(path)


def run_one(command: list[str], text: str = '') -> int:
  """Runs a command with `text` as its input; returns its exit code."""
  if DRY_RUN.value:
    here = f' <<< {shlex.quote(text)}' if text else ''
    print(shlex.join(command) + here)
    return 0
  need(command[0])
  done = subprocess.run(command, input=text, text=True, check=False)
  # Code 1 of sbatch means that the job wasn't queued, not that it diverged.
  failures = (1, *NOT_STARTED) if command[0] == 'sbatch' else NOT_STARTED
  if done.returncode in failures:
    return not_started(command[0], done.returncode)
  return done.returncode


def not_started(where: str, code: int) -> int:
  return common.refuse(
    f'{where}: not started (code {code}); check that it answers and has '
    f'--python={PYTHON.value} in --directory'
  )


def need(program: str) -> None:
  if shutil.which(program) is None:
    raise ValueError(f'{program} is not installed on this machine')


def run_all(commands: list[tuple[str, list[str]]]) -> int:
  """Runs the commands side by side, and forwards Ctrl-C, SIGTERM and SIGHUP.

  Returns:
    0, the largest exit code that isn't 75, or 75.
  """
  if DRY_RUN.value:
    for _, command in commands:
      print(shlex.join(command))
    return 0
  for program in {command[0] for _, command in commands}:
    need(program)  # before any is started
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
        print(f'{host} could not be told to stop: {error}', flush=True)

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
  codes = {child.returncode for child in children} - {0}
  codes = {code if code > 0 else 128 - code for code in codes}  # as in a shell
  return max(codes - {INTERRUPTED} or codes, default=0)


def relay(prefix: str, lines: IO[str]) -> None:
  """Prints a process's output line by line, each with its origin."""
  for line in lines:
    print(prefix + line, end='', flush=True)


if __name__ == '__main__':
  common.run(main, positional=True, remote_paths=True, handles_ctrl_c=True)
