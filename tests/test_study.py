"""Experiments: every row resolves, statistics, reports."""

import importlib
import pathlib

import pytest

from experiments import records, report, study
from nfnets import factory

ROOT = pathlib.Path(__file__).parents[1]
EXPERIMENTS = {name: study.load(name) for name in study.names()}
ROWS = [
  (name, records.run_name(row, scale))
  for name, experiment in EXPERIMENTS.items()
  for scale in experiment.scales
  for row in experiment.rows_at(scale)
]


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_row_resolves_to_a_config_that_can_be_trained(name):
  experiment = EXPERIMENTS[name]
  get_config = importlib.import_module(f'experiments.{name}').get_config
  for run in [run for other, run in ROWS if other == name]:
    config = get_config(run).copy_and_resolve_references()
    if not experiment.measure:
      assert config.is_locked
      factory.check(config, 1, 1)
      factory.network_of(config)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_an_experiment_plans_few_comparisons_and_tags_what_is_published(name):
  experiment = EXPERIMENTS[name]
  planned = [c for _, c in experiment.checks if isinstance(c, study.Above)]
  assert len(planned) <= 5 and experiment.claim.endswith('.')
  assert {e[1] for e in experiment.published.values()} <= set(report.TRUST)
  assert set(experiment.labels) <= set(experiment.rows)
