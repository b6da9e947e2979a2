"""One process of several that tests start: trains, is stopped, evaluates.

python tests/crew.py ADDRESS COUNT INDEX FOLDER TASK...
"""

import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time

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


def start_script(count, workdir, *place):
  """Starts scripts.train; `place` tells who does what to whom, and where."""
  return start(count, workdir, 'script', *map(str, place))


def finish(processes):
  """Exit codes, and what each said on stderr."""
  said = [process.communicate()[1] for process in processes]
  return [process.returncode for process in processes], said


def config(**values):
  """AGC, SAM, an average and a stack, on batches across epochs' parts."""
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
      'model__depths': (3, 1, 1),
      'model__scan': True,
      **values,
    }
  )


def script_config():
  """For 3 or 4 devices."""
  return config(
    sam__rho=0.0,
    model__scan=False,
    batch_size=24,
    num_steps=10,
    eval_every=10,
    eval_batch_size=96,
  )


def twin():
  """The batch-normalized network, with statistics of each device's own."""
  return config(
    normalizer='batch',
    model__scan=False,
    sam__rho=0.0,
    optimizer__clip='none',
    num_steps=2,
    eval_every=2,
  )


def main(address, count, index, folder, *tasks):
  if tasks[0] == 'script':
    run_script(address, count, index, folder, *tasks[1:])
    return
  from nfnets import distributed

  count, index, folder = int(count), int(index), pathlib.Path(folder)
  distributed.initialize(None, address, count, index, missing_after=2)
  for task in tasks:
    globals()[task](folder, count, index)


def run_script(address, count, index, folder, number, victim, whom, where):
  """scripts.train, of which process `victim` sends itself the signal `number`.

  `whom` is 'child' (what trains) or 'parent', `where` a step or 'set_up'.
  """
  from nfnets import guard

  stand = guard.stand

  def stand_and_lie_in_wait():
    stand()
    if index != victim:
      return
    from nfnets import factory
    from nfnets.data import pipeline

    pid = os.getpid() if whom == 'child' else os.getppid()
    batches, sources_of = pipeline.train_batches, factory.sources_of

    def dangerous_batches(*args, start_step, **kwargs):
      found = batches(*args, start_step=start_step, **kwargs)
      for step, batch in enumerate(found, start_step):
        if str(step) == where:
          os.kill(pid, int(number))
          time.sleep(2)  # till the parent has handed it on: steps are short
        yield batch

    def dangerous_sources_of(config):
      if where == 'set_up':
        os.kill(pid, int(number))
      return sources_of(config)

    pipeline.train_batches = dangerous_batches
    factory.sources_of = dangerous_sources_of

  guard.stand = stand_and_lie_in_wait
  recipe = pathlib.Path(folder) / f'recipe{index}.py'
  recipe.write_text('from crew import script_config as get_config\n')
  sys.argv = [
    'scripts.train', '--config', str(recipe), f'--workdir={folder}/run',
    f'--coordinator_address={address}', f'--num_processes={count}',
    f'--process_id={index}', '--missing_after=4',
    f'--compilation_cache={folder}/cache',
  ]  # fmt: skip
  runpy.run_module('scripts.train', run_name='__main__', alter_sys=True)


def refused(folder, count, index):
  """Another learning rate in the last process, then another folder."""
  from nfnets import run as running

  odd = index == count - 1
  for name, rate, workdir in (
    ('rate', 0.2 if odd else 0.1, 'refused'),
    ('folder', 0.1, f'refused{index}' if odd else 'refused'),
  ):
    try:
      running.set_up(config(learning_rate=rate), folder / workdir)
    except ValueError as error:
      (folder / f'{name}{index}').write_text(str(error))


def toy(folder, count, index):
  """Least squares on a line, where every step and sum is cheap."""
  (folder / f'toy{index}.json').write_text(
    json.dumps(line_fit(folder, count, index))
  )


def line_fit(folder, count, index):
  """Six steps, a vote at the fourth, a checkpoint, an evaluation, a talk."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from nfnets import checkpoint, distributed, evaluate, parallel

  def train_step(state, batch, key):
    error = batch['x'] @ state['w'] - batch['y']
    noise = jax.random.normal(parallel.device_key(key), state['w'].shape)
    grads = parallel.mean(batch['x'].T @ error / error.size + 0.01 * noise)
    return {'w': state['w'] - 0.1 * grads}, {'loss': parallel.mean(error[0])}

  def eval_step(variables, batch):
    (params, _) = variables['eval']
    error = (batch['images'] @ params['w'] - batch['labels']) ** 2
    sums = {'loss': jnp.sum(error), 'count': jnp.sum(batch['mask'])}
    return parallel.total({'eval': sums})

  def part(x):
    size = len(x) // count
    return x[index * size : (index + 1) * size]

  random = np.random.RandomState(0)
  state = parallel.replicate({'w': np.zeros(8, np.float32)})
  key = parallel.replicate(jax.random.key(0))
  mapped = parallel.map_step(parallel.voting(train_step))
  votes = []
  for step in range(6):
    x, y = random.randn(16, 8), random.randn(16)
    batch = {'x': part(x), 'y': part(y)}
    batch = {k: v.astype(np.float32) for k, v in batch.items()}
    batch |= parallel.vote(step == 3 and index == count - 1)
    state, metrics = mapped(state, parallel.shard(batch), key)
    votes.append(float(metrics['stop']))
  checkpoints = checkpoint.Checkpoints(folder / f'toy_of_{count}')
  checkpoints.save(6, state)
  checkpoints.close()
  x, y = random.randn(80, 8), random.randn(80)
  batches = [
    {
      'images': part(x[i : i + 16]).astype(np.float32),
      'labels': part(y[i : i + 16]).astype(np.float32),
      'mask': np.ones(16 // count, np.float32),
    }
    for i in range(0, 80, 16)
  ]
  variables = {'eval': (parallel.replicate({'w': np.ones(8, np.float32)}), {})}
  evaluated = evaluate.evaluate(
    parallel.map_eval(eval_step), variables, batches
  )
  said = distributed.exchange({'index': index, 'long': 'x' * 1000 * index})
  return {
    'votes': votes,
    'evaluated': evaluated,
    'w': np.asarray(state['w']).tolist(),
    'said': [(one['index'], len(one['long'])) for one in said],
  }


def lost(folder, count, index):
  """The last process is killed; the others wait for it in a collective."""
  from nfnets import distributed, watch

  others = watch.Watch(folder, index, count, 4, earlier={})
  others.step = 7
  distributed.exchange('all are there')
  with others:
    distributed.exchange('all watch')
    if index == count - 1:
      os.kill(os.getpid(), signal.SIGKILL)
    distributed.exchange('never comes')


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
  from nfnets import evaluate, weights

  candidates = weights.of_run(folder / 'whole')
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
  options = running.Options(missing_after=6)
  summary = train.train_and_evaluate(config(), workdir, options)
  pipeline.train_batches = batches
  return summary


if __name__ == '__main__':
  main(*sys.argv[1:])
