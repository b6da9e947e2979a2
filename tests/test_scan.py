"""A run whose equal blocks are one loop resumes, and starts from weights."""

import shutil

import jax
import numpy as np
import pytest
from test_train import last_state, run_config

from nfnets import train
from nfnets.models import network

VALUES = {'model__depths': (3, 1, 1), 'num_steps': 4, 'eval_every': 4}


def test_a_looped_run_goes_on_from_its_own_half_bit_for_bit(tmp_path):
  config = run_config(**VALUES, model__scan=True)
  whole = train.train_and_evaluate(config, tmp_path)
  state = last_state(config, tmp_path)
  assert any(map(network.is_stacked, state.params))
  shutil.rmtree(tmp_path / 'checkpoints/4')
  (tmp_path / 'summary.json').unlink()
  assert train.train_and_evaluate(config, tmp_path) == whole
  again = last_state(config, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.slow
def test_a_looped_run_starts_from_an_unrolled_runs_weights(tmp_path):
  train.train_and_evaluate(run_config(**VALUES), tmp_path / 'plain')
  config = run_config(
    **VALUES, model__scan=True, weights=str(tmp_path / 'plain')
  )
  train.train_and_evaluate(config, tmp_path / 'looped')
  assert int(last_state(config, tmp_path / 'looped').step) == 4
