"""A run's folder."""

import errno
import json
import math
import tempfile

import pytest

from nfnets import plots, workdir


def test_nan_and_infinity_are_written_as_valid_json(tmp_path):
  folder = workdir.RunFolder(tmp_path)
  folder.write_summary({'loss': math.nan, 'norm': -math.inf, 'top_1': 0.5})
  text = (tmp_path / 'summary.json').read_text()
  strict = json.loads(text, parse_constant=lambda name: pytest.fail(name))
  assert strict == {'loss': 'nan', 'norm': '-inf', 'top_1': 0.5}


def test_writing_is_atomic_and_leaves_no_other_file(tmp_path):
  workdir.write_atomically(tmp_path / 'a', 'one')
  workdir.write_atomically(tmp_path / 'a', 'two')
  assert [p.name for p in tmp_path.iterdir()] == ['a']
  assert (tmp_path / 'a').read_text() == 'two'


def test_a_config_that_differs_is_refused_with_both_values(tmp_path):
  folder = workdir.RunFolder(tmp_path)
  folder.check_same_run({'model': {'name': 'a'}})
  folder.write_config({'model': {'name': 'a'}, 'log_every': 1, 'x': (1, 2)})
  folder.check_same_run({'model': {'name': 'a'}, 'log_every': 2, 'x': [1, 2]})
  with pytest.raises(ValueError, match="model.name .'a' there, 'b' here"):
    folder.check_same_run({'model': {'name': 'b'}, 'x': [1, 2]})


def test_a_key_that_an_older_run_lacks_counts_only_where_it_is_on(tmp_path):
  folder = workdir.RunFolder(tmp_path)
  folder.write_config({'seed': 0})
  off = {'new': False, 'mode': 'none', 'rate': 0.0, 'names': ()}
  folder.check_same_run({'seed': 0, 'model': off})
  with pytest.raises(ValueError, match='model.rate .None there, 0.1 here'):
    folder.check_same_run({'seed': 0, 'model': off | {'rate': 0.1}})
  with pytest.raises(ValueError, match='seed .0 there, None here'):
    folder.check_same_run({'model': off})


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
  def full(**_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  folder = workdir.RunFolder(tmp_path)
  monkeypatch.setattr(tempfile, 'NamedTemporaryFile', full)
  with pytest.raises(OSError, match=f'{tmp_path} is not writable.*No space'):
    folder.check_writable()


@pytest.mark.parametrize('name', ['config', 'summary', 'metrics'])
def test_a_damaged_file_is_named(name, tmp_path):
  path = tmp_path / ('metrics.jsonl' if name == 'metrics' else f'{name}.json')
  path.write_text('{"step": 1, "tra\n{"step": 2}\n')
  with pytest.raises(ValueError, match=f'{path} is damaged'):
    getattr(workdir.RunFolder(tmp_path), f'read_{name}')()


def test_curves_are_drawn_from_metrics_lines(tmp_path):
  rows = [
    {'step': 1, 'train/loss': 2.0, 'train/top_1': 0.1},
    {'step': 2, 'train/loss': 'nan', 'eval/top_1': 0.2},
  ]
  plots.plot(rows, tmp_path / 'curves.png', 'title')
  assert (tmp_path / 'curves.png').stat().st_size > 5000
