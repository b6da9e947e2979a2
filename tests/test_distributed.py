"""Several real processes on loopback make one run."""

import json
import signal

import crew
import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from test_train import last_state

from nfnets import (
  checkpoint,
  distributed,
  evaluate,
  places,
  train,
  weights,
  workdir,
)


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
    r for r in workdir.RunFolder(folder).read_metrics() if 'train/loss' in r
  ]


def test_two_processes_agree_and_count_as_one_and_miss_the_killed(tmp_path):
  alone = crew.line_fit(tmp_path, 1, 0)
  processes = crew.start(2, tmp_path, 'refused', 'toy', 'lost')
  codes, said = crew.finish(processes)
  assert codes == [69, -signal.SIGKILL], said
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
  assert 'error: process 1 of 2 (' in said[0]
  assert 'at step 7) is missing: silent for 4 seconds' in said[0]


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
  two = workdir.RunFolder(tmp_path / 'bn').read_summary()
  assert two['eval/top_1'] == one['eval/top_1']

  # The same weights give the same digits.
  candidates = weights.of_run(tmp_path / 'whole')
  alone = evaluate.evaluate_weights(crew.config(), candidates, fold=False)
  for index in range(count):
    assert (
      json.loads((tmp_path / f'evaluated{index}.json').read_text()) == alone
    )

  # One killed: the others name it, and the newest checkpoint is whole.
  assert codes == [69] * (count - 1) + [-signal.SIGKILL], said
  for text in said[:-1]:
    assert f'process {count - 1} of {count} (' in text
    assert 'is missing: silent for 6 seconds' in text
  resumed = train.train_and_evaluate(crew.config(), tmp_path / 'killed')
  assert resumed['status'] == 'finished'
  assert_close(
    last_state(crew.config(), tmp_path / 'killed'),
    last_state(crew.config(), tmp_path / 'whole'),
  )


@pytest.mark.slow
@pytest.mark.usefixtures('programs_kept')
def test_process_0_killed_is_named_and_the_run_goes_on_elsewhere(tmp_path):
  killed = crew.start_script(2, tmp_path, signal.SIGKILL, 0, 'parent', 5)
  codes, said = crew.finish(killed)
  assert codes == [-signal.SIGKILL, 69]
  last = said[1].splitlines()[-1]
  assert last.startswith('error: process 0 of 2 (')
  assert 'is missing: silent for 4 seconds; run the same command' in last
  left = int(last_state(crew.script_config(), tmp_path / 'run').step)
  assert left in (2, 4)  # what was being written may not have become whole

  # One of the two is asked to stop.
  stopped = crew.start_script(2, tmp_path, signal.SIGTERM, 1, 'parent', 6)
  codes, said = crew.finish(stopped)
  assert codes == [75, 75], said
  left = int(last_state(crew.script_config(), tmp_path / 'run').step)
  assert 6 <= left < 10

  # In one process, to the end: every step was logged once.
  resumed = train.train_and_evaluate(crew.script_config(), tmp_path / 'run')
  assert resumed['status'] == 'finished' and resumed['eval/count'] == 359
  rows = steps_of(tmp_path / 'run')
  assert [row['step'] for row in rows] == list(range(1, 11))


@pytest.mark.slow
@pytest.mark.parametrize(
  ('count', 'victim', 'whom', 'verdict'),
  [
    (2, 0, 'child', 'ended: SIGKILL'),
    (3, 0, 'parent', 'is missing: silent for 4 seconds'),
    (2, 1, 'parent', 'is missing: silent for 4 seconds'),
  ],
)
def test_who_dies_while_the_run_is_set_up_is_named(
  tmp_path, count, victim, whom, verdict
):
  place = signal.SIGKILL, victim, whom, 'set_up'
  codes, said = crew.finish(crew.start_script(count, tmp_path, *place))
  assert codes.pop(victim) == (137 if whom == 'child' else -signal.SIGKILL)
  assert codes == [69] * (count - 1)
  said.pop(victim)
  for text in said:
    last = text.splitlines()[-1]
    assert last.startswith(f'error: process {victim} of {count} (')
    assert f'at step 0) {verdict}' in last
  assert not (tmp_path / 'run' / 'checkpoints').exists()


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


def test_where_jax_sees_other_processes_it_is_said(joined):
  with pytest.raises(ValueError, match='--num_processes=2, but JAX sees 1'):
    distributed.initialize(None, 'a:1', 2, 0, environment={})
  assert joined[-1]['num_processes'] == 2


def test_where_only_jax_can_tell_the_place_it_does(joined):
  assert distributed.join(places.Place()) == places.Place(None, 1, 0)
  assert joined[-1] == {'heartbeat_timeout_seconds': 120}


def test_alone_a_problem_is_raised_as_it_is():
  with pytest.raises(OSError, match='full'):
    distributed.agree_on_problem(OSError('full'))
  distributed.agree_on_problem(None)
  assert distributed.exchange({'a': [1]}) == [{'a': [1]}]
