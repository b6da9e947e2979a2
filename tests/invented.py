"""An experiment and records of runs that nobody made."""

from ml_collections import ConfigDict

from experiments.study import Experiment


def small(**fields):
  """An experiment with rows a, b and c, of which a sets x to 1."""
  rows = {'a': {'x': 1}, 'b': {}, 'c': {}}
  config = lambda row: ConfigDict({'x': 0, 'y': 0, 'num_steps': 5})
  return Experiment('t', 'c.', rows, config, **fields)


def record(row, top_1, seed=0, scale='full', status='finished', **config):
  """A run of 1,000 updates; `config` overrides top-level keys."""
  return {
    'experiment': 'x',
    'row': row,
    'seed': seed,
    'scale': scale,
    'status': status,
    'updates': 1000,
    'command': 'python -m scripts.train',
    'config': {
      'num_steps': 1000,
      'batch_size': 128,
      'data': {'num_classes': 10},
      'model': {'normalizer': 'batch'},
      'optimizer': {'clip': 'none', 'clipping': 0.01, 'unclipped': []},
    }
    | config,
    'summary': {'status': status, 'step': 1000, 'eval/top_1': top_1},
    'curve': [
      {'step': 500, 'train/loss': 2.0, 'eval/top_1': top_1 / 2},
      {'step': 1000, 'train/loss': 1.0, 'eval/top_1': top_1},
    ],
  }


def records(experiment, scale, top_1=lambda row, seed: 0.6):
  """A run of every row and seed, with the config that the row has."""
  return [
    record(row, top_1(row, seed), seed, scale)
    | {'config': experiment.get_config(f'{row}@{scale}').to_dict()}
    for row in experiment.rows_at(scale)
    for seed in tuple(experiment.seeds)[:2]
  ]
