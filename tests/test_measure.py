"""scripts.measure: records of experiments that train nothing."""

import json
import pathlib

import pytest

from experiments import batchnorm_costs, figure_latency, table_family
from nfnets import host_memory
from nfnets.analysis import counts
from nfnets.bench import step_time
from scripts import measure

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def command(tmp_path, monkeypatch, set_flags):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(host_memory, 'keep', lambda: True)  # the tests' own

  def run(**values):
    settings = {'results': str(tmp_path), 'only': [], 'scale': 'full'}
    settings |= {'again': False, 'data_dir': None}
    set_flags(measure, **settings | values)
    return measure.main(['measure'])

  return run


def test_a_measured_row_is_recorded_once(tmp_path, command, capsys):
  assert command(experiment='table_family', only=['f0']) == 0
  path = tmp_path / 'table_family/runs/f0_seed0.json'
  record = json.loads(path.read_text())
  assert record['measured']['params'] == pytest.approx(71.49e6, abs=5e3)
  assert record['command'].endswith('--experiment=table_family --only=f0')
  assert record['hardware']['device_count'] and record['scale'] == 'full'
  assert record['seconds'] >= 0
  assert command(experiment='table_family', only=['f0']) == 0
  assert '[1/1] f0: was there' in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused(command, capsys):
  assert command(experiment='table_depth') == 2
  said = capsys.readouterr().err
  assert 'choose one of ' in said and 'table_family' in said
  assert 'table_depth,' not in said and 'signal_propagation' not in said
  assert command(experiment='table_family', only=['f9']) == 2
  assert "no row 'f9'" in capsys.readouterr().err
  assert command(experiment='figure_latency', scale='gpu') == 2
  assert '--scale=gpu: choose one of full, cpu' in capsys.readouterr().err


def test_the_place_of_the_data_is_read_from_and_not_recorded(
  tmp_path, command, monkeypatch
):
  read = []
  monkeypatch.setattr(
    batchnorm_costs, 'measure', lambda c: read.append(c.data.data_dir) or {}
  )
  costs = {'experiment': 'batchnorm_costs', 'only': ['batch_mates']}
  assert command(**costs, data_dir='/home/me/data') == 0
  text = (tmp_path / 'batchnorm_costs/runs/batch_mates_seed0.json').read_text()
  assert read == ['/home/me/data'] and '/home' not in text
  assert json.loads(text)['command'].endswith(
    '--only=batch_mates --data_dir=DATA'
  )


def test_missing_data_and_data_for_nothing_are_refused_in_a_line(
  tmp_path, command, capsys
):
  costs = {'experiment': 'batchnorm_costs', 'only': ['batch_mates']}
  assert command(**costs, data_dir=str(tmp_path / 'none')) == 2
  said = capsys.readouterr().err
  assert 'error: batch_mates: cifar10 is not prepared' in said
  assert said.count('\n') == 1
  assert command(experiment='table_family', data_dir='x') == 2
  assert 'table_family reads no data' in capsys.readouterr().err


def test_the_family_s_verdict_needs_every_printed_digit():
  good = {
    'depths': [1, 2, 6, 3], 'train_image_size': 192, 'eval_image_size': 256,
    'drop_rate': 0.2, 'params': 71_489_000, 'macs': 12_380_000_000,
  }  # fmt: skip
  found = [{'row': 'f0', 'measured': good}]
  assert table_family.verdict(found)[0] == 'mixed'  # one row of many
  for off, name in (
    ({'macs': 12_390_000_000}, 'multiply-adds'),
    ({'params': 71_500_000}, 'parameters'),
    ({'depths': [1, 2, 6, 2]}, 'depths'),
    ({'train_image_size': 224}, 'training size'),
    ({'eval_image_size': 288}, 'evaluation size'),
    ({'drop_rate': 0.25}, 'dropout'),
  ):
    found[0]['measured'] = good | off
    word, why = table_family.verdict(found)
    assert word == 'not borne out'
    assert why == f'These rows differ: f0 ({name}).'


def test_the_family_s_depths_are_blocks_of_the_traced_network():
  assert counts.traced_depths('nfnet_f0') == [1, 2, 6, 3]
  assert counts.traced_depths('nfnet_f0', depths=(2, 1, 12, 1)) == [2, 1, 12, 1]


def test_latency_is_of_the_whole_training_step_at_the_scale(monkeypatch):
  asked = []
  monkeypatch.setattr(
    step_time, 'measure', lambda *a, **kw: asked.append((a, kw))
  )
  for run in ('f0', 'f0_batchnorm@cpu'):
    figure_latency.measure(figure_latency.get_config(run))
  assert [a for a, _ in asked] == [
    ('nfnet_f0', 32, 192, 'bfloat16', 'train'),
    ('nfnet_f0', 4, 96, 'float32', 'train'),
  ]
  assert [kw['overrides'] for _, kw in asked] == [{}, {'normalizer': 'batch'}]


def latency(row, seconds, scale='cpu', clip='none', ema=False):
  spread = dict.fromkeys(('low', 'median', 'high'), seconds)
  hardware = {'device': 'cpu', 'cores': 2, 'cpu': 'x'}
  measured = {'seconds': spread, 'clip': clip, 'ema': ema}
  return {
    'row': row, 'scale': scale, 'hardware': hardware, 'measured': measured,
  }  # fmt: skip


def test_the_latency_verdict_compares_twins():
  pair = [latency('f0', 1.0), latency('f0_batchnorm', 1.5)]
  word, why = figure_latency.verdict(pair)
  assert word == 'borne out' and 'f0 1.50' in why and 'scale cpu' in why
  pair += [latency('nf_resnet_50', 2.0), latency('resnet_50', 1.0)]
  assert figure_latency.verdict(pair)[0] == 'mixed'
  assert figure_latency.verdict(pair[:1])[0] == 'not run'
  pair[0]['measured']['seconds'] = {'low': 0.9, 'median': 1.0, 'high': 1.6}
  word, why = figure_latency.verdict(pair[:2])
  assert word == 'too short to tell' and 'quartiles overlap' in why


def test_the_latency_page_says_what_each_kind_of_row_clips_and_averages(
  tmp_path,
):
  found = [
    latency('f0', 1.0, clip='agc', ema=True),
    latency('f1', 1.0, clip='agc'),
    latency('f0_batchnorm', 1.5),
  ]
  text = figure_latency.report(found, tmp_path)
  assert 'AGC in f0, f1; no clipping in f0_batchnorm.' in text
  assert 'averaged in f0, not in f1, f0_batchnorm;' in text
  text = figure_latency.report(found[1:], tmp_path)
  assert 'no row averages parameters' in text
