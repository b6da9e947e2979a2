"""One process of several that tests start: trains, is stopped, evaluates.

python tests/crew.py ADDRESS COUNT INDEX FOLDER TASK...
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

import portpicker

FOLDER = pathlib.Path(__file__).parent
DEVICES = 4


def start(count, folder, *tasks):
  """Starts that many processes, which share four devices."""
  address = f'127.0.0.1:{portpicker.pick_unused_port()}'
  environment = os.environ | {
    'XLA_FLAGS': '--xla_backend_optimization_level=0 '
    f'--xla_force_host_platform_device_count={DEVICES // count}',
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'PYTHONPATH': os.pathsep.join((str(FOLDER), str(FOLDER.parent))),
  }
  return [
    subprocess.Popen(
      [sys.executable, __file__, address, str(count), str(i), folder, *tasks],
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(count)
  ]


def finish(processes):
  """Exit codes, and what each said on stderr."""
  said = [process.communicate()[1] for process in processes]
  return [process.returncode for process in processes], said


def config(**values):
  """AGC, SAM and an average, on batches that reach across epochs' parts."""
  import tiny

  return tiny.config(
    **{
      'num_steps': 4,
      'log_every': 1,
      'eval_every': 4,
      'eval_batch_size': 100,
      'checkpoint_every': 2,
      'optimizer__clip': 'agc',
      'sam__rho': 0.05,
      'ema__mode': 'warmup',
      **values,
    }
  )


def twin():
  """The batch-normalized network, with statistics of each device's own."""
  return config(
    normalizer='batch',
    sam__rho=0.0,
    optimizer__clip='none',
    num_steps=2,
    eval_every=2,
  )


def main(address, count, index, folder, *tasks):
  from nfnets import distributed

  count, index, folder = int(count), int(index), pathlib.Path(folder)
  distributed.initialize(None, address, count, index, missing_after=2)
  for task in tasks:
    globals()[task](folder, count, index)


def bn(folder, count, index):
  """The twin, whole."""
  from nfnets import train

  del count, index
  train.train_and_evaluate(twin(), folder / 'bn')


def terminated(folder, count, index):
  """SIGTERM to the last process alone before the second step."""
  summary = _train_with_signal(folder / 'agc', count, index, signal.SIGTERM)
  assert summary['status'] == 'interrupted', summary
  (folder / f'stopped{index}').write_text(str(summary['step']))


def killed(folder, count, index):
  """SIGKILL likewise."""
  _train_with_signal(folder / 'killed', count, index, signal.SIGKILL, 3)


def evaluated(folder, count, index):
  """The weights of a run that the test left there."""
  from nfnets import evaluate

  candidates = evaluate.weights_of_run(folder / 'whole')
  metrics = evaluate.evaluate_weights(config(), candidates, fold=False)
  (folder / f'evaluated{index}.json').write_text(json.dumps(metrics))


def _train_with_signal(workdir, count, index, number, at_step=1):
  from nfnets import run as running
  from nfnets import train
  from nfnets.data import pipeline

  batches = pipeline.train_batches

  def with_signal(*args, **kwargs):
    for step, batch in enumerate(batches(*args, **kwargs)):
      if index == count - 1 and step == at_step:
        os.kill(os.getpid(), number)
      yield batch

  pipeline.train_batches = with_signal
  options = running.Options(missing_after=2)
  summary = train.train_and_evaluate(config(), workdir, options)
  pipeline.train_batches = batches
  return summary


if __name__ == '__main__':
  main(*sys.argv[1:])
