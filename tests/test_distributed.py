"""Several real processes on loopback make one run."""

import json
import signal

import crew
import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from test_train import last_state

from nfnets import checkpoint, distributed, evaluate, results, train


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


def test_two_processes_agree_and_count_as_one_and_miss_the_killed(tmp_path):
  alone = crew.line_fit(tmp_path, 1, 0)
  processes = crew.start(2, tmp_path, 'refused', 'toy', 'lost')
  codes, said = crew.finish(processes)
  for index in range(2):
    for name, culprit in (
      ('rate', 'config.learning_rate: 0.1 in process 0, 0.2 in process 1 of 2'),
      ('folder', 'is not the folder that process 0 has on'),
    ):
      assert culprit in (tmp_path / f'{name}{index}').read_text()
    found = json.loads((tmp_path / f'toy{index}.json').read_text())
    assert found['votes'] == alone['votes'] == [0, 0, 0, 1, 0, 0]
    assert found['said'] == [[0, 0], [1, 1000]]
    assert found['evaluated'] == alone['evaluated']  # to the last digit
    np.testing.assert_allclose(found['w'], alone['w'], rtol=1e-6)
  saved = checkpoint.Checkpoints(tmp_path / 'toy_of_2', read_only=True)
  like = {'w': np.zeros(8, np.float32)}
  np.testing.assert_array_equal(saved.restore_latest(like)['w'], found['w'])
  saved.close()
  assert codes == [69, -signal.SIGKILL]
  assert 'error: process 1 of 2 (' in said[0]
  assert 'at step 7) is missing: silent for 2 seconds' in said[0]


@pytest.mark.slow
@pytest.mark.usefixtures('programs_kept')
@pytest.mark.parametrize('count', [2, 4])
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
  assert stopped == {'2'}
  assert int(last_state(crew.config(), tmp_path / 'agc').step) == 2
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


@pytest.fixture
def joined(monkeypatch):
  """What `jax.distributed.initialize` is called with, and the options set."""
  calls = []
  monkeypatch.setattr(jax.config, 'update', lambda *args: calls.append(args))
  monkeypatch.setattr(
    jax.distributed, 'initialize', lambda **kwargs: calls.append(kwargs)
  )
  return calls


def test_alone_nothing_is_joined_and_no_one_can_be_insisted_on(joined):
  assert not distributed.initialize(environment={})
  assert not distributed.initialize(False, 'a:1', 2, 0, environment={})
  with pytest.raises(ValueError, match='pass --coordinator_address=HOST:PORT'):
    distributed.initialize(True, environment={})
  assert not joined


def test_the_usual_variables_stand_in_for_flags(joined):
  environment = {
    'JAX_COORDINATOR_ADDRESS': 'a:1',
    'JAX_NUM_PROCESSES': '1',
    'JAX_PROCESS_ID': '0',
  }
  assert distributed.initialize(missing_after=5, environment=environment)
  assert ('jax_cpu_collectives_implementation', 'gloo') in joined
  assert joined[-1] == {
    'coordinator_address': 'a:1',
    'num_processes': 1,
    'process_id': 0,
    'cluster_detection_method': 'deactivate',
    'heartbeat_timeout_seconds': 65,
  }


def test_under_slurm_jax_finds_the_others_itself(joined):
  environment = {'SLURM_STEP_NODELIST': 'n[1-2]', 'SLURM_NTASKS': '2'}
  assert distributed.initialize(environment=environment)
  assert joined[-1] == {'heartbeat_timeout_seconds': 120}
  environment['SLURM_NTASKS'] = '1'
  assert not distributed.initialize(environment=environment)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((None, 'a:1', None, None), 'missing: num_processes, process_id'),
    ((None, 'a:1', 2, None), 'missing: process_id'),
    ((None, 'a', 2, 0), 'give HOST:PORT'),
    ((None, 'a:b', 2, 0), 'give HOST:PORT'),
    ((None, ':1', 2, 0), 'give HOST:PORT'),
    ((None, 'a:1', 2, 2), 'from 0 to --num_processes - 1 = 1'),
    ((None, 'a:1', 2, 0), '--num_processes=2, but JAX sees 1'),
  ],
)
def test_an_impossible_place_is_refused(joined, arguments, message):
  with pytest.raises(ValueError, match=message):
    distributed.initialize(*arguments, environment={})


def test_a_variable_that_is_no_number_is_named(joined):
  with pytest.raises(ValueError, match="JAX_PROCESS_ID='first' is no number"):
    distributed.initialize(environment={'JAX_PROCESS_ID': 'first'})


def test_alone_a_problem_is_raised_as_it_is():
  with pytest.raises(OSError, match='full'):
    distributed.agree_on_problem(OSError('full'))
  distributed.agree_on_problem(None)
  assert distributed.exchange({'a': [1]}) == [{'a': [1]}]
