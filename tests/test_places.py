"""Which of how many processes this is, from flags and from variables."""

import pytest

from nfnets import places

SLURM = {'SLURM_STEP_NODELIST': 'n[1-2]', 'SLURM_NTASKS': '4'}
MPI = {'OMPI_MCA_orte_hnp_uri': 'x', 'OMPI_COMM_WORLD_SIZE': '3'}


def find(*arguments, **environment):
  return places.find(*arguments, environment=environment)


def test_nothing_said_is_alone_and_so_is_who_insists_on_it():
  assert find() is None
  assert find(False, 'a:1', 2, 0) is None
  assert find(False, **SLURM) is None


def test_flags_come_before_variables():
  variables = {'JAX_COORDINATOR_ADDRESS': 'b:2', 'JAX_NUM_PROCESSES': '3'}
  expected = places.Place('a:1', 3, 2)
  assert find(None, 'a:1', None, 2, **variables) == expected


def test_slurm_and_open_mpi_tell_and_a_single_task_is_alone():
  assert find(**SLURM, SLURM_PROCID='3') == places.Place(None, 4, 3)
  assert find(**MPI, OMPI_COMM_WORLD_RANK='0') == places.Place(None, 3, 0)
  assert find(**(SLURM | {'SLURM_NTASKS': '1'})) is None


def test_what_does_not_show_is_left_to_jax(monkeypatch):
  assert find(**SLURM) == places.Place()
  monkeypatch.setattr(places, '_has_tpu', lambda: True)
  assert find() == places.Place()
  assert find(JAX_PLATFORMS='cpu') is None


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((None, 'a:1', None, None), 'missing: num_processes, process_id'),
    ((None, 'a:1', 2, None), 'missing: process_id'),
    ((None, 'a', 2, 0), 'give HOST:PORT'),
    ((None, 'a:b', 2, 0), 'give HOST:PORT'),
    ((None, ':1', 2, 0), 'give HOST:PORT'),
    ((None, 'a:1', 2, 2), 'from 0 to --num_processes - 1 = 1'),
    ((True,), 'pass --coordinator_address=HOST:PORT'),
  ],
)
def test_an_impossible_place_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    find(*arguments)


def test_a_variable_that_is_no_number_is_named():
  with pytest.raises(ValueError, match="JAX_PROCESS_ID='first' is no number"):
    find(JAX_PROCESS_ID='first')
  with pytest.raises(ValueError, match="SLURM_NTASKS='4,2' is no number"):
    find(**(SLURM | {'SLURM_NTASKS': '4,2'}))
