"""The table of pods: cells are kept, compiled ones stay."""

import importlib.metadata
import json

import pytest
import tiny

from nfnets import budget, plan, pod_table


def config_of(_):
  config = tiny.config(eval_batch_size=16)
  config.unlock()
  return config


@pytest.fixture
def measured(monkeypatch):
  calls = []

  def measure(config, pod, compiled):
    calls.append((pod.name, config.batch_size, compiled))
    method = 'compiled' if compiled else 'estimated'
    code = 3.0 if compiled else None
    return plan.Program(
      method, 1e9, 2e9, code, 1e12, 1e10, 1e8, 1e9, 60.0 * compiled, True
    )

  monkeypatch.setattr(plan, 'measure', measure)
  return calls


def test_every_cell_holds_32_images_a_core(tmp_path, measured):
  text = pod_table.write(tmp_path, [], config_of, lambda line: None)
  assert {batch for _, batch, _ in measured} == {4096}
  rows = [line for line in text.splitlines() if line.startswith('| cifar')]
  assert len(rows) == 7 * 4
  assert '| 73.3 |' in text and '| 2,774.1 |' in text
  assert (tmp_path / 'pod_plan.md').read_text() == text


def test_what_is_measured_is_kept(tmp_path, measured):
  pod_table.write(tmp_path, [], config_of, lambda line: None)
  measured.clear()
  pod_table.write(tmp_path, [], config_of, lambda line: None)
  assert not measured
  entries = json.loads((tmp_path / 'pod_plan.json').read_text())
  entries['nfnet_f3@v3'] |= {'method': 'compiled'}
  (tmp_path / 'pod_plan.json').write_text(json.dumps(entries))
  pod_table.write(tmp_path, ['nfnet_f3@v3'], config_of, lambda line: None)
  assert not measured


def test_an_unknown_cell_is_refused():
  with pytest.raises(ValueError, match='--compile=nfnet_f9@v3'):
    pod_table.write(None, ['nfnet_f9@v3'], config_of, print)


@pytest.mark.parametrize(
  ('bytes_accessed', 'word'), [(11e9, 'yes'), (12e9, 'no')]
)
def test_the_plain_step_stands_beside_the_published_one(
  bytes_accessed, word, tmp_path, measured, monkeypatch
):
  seen = []

  def measure(config, pod, compiled):
    seen.append((config.batch_size, config.optimizer.clip, config.ema.mode))
    return plan.Program(
      'compiled', 1e9, 1.2e9, 3.0, 1.3e12, bytes_accessed, 0, 0, 60.0, True
    )

  pod_table.write(tmp_path, [], config_of, lambda line: None)
  monkeypatch.setattr(plan, 'measure', measure)
  monkeypatch.setattr(importlib.metadata, 'version', lambda name: '1')
  text = pod_table.write(
    tmp_path, ['plain@v3:2x2'], config_of, lambda line: None
  )
  assert seen == [(8 * 32, 'none', 'none')]
  row = next(line for line in text.splitlines() if line.startswith('| v3:2x2'))
  assert '| 1.318e+12 |' in row and row.endswith(f'| {word} |')


def program(method, fits):
  return plan.Program(method, 1e9, 2e9, None, 1e12, 1e10, 1e8, 1e9, 0.0, fits)


def test_a_row_that_does_not_fit_says_what_makes_it_fit_and_keeps_that(
  tmp_path, monkeypatch
):
  tries = [('micro_batches=2', False), ('model.remat=True', True)]
  asked = []

  def remedies(config, pod, refused, compiled):
    asked.append((pod.name, refused.method, compiled))
    return [
      budget.Remedy(f'--config.{flags}', program('estimated', fits))
      for flags, fits in tries
    ]

  monkeypatch.setattr(budget, 'remedies', remedies)
  monkeypatch.setattr(
    plan,
    'measure',
    lambda config, pod, compiled: program(
      'estimated', pod.name.startswith('v4')
    ),
  )
  text = pod_table.write(tmp_path, [], config_of, lambda line: None)
  assert text.count('no; with `model.remat=True` |') == len(asked)
  assert ('v3:8x8', 'estimated', False) in asked
  assert not any(name.startswith('v4') for name, *_ in asked)
  asked.clear()
  assert text == pod_table.write(tmp_path, [], config_of, lambda line: None)
  assert not asked


def test_f6_is_recomputed_and_its_row_says_so(tmp_path, monkeypatch, measured):
  seen = {}
  whole = plan.measure

  def measure(config, pod, compiled):
    seen[len(measured)] = (config.model.scan, config.model.remat)
    assert config.micro_batches == 1
    return whole(config, pod, compiled)

  monkeypatch.setattr(plan, 'measure', measure)
  text = pod_table.write(tmp_path, [], config_of, lambda line: None)
  rows = [line for line in text.splitlines() if line.startswith('| cifar')]
  assert [', remat |' in row for row in rows] == [False] * 24 + [True] * 4
  assert set(seen.values()) == {(False, False), (True, True)}
  # What was measured with other changes is measured again.
  path = tmp_path / 'pod_plan.json'
  entries = json.loads(path.read_text())
  entries['nfnet_f6_sam@v3']['changes'] = {'model.scan': True}
  path.write_text(json.dumps(entries))
  measured.clear()
  pod_table.write(tmp_path, [], config_of, lambda line: None)
  assert measured == [('v3:8x8', 4096, False)]
