"""A run's folder."""

import json
import math
import os
import socket

import pytest

from configs import base
from nfnets import workdir


def run_folder(path, config):
  """A folder of a run of that config, with a checkpoint."""
  folder = workdir.RunFolder(path)
  folder.write_config(config)
  (path / 'checkpoints' / '5').mkdir(parents=True)
  (path / 'metrics.jsonl').touch()
  return folder


def test_nan_and_infinity_are_written_as_valid_json(tmp_path):
  folder = workdir.RunFolder(tmp_path)
  folder.write_summary({'loss': math.nan, 'norm': -math.inf, 'top_1': 0.5})
  text = (tmp_path / 'summary.json').read_text()
  strict = json.loads(text, parse_constant=lambda name: pytest.fail(name))
  assert strict == {'loss': 'nan', 'norm': '-inf', 'top_1': 0.5}


def test_a_differing_config_is_refused_with_both_values(tmp_path):
  config = {'model': {'name': 'a'}, 'log_every': 1, 'x': (1, 2)}
  folder = run_folder(tmp_path, config)
  folder.check_same_run(config | {'log_every': 2, 'x': [1, 2]})
  with pytest.raises(ValueError, match="model.name .'a' there, 'b' here"):
    folder.check_same_run(config | {'model': {'name': 'b'}})


def test_a_key_that_an_older_run_lacks_counts_as_its_default(tmp_path):
  defaults = base.defaults()
  there = defaults | {'optimizer': dict(defaults['optimizer']), 'gone': 1}
  del there['optimizer']['name'], there['probe_l2']
  folder = run_folder(tmp_path, there)
  folder.check_same_run(defaults, defaults)
  lamb = defaults | {'optimizer': defaults['optimizer'] | {'name': 'lamb'}}
  with pytest.raises(ValueError, match="name .'sgd' there, 'lamb' here"):
    folder.check_same_run(lamb, defaults)
  with pytest.raises(ValueError, match='probe_l2 .0.0 there, 0.1 here'):
    folder.check_same_run(defaults | {'probe_l2': 0.1}, defaults)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'lock').symlink_to('/dev/full')
  with pytest.raises(OSError, match=f'{tmp_path}/lock could not be written'):
    workdir.RunFolder(tmp_path).lock().__enter__()


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
    (('config', 'checkpoints', 'saved'), False, 'no metrics.jsonl'),
    (('checkpoints', 'saved'), False, 'no config.json'),
    (('config', 'metrics'), False, 'checkpoints are gone'),
    (('config', 'checkpoints', 'interrupted'), False, 'checkpoints are gone'),
    (('config', 'checkpoints', 'later'), False, 'checkpoints are gone'),
    (('config', 'checkpoints', 'later', 'torn'), False, None),
    (
      ('config', 'checkpoints', 'later', 'early'),
      False,
      'checkpoints are gone',
    ),
    (('probe', 'metrics'), False, None),
    (('config', 'metrics', 'finished'), False, None),
    (('config', 'finished'), True, "another config's run"),
  ],
)
def test_a_folder_is_usable_or_refused(tmp_path, parts, other, why):
  folder = workdir.RunFolder(tmp_path)
  if 'config' in parts:
    folder.write_config({'seed': 1, 'checkpoint_every': 5, 'num_steps': 7})
  if 'probe' in parts:
    folder.write_config({'seed': 1, 'checkpoint_every': 5, 'probe': True})
  if 'checkpoints' in parts:
    (tmp_path / 'checkpoints').mkdir()
  if 'saved' in parts:
    (tmp_path / 'checkpoints' / '5').mkdir()
  if 'metrics' in parts:
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
  if 'later' in parts:
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"step": 6}\n')
  if 'torn' in parts:
    (tmp_path / 'checkpoints' / '5.orbax-checkpoint-tmp').mkdir()
  if 'early' in parts:
    folder.write_summary({'status': 'finished', 'step': 6})
  for status in ('interrupted', 'finished'):
    if status in parts:
      folder.write_summary({'status': status, 'step': 7})
  config = {'seed': 2 if other else 1}
  if why is None:
    folder.check_same_run(config)
  else:
    with pytest.raises(ValueError, match=why):
      folder.check_same_run(config)


@pytest.mark.parametrize(
  'status, says',
  [
    ('finished', 'test accuracy 12.5 %'),
    ('interrupted', 'test accuracy 12.5 % at step 31'),
  ],
)
def test_the_accuracy_of_an_unfinished_run_names_its_step(
  tmp_path, status, says
):
  row = '{"step": 31, "eval/top_1": 0.125}\n{"step": 40, "train/loss": 1.0}\n'
  (tmp_path / 'metrics.jsonl').write_text(row)
  summary = {'status': status, 'step': 42, 'eval/top_1': 0.125}
  assert next(workdir.RunFolder(tmp_path).results(summary)) == says


def test_a_damaged_file_is_refused_with_its_line_but_a_summary_is_replaced(
  tmp_path,
):
  folder = workdir.RunFolder(tmp_path)
  for text in ('{"a": ', '[]', '\xff'):
    (tmp_path / 'config.json').write_bytes(text.encode('latin1'))
    with pytest.raises(ValueError, match=r'config.json is damaged'):
      folder.read_config()
    (tmp_path / 'summary.json').write_bytes(text.encode('latin1'))
    assert folder.read_summary() is None
  for summary in (
    {'status': 'interrupted'},
    {'status': 'finished', 'step': 'x'},
    {'status': 'finished', 'step': 1, 'eval/top_1': 'x'},
  ):
    folder.write_summary(summary)
    assert folder.read_summary() is None
  good = '{"step": 1, "eval/loss": "nan"}\n'
  for line in (
    '{"s',
    '{}',
    '{"step": "x"}',
    '{"step": 2, "eval/top_1": "abc"}',
  ):
    (tmp_path / 'metrics.jsonl').write_text(f'{good}{line}\n{good}')
    with pytest.raises(ValueError, match='line 2 of .*metrics.jsonl is damag'):
      folder.read_metrics()
  folder.write_config({})
  with pytest.raises(ValueError, match='config.json is damaged .no model.name'):
    folder.require_config()
