"""The CIFAR-10 study: rows, scales and verdicts."""

import importlib
import json
import pathlib
import re

import pytest
from invented import finished, synthetic
from matplotlib.figure import Figure

from experiments import _cifar, _plots, _study
from nfnets import factory, records

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
  factory.check(resolved, 1, 1)
  for key, value in module.RUNS[row].items():
    assert _at(resolved, key) == value, key


@pytest.mark.parametrize(('name', 'row', 'scale'), RUNS)
def test_the_learning_rate_follows_the_batch_size_in_every_row(
  name, row, scale
):
  module = importlib.import_module(f'experiments.{name}')
  config = module.get_config(f'{row}@{scale}')
  factor = config.get('learning_rate_factor', 1.0)
  expected = 0.1 * factor * config.batch_size / 128
  assert config.learning_rate == pytest.approx(expected, rel=1e-6)


def _at(config, key):
  for part in key.split('.'):
    config = config[part]
  return config


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
  ends = records[-1]['updates']
  assert failing is None or f', diverged at {ends:,}' in lines[-1]
  pictures = re.findall(r'\((\w+\.png)\)', text)
  assert pictures and all((tmp_path / path).exists() for path in pictures)
  word, sentence = module.verdict(records)
  assert word in _study.VERDICTS and sentence
  part = module.report(records[:1], tmp_path)
  assert part.count('| `') == 1 and module.verdict([])[0] == 'not run'


def test_rows_of_other_scales_are_not_missed(tmp_path):
  agc_sweep = importlib.import_module('experiments.agc_sweep')
  text = agc_sweep.report(synthetic(agc_sweep)[:1], tmp_path)
  missed = text[text.index('Not run yet') :]
  assert 'nf_b128_l0.01' in missed and 'nf_b256' not in missed


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


def test_a_run_that_ended_near_chance_is_not_an_ordinary_number():
  found = [
    finished('dead', 0, 0.1),
    finished('one', 0, 0.1),
    finished('one', 1, 0.7),
    finished('gone', 0, 0.12),
    finished('gone', 1, 0.1, status='diverged'),
    finished('alive', 0, 0.2),
    finished('many_classes', 0, 0.05),
  ]
  found[-1]['config']['data'] = {'num_classes': 102}
  texts = {name: row.text for name, row in _study.gather(found).items()}
  assert texts == {
    'dead': '10.00 (near chance)',
    'one': '40.00 ± 42.43 (1 of 2 near chance)',
    'gone': 'diverged in 1 of 2; else 12.00 (near chance)',
    'alive': '20.00',
    'many_classes': '5.00',
  }


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
  for piece in (
    'untrained ResNet-20',
    'gains of 1',
    "CIFAR-10's",
    'alone, with',
  ):
    assert piece in sentence
  assert 'untrained' in text and 'see `results/figure_latency`' in text
  assert 'Not measured yet: `step_cost`' in module.report(
    [r for r in committed if r['row'] != 'step_cost'], tmp_path
  )
  healthy = json.loads(json.dumps(committed).replace('"batch"', '"nf"'))
  for record in healthy:
    record['measured']['batch'] = record['measured']['nf']
  word, sentence = module.verdict(healthy)
  assert word == 'undecided' and sentence.count(': no') == 3


def test_batch_norms_costs_need_every_row_and_name_the_device_of_the_times():
  module = importlib.import_module('experiments.batchnorm_costs')
  committed = records.read_all(ROOT / 'results', 'batchnorm_costs')
  by_row = {record['row']: record for record in committed}
  word, sentence = module.verdict([by_row['batch_mates']])
  assert word == 'not run' and 'step_cost, train_eval_gap, device_' in sentence
  assert 'So far: batch mates change' in sentence and 'Time' not in sentence
  word, sentence = module.verdict([by_row['step_cost']])
  assert word == 'not run' and 'gains of 1' not in sentence

  def judge(quartiles, share):
    changed = json.loads(json.dumps(by_row))
    changed['step_cost']['hardware'] |= {'device': 'TPU v9'}
    step = changed['step_cost']['measured']
    step['batch']['ratio'] = quartiles
    step['batch']['temporary'] = share * step['nf']['temporary']
    return module.verdict(list(changed.values()))

  word, sentence = judge([1.1, 1.2, 1.3], 1.2)
  assert word == 'borne out' and 'time on TPU v9 (1.20 x; quart' in sentence
  assert judge([0.9, 1.2, 1.3], 1.2)[0] == 'undecided'
  assert judge([1.1, 1.2, 1.3], 1.005)[0] == 'undecided'
  assert judge([0.7, 0.8, 0.9], 1.2)[0] == 'mixed'
  assert judge([1.1, 1.2, 1.3], 0.98)[0] == 'mixed'


def test_a_step_s_time_here_stands_beside_the_other_pairs_of_networks(tmp_path):
  module = importlib.import_module('experiments.batchnorm_costs')
  committed = records.read_all(ROOT / 'results', 'batchnorm_costs')
  times = {'resnet_50': 1.0, 'nf_resnet_50': 2.0, 'f0_batchnorm': 2.0, 'f0': 1}
  for row, median in times.items():
    one = {'experiment': 'figure_latency', 'row': row, 'seed': 0}
    measured = {'seconds': {'median': median}}
    records.write(tmp_path, {**one, 'scale': 'cpu', 'measured': measured})
  (tmp_path / 'costs').mkdir()
  text = module.report(committed, tmp_path / 'costs')
  assert 'depends on device and network: in `results/figure_latency`' in text
  assert 'scale cpu, batch normalization is the faster one in 1 of 2' in text


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


@pytest.mark.parametrize('name', STUDY)
def test_an_experiments_own_command_gives_every_committed_record(name):
  module = importlib.import_module(f'experiments.{name}')
  committed = records.read_all(ROOT / 'results', name)
  assert {record['seed'] for record in committed} <= set(module.SEEDS)


@pytest.mark.parametrize(
  'name', ['agc_sweep', 'resnet20_three_ways', 'nf_resnet50_vs_resnet50']
)
def test_pages_that_speak_of_the_report_say_whose_it_is(name, tmp_path):
  module = importlib.import_module(f'experiments.{name}')
  text = module.report(synthetic(module), tmp_path)
  assert text.endswith(_cifar.REPORT) and 'Thakur' in _cifar.REPORT


def test_a_run_that_diverged_before_its_first_evaluation_is_in_the_plot():
  axis = Figure().subplots()
  records = [finished('a', 0, 0.5), finished('a', 1, 0.1, status='diverged')]
  records[0]['curve'] = [{'step': 1, 'x': 1.0}, {'step': 2, 'x': 2.0}]
  records[1] |= {'curve': [], 'updates': 137}
  _plots.curves(axis, records, ['a', 'b'], {'a': 'A', 'b': 'B'}, 'x')
  crosses = [line for line in axis.lines if line.get_marker() == 'x']
  assert [line.get_xdata()[0] for line in crosses] == [137]


def test_a_finished_run_without_the_metric_is_not_drawn_as_diverged():
  axis = Figure().subplots()
  records = [finished('a', 0, 0.5) | {'curve': [{'step': 1, 'x': 1.0}]}]
  _plots.curves(axis, records, ['a'], {'a': 'A'}, 'agc/clipped_fraction')
  assert not axis.lines
