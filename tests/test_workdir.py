"""A run's folder."""

import errno
import json
import math
import os
import socket
import tempfile

import pytest

from nfnets import workdir


def test_nan_and_infinity_are_written_as_valid_json(tmp_path):
  folder = workdir.RunFolder(tmp_path)
  folder.write_summary({'loss': math.nan, 'norm': -math.inf, 'top_1': 0.5})
  text = (tmp_path / 'summary.json').read_text()
  strict = json.loads(text, parse_constant=lambda name: pytest.fail(name))
  assert strict == {'loss': 'nan', 'norm': '-inf', 'top_1': 0.5}


def test_a_config_that_differs_is_refused_with_both_values(tmp_path):
  folder = workdir.RunFolder(tmp_path)
  (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
  folder.write_config({'model': {'name': 'a'}, 'log_every': 1, 'x': (1, 2)})
  folder.check_same_run({'model': {'name': 'a'}, 'log_every': 2, 'x': [1, 2]})
  with pytest.raises(ValueError, match="model.name .'a' there, 'b' here"):
    folder.check_same_run({'model': {'name': 'b'}, 'x': [1, 2]})


def test_a_key_that_an_older_run_lacks_counts_only_where_it_is_on(tmp_path):
  folder = workdir.RunFolder(tmp_path)
  (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
  folder.write_config({'seed': 0})
  off = {'new': False, 'mode': 'none', 'rate': 0.0, 'names': ()}
  folder.check_same_run({'seed': 0, 'model': off})
  folder.check_same_run({'seed': 0, 'optimizer': {'name': 'sgd'}})
  with pytest.raises(ValueError, match="name .'sgd' there, 'lamb' here"):
    folder.check_same_run({'seed': 0, 'optimizer': {'name': 'lamb'}})
  with pytest.raises(ValueError, match='model.rate .None there, 0.1 here'):
    folder.check_same_run({'seed': 0, 'model': off | {'rate': 0.1}})
  with pytest.raises(ValueError, match='seed .0 there, None here'):
    folder.check_same_run({'model': off})


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
  def full(**_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  folder = workdir.RunFolder(tmp_path)
  monkeypatch.setattr(tempfile, 'TemporaryFile', full)
  with pytest.raises(OSError, match=f'{tmp_path} is not writable.*No space'):
    folder.lock().__enter__()


def test_a_run_in_use_is_refused_naming_host_and_process(tmp_path):
  folder = workdir.RunFolder(tmp_path)
  with folder.lock():
    holder = f'{socket.gethostname()}, process {os.getpid()}'
    with pytest.raises(ValueError, match=f'in use by {holder}'):
      workdir.RunFolder(tmp_path).lock().__enter__()
  with workdir.RunFolder(tmp_path).lock():  # free again
    assert folder.holder() == holder


@pytest.mark.parametrize(
  ('parts', 'other', 'why'),
  [
    ((), True, None),
    (('config',), True, None),  # refused before its first step
    (('config', 'checkpoints'), True, None),
    (('config', 'checkpoints', 'metrics'), False, None),  # killed early
    (('config', 'checkpoints', 'metrics', 'saved'), False, None),
    (('config', 'checkpoints', 'saved'), True, "another config's run"),
    (('checkpoints', 'saved'), False, 'no config.json'),
    (('config', 'metrics'), False, 'checkpoints are gone'),
    (('config', 'checkpoints', 'interrupted'), False, 'checkpoints are gone'),
    (('config', 'metrics', 'finished'), False, None),
    (('config', 'finished'), True, "another config's run"),
  ],
)
def test_a_folder_is_free_or_whole_or_refused(tmp_path, parts, other, why):
  folder = workdir.RunFolder(tmp_path)
  if 'config' in parts:
    folder.write_config({'seed': 1})
  if 'checkpoints' in parts:
    (tmp_path / 'checkpoints').mkdir()
  if 'saved' in parts:
    (tmp_path / 'checkpoints' / '5').mkdir()
  if 'metrics' in parts:
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
  for status in ('interrupted', 'finished'):
    if status in parts:
      folder.write_summary({'status': status, 'step': 7})
  config = {'seed': 2 if other else 1}
  if why is None:
    folder.check_same_run(config)
  else:
    with pytest.raises(ValueError, match=why):
      folder.check_same_run(config)


def test_a_damaged_file_is_named_with_its_line_and_a_summary_made_anew(
  tmp_path,
):
  folder = workdir.RunFolder(tmp_path)
  for text in ('{"a": ', '[]', '\xff'):
    (tmp_path / 'config.json').write_bytes(text.encode('latin1'))
    with pytest.raises(ValueError, match=r'config.json is damaged'):
      folder.read_config()
    (tmp_path / 'summary.json').write_bytes(text.encode('latin1'))
    assert folder.read_summary() is None
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"s\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'line 2 of .*metrics.jsonl is damaged'):
    folder.read_metrics()
