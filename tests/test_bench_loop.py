"""What the training loop does between steps."""

import jax
import tiny

from nfnets import metrics, parallel, train
from nfnets import run as running


def config(**values):
  return tiny.config(num_steps=5, log_every=2, eval_every=4,
                     checkpoint_every=100, eval_batch_size=400,
                     data__on_device=True, **values)  # fmt: skip


def test_the_loop_reads_a_steps_metrics_after_dispatching_the_next(
  tmp_path, monkeypatch
):
  """And waits for the device nowhere else: no transfer, no blocking."""
  events = []
  inside = []
  step_of, add, to_host = (
    running.train_step_of, metrics.Meter.add, parallel.to_host
  )  # fmt: skip

  def logged_step_of(run):
    step, key = step_of(run)

    def logged(state, batch, key):
      events.append('dispatch')
      jax.config.update('jax_transfer_guard', 'disallow')
      return step(state, batch, key)

    return logged, key

  def logged_add(meter, step_done, metrics):
    events.append(f'read {step_done}')
    inside.append(step_done)
    add(meter, step_done, metrics)
    inside.pop()

  def blocks(name, function):
    def logged(*args, **kwargs):
      if not inside:
        events.append(name)
      return function(*args, **kwargs)

    return logged

  # An evaluation compiles for long.
  monkeypatch.setattr(running, 'evaluate', lambda *_: {'eval/loss': 0.0})
  monkeypatch.setattr(running, 'train_step_of', logged_step_of)
  monkeypatch.setattr(metrics.Meter, 'add', logged_add)
  monkeypatch.setattr(parallel, 'to_host', blocks('to_host', to_host))
  for name in ('device_get', 'block_until_ready'):
    monkeypatch.setattr(jax, name, blocks(name, getattr(jax, name)))
  try:
    run = running.set_up(config(), tmp_path)
    train.train(run)
  finally:
    jax.config.update('jax_transfer_guard', 'allow')
  first, last = events.index('dispatch'), events.index('read 4')
  assert events[first : last + 1] == [
    'dispatch', 'dispatch', 'read 1', 'dispatch', 'read 2', 'dispatch',
    'read 3', 'read 4',  # an evaluation follows
  ]  # fmt: skip
