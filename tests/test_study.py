"""The CIFAR-10 study: rows, scales and verdicts."""

import importlib
import json
import pathlib
import re

import jax
import pytest

from experiments import _study
from nfnets import recipe, records
from nfnets.analysis import cost

ROOT = pathlib.Path(__file__).parents[1]
STUDY = (
  'resnet20_three_ways',
  'agc_sweep',
  'he_resnet20',
  'batchnorm_batch_size',
  'clipping_threshold',
  'where_to_clip',
  'learning_rate',
  'sam_cifar',
  'nf_resnet50_vs_resnet50',
)
RUNS = [
  (name, row, scale)
  for name in STUDY
  for module in [importlib.import_module(f'experiments.{name}')]
  for scale in module.SCALES
  for row in _study.rows_of(scale, module.RUNS, module.SCALES)
]


@pytest.mark.parametrize(('name', 'row', 'scale'), RUNS)
def test_every_row_resolves_at_every_scale(name, row, scale):
  module = importlib.import_module(f'experiments.{name}')
  config = module.get_config(f'{row}@{scale}')
  assert config.is_locked
  resolved = config.copy_and_resolve_references()
  recipe.check(resolved, 1, 1)
  for key, value in module.RUNS[row].items():
    assert _at(resolved, key) == value, key


def _at(config, key):
  for part in key.split('.'):
    config = config[part]
  return config


def trains(name, row, scale):
  """The shapes after one step of the whole recipe."""
  module = importlib.import_module(f'experiments.{name}')
  config = module.get_config(f'{row}@{scale}').copy_and_resolve_references()
  train_step, shapes = cost.make_step(config)
  state, metrics = jax.eval_shape(train_step, *shapes)
  assert state.params.keys() == shapes[0].params.keys()
  assert metrics['loss'].shape == () and metrics['loss'].dtype == 'float32'


def test_a_step_of_the_study_builds_at_full_size():
  trains('resnet20_three_ways', 'nf_norm', 'full')


def program(name, row):
  """What tells a row's traced step from another's, numbers apart."""
  module = importlib.import_module(f'experiments.{name}')
  config = module.get_config(row).copy_and_resolve_references()
  spec = config.optimizer
  return str(
    (
      config.model.to_dict(),
      config.micro_batches > 1,
      (spec.clip, spec.unclipped, spec.nesterov),
      (config.sam.rho > 0, config.sam.ascent_fraction),
    )
  )


PROGRAMS = {program(n, row): (n, row) for n, row, s in RUNS if s == 'full'}


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'row'), PROGRAMS.values())
def test_every_program_of_the_study_builds_at_full_size(name, row):
  trains(name, row, 'full')


def finished(row, seed, top_1, updates=2000, scale='full', status='finished'):
  summary = {'status': status, 'step': updates, 'eval/top_1': top_1}
  return {
    'row': row,
    'seed': seed,
    'scale': scale,
    'status': status,
    'updates': updates,
    'config': {'num_steps': updates},
    'summary': summary,
    'curve': [],
  }


def synthetic(module, scale='cpu', accuracy=None, seeds=None):
  """A record of every row and seed, its accuracy by `accuracy(row, seed)`."""
  records = []
  for seed in module.SEEDS if seeds is None else seeds:
    for row in _study.rows_of(scale, module.RUNS, module.SCALES):
      top_1 = accuracy(row, seed) if accuracy else 0.6 + seed / 100
      status = 'finished' if top_1 else 'diverged'
      record = finished(row, seed, top_1, 2000, scale, status)
      record['curve'] = [
        {
          'step': step,
          'train/loss': 2 - step / 1000,
          'eval/top_1': (top_1 or 0.1) * step / 2000,
          'agc/clipped_fraction': 0.5,
        }
        for step in (500, 1000, 1500, 2000)
      ]
      records.append(record)
  return records


@pytest.mark.parametrize('name', STUDY)
def test_every_report_shows_each_row_and_what_diverged(name, tmp_path):
  module = importlib.import_module(f'experiments.{name}')
  scale = list(module.SCALES)[-1]
  rows = _study.rows_of(scale, module.RUNS, module.SCALES)
  failing = rows[-1] if len(rows) > 1 else None

  def accuracy(row, seed):
    return 0 if row == failing else 0.4 + len(row) / 100

  records = synthetic(module, scale, accuracy)
  text = module.report(records, tmp_path)
  assert module.SCALES[scale]['note'] in text
  lines = [line for line in text.splitlines() if line.startswith('| `')]
  assert [line.split('`')[1] for line in lines] == list(rows)
  assert [('diverged' in line) for line in lines] == [
    r == failing for r in rows
  ]
  pictures = re.findall(r'\((\w+\.png)\)', text)
  assert pictures and all((tmp_path / path).exists() for path in pictures)
  word, sentence = module.verdict(records)
  assert word in _study.VERDICTS and sentence
  part = module.report(records[:1], tmp_path)
  assert part.count('| `') == 1 and module.verdict([])[0] == 'not run'


def test_a_diverged_run_is_never_averaged_away():
  rows = _study.gather(
    [
      finished('a', 0, 0.9),
      finished('a', 1, 0.1, status='diverged'),
      finished('b', 0, 0.5),
      finished('b', 1, 0.6),
    ]
  )
  assert rows['a'].text == 'diverged in 1 of 2; else 90.00'
  assert rows['b'].text == '55.00 ± 7.07'


def test_under_a_thousand_updates_the_verdict_is_too_short_to_tell():
  scales = {'full': {}, 'cpu': {}}

  def sure(rows):
    return 'borne out', ', '.join(rows)

  short = [finished('a', 0, 0.9, updates=999, scale='cpu')]
  word, why = _study.judge(short, scales, sure)
  assert word == 'too short to tell' and '999 updates' in why
  assert _study.judge([], scales, sure)[0] == 'not run'
  enough = [finished('a', 0, 0.9, updates=1000, scale='cpu')]
  word, why = _study.judge(enough, scales, sure)
  assert (word, why) == ('borne out', 'At scale cpu: a')


def test_batch_norms_drawbacks_are_reported_from_the_committed_records(
  tmp_path,
):
  module = importlib.import_module('experiments.batchnorm_costs')
  committed = records.read_all(ROOT / 'results', 'batchnorm_costs')
  text = module.report(committed, tmp_path)
  assert text.count('### ') == len(module.RUNS) == len(committed)
  assert (tmp_path / 'costs.png').exists()
  word, sentence = module.verdict(committed)
  assert word == 'borne out' and 'of predictions: yes' in sentence
  assert 'Not measured yet: `step_cost`' in module.report(
    [r for r in committed if r['row'] != 'step_cost'], tmp_path
  )
  healthy = json.loads(json.dumps(committed).replace('"batch"', '"nf"'))
  for record in healthy:
    record['measured']['batch'] = record['measured']['nf']
  assert module.verdict(healthy)[0] == 'not borne out'


@pytest.mark.parametrize('name', STUDY)
def test_every_committed_record_is_of_a_row_and_gets_into_its_report(
  name, tmp_path
):
  module = importlib.import_module(f'experiments.{name}')
  committed = records.read_all(ROOT / 'results', name)
  if not committed:
    pytest.skip(f'{name} has no record yet')
  text = module.report(committed, tmp_path)
  for record in committed:
    assert record['row'] in module.RUNS and record['scale'] in module.SCALES
    assert f'| `{record["row"]}`' in text
