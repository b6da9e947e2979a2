"""One of several processes of a run, which have four devices in total.

python crew.py ADDRESS COUNT INDEX FOLDER TASK
"""

import asyncio
import json
import os
import pathlib
import signal
import subprocess
import sys

import portpicker

HERE = pathlib.Path(__file__).parent
DEVICES = 4
HEARTBEAT = 5  # seconds


def start(count, folder, task, **env):
  address = f'127.0.0.1:{portpicker.pick_unused_port()}'
  environment = (
    os.environ
    | env
    | {
      'XLA_FLAGS': '--xla_backend_optimization_level=0 '
      f'--xla_force_host_platform_device_count={DEVICES // count}',
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': os.pathsep.join((str(HERE), str(HERE.parent))),
    }
  )
  return [
    subprocess.Popen(
      [sys.executable, __file__, address, str(count), str(i), folder, task],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(count)
  ]


def finish(processes):
  """Waits for all; returns their exit codes and outputs."""
  said = [process.communicate(timeout=300)[0] for process in processes]
  return [process.returncode for process in processes], said


def config(**values):
  """AGC, SAM and averaging, on batches that cross the borders of epochs."""
  import tiny

  values = {
    'batch_size': 24,
    'num_steps': 8,
    'log_every': 1,
    'eval_every': 8,
    'eval_batch_size': 96,
    'checkpoint_every': 2,
    'optimizer__clip': 'agc',
    'sam__rho': 0.05,
    'ema__mode': 'warmup',
  } | values
  return tiny.config(**values)


def train(folder, count, index, at=None, number=None, **values):
  """A run whose last process gets signal `number` before step `at`."""
  from nfnets import factory
  from nfnets import train as training

  batches = factory.train_batches

  def with_signal(config, source, start, skipped):
    for step, batch in enumerate(
      batches(config, source, start, skipped), start
    ):
      if step == at and index == count - 1:
        os.kill(os.getpid(), number)
      yield batch

  factory.train_batches = with_signal
  summary = training.train_and_evaluate(config(**values), folder / 'run')
  (folder / f'ended{index}').write_text(json.dumps(summary))
  sys.exit({'finished': 0, 'interrupted': 75}[summary['status']])


def whole(folder, count, index):
  train(folder, count, index)


def stopped(folder, count, index, number=signal.SIGTERM):
  train(folder, count, index, 3, number, num_steps=2000, log_every=99,
        checkpoint_every=2000, eval_every=2000)  # fmt: skip


def interrupted(folder, count, index):
  stopped(folder, count, index, signal.SIGINT)


def killed(folder, count, index):
  train(folder, count, index, 5, signal.SIGKILL)


def failed(folder, count, index):
  """Process 1 alone fails in the middle."""
  from nfnets import factory

  batches = factory.train_batches

  def fail(config, source, start, skipped):
    for step, batch in enumerate(batches(config, source, start, skipped)):
      if step == 3 and index == 1:
        raise OSError('the picture is gone')
      yield batch

  factory.train_batches = fail
  train(folder, count, index)


def in_bucket(folder, count, index):
  """A run whose process 0 dies before it uploads file number $KILL_AT, from 0,
  of its checkpoints.
  """
  import fsspec

  from nfnets import bucket
  from nfnets import train as training

  left = int(os.environ.get('KILL_AT', -2)) if index == 0 else -2
  url = bucket.absolute(folder)
  storage = type(fsspec.core.url_to_fs(url)[0])
  put = storage._put_file

  async def mortal(self, source, target, *args, **kwargs):
    nonlocal left
    if 'checkpoints' in target:
      left -= 1
      if left == -1:
        await asyncio.sleep(1)  # others come through
        os.kill(os.getpid(), signal.SIGKILL)
    return await put(self, source, target, *args, **kwargs)

  storage._put_file = mortal
  training.train_and_evaluate(bucket_config(), url)


def bucket_config():
  import tiny

  return tiny.config(
    num_steps=12, log_every=1, eval_every=12, checkpoint_every=3, batch_size=24
  )


def differing(folder, count, index):
  train(folder, count, index, learning_rate=0.1 + 0.1 * index)


def elsewhere(folder, count, index):
  """Each process has a workdir of its own."""
  train(folder / str(index), count, index)


def main(address, count, index, folder, task):
  from nfnets import distributed

  count, index = int(count), int(index)
  if count > 1:
    distributed.initialize(None, address, count, index, HEARTBEAT)
  try:
    globals()[task](pathlib.Path(folder), count, index)
  except (ValueError, OSError) as error:
    print(f'error: {error}', flush=True)
    sys.exit(2)


if __name__ == '__main__':
  main(*sys.argv[1:])
