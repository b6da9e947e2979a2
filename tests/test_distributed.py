"""Several real processes on loopback make one run."""

import json
import signal

import crew
import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from test_train import last_state

from nfnets import evaluate, results, train


@pytest.fixture
def programs_kept(tmp_path):
  """Runs in this process compile the same programs again and again."""
  old = {
    'jax_compilation_cache_dir': str(tmp_path / 'cache'),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
  }
  for key, value in old.items():
    old[key] = getattr(jax.config, key)
    jax.config.update(key, value)
  yield
  for key, value in old.items():
    jax.config.update(key, value)
  compilation_cache.reset_cache()


def assert_close(tree, other):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
    tree,
    other,
  )


def steps_of(folder):
  return [
    r for r in results.RunFolder(folder).read_metrics() if 'train/loss' in r
  ]


@pytest.mark.usefixtures('programs_kept')
@pytest.mark.parametrize('count', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_train_stop_and_evaluate_as_one_with_as_many_devices(
  tmp_path, count
):
  whole = train.train_and_evaluate(crew.config(), tmp_path / 'whole')
  one = train.train_and_evaluate(crew.twin(), tmp_path / 'one')
  tasks = 'bn', 'terminated', 'evaluated', 'killed'
  processes = crew.start(count, tmp_path, *tasks)
  codes, said = crew.finish(processes)

  # SIGTERM to one: all saved at one step; here they go on in one process.
  stopped = {(tmp_path / f'stopped{i}').read_text() for i in range(count)}
  assert stopped == {'3'}
  assert int(last_state(crew.config(), tmp_path / 'agc').step) == 3
  resumed = train.train_and_evaluate(crew.config(), tmp_path / 'agc')
  assert resumed['status'] == 'finished'
  assert_close(
    last_state(crew.config(), tmp_path / 'agc'),
    last_state(crew.config(), tmp_path / 'whole'),
  )
  for ours, theirs in zip(
    steps_of(tmp_path / 'agc'), steps_of(tmp_path / 'whole')
  ):
    assert ours['train/loss'] == pytest.approx(theirs['train/loss'], rel=1e-4)
  assert resumed['eval/count'] == whole['eval/count'] == 359

  # The batch-normalized twin.
  assert_close(
    last_state(crew.twin(), tmp_path / 'bn'),
    last_state(crew.twin(), tmp_path / 'one'),
  )
  two = results.RunFolder(tmp_path / 'bn').read_summary()
  assert two['eval/top_1'] == one['eval/top_1']

  # The same weights give the same digits.
  candidates = evaluate.weights_of_run(tmp_path / 'whole')
  alone = evaluate.evaluate_weights(crew.config(), candidates, fold=False)
  for index in range(count):
    assert (
      json.loads((tmp_path / f'evaluated{index}.json').read_text()) == alone
    )

  # One killed: the others name it, and the newest checkpoint is whole.
  assert codes == [69] * (count - 1) + [-signal.SIGKILL]
  for text in said[:-1]:
    assert f'process {count - 1} of {count} (' in text
    assert 'is missing: silent for 2 seconds' in text
  resumed = train.train_and_evaluate(crew.config(), tmp_path / 'killed')
  assert resumed['status'] == 'finished'
  assert_close(
    last_state(crew.config(), tmp_path / 'killed'),
    last_state(crew.config(), tmp_path / 'whole'),
  )
