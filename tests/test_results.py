"""A run's folder and its loggers."""

import io
import json
import math

import pytest

from nfnets import curves, monitor, results


def test_metrics_of_steps_that_will_be_taken_again_are_dropped(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  log = results.JsonLines(path, last_step=0)
  for step in (10, 20, 30):
    log.log(step, {'train/loss': 1 / step})
  log.close()
  with path.open('a') as file:
    file.write('{"step": 40, "tra')  # torn by a kill
  results.JsonLines(path, last_step=20).close()
  rows = results.RunFolder(tmp_path).read_metrics()
  assert [row['step'] for row in rows] == [10, 20]
  assert rows[1]['train/loss'] == 0.05


def test_nan_and_infinity_are_written_as_valid_json(tmp_path):
  folder = results.RunFolder(tmp_path)
  folder.write_summary({'loss': math.nan, 'norm': -math.inf, 'top_1': 0.5})
  text = (tmp_path / 'summary.json').read_text()
  strict = json.loads(text, parse_constant=lambda name: pytest.fail(name))
  assert strict == {'loss': 'nan', 'norm': '-inf', 'top_1': 0.5}


def test_writing_is_atomic_and_leaves_no_other_file(tmp_path):
  results.write_atomically(tmp_path / 'a', 'one')
  results.write_atomically(tmp_path / 'a', 'two')
  assert [p.name for p in tmp_path.iterdir()] == ['a']
  assert (tmp_path / 'a').read_text() == 'two'


def test_a_config_that_differs_is_refused_with_both_values(tmp_path):
  folder = results.RunFolder(tmp_path)
  folder.check_same_run({'model': {'name': 'a'}})
  folder.write_config({'model': {'name': 'a'}, 'log_every': 1, 'x': (1, 2)})
  folder.check_same_run({'model': {'name': 'a'}, 'log_every': 2, 'x': [1, 2]})
  with pytest.raises(ValueError, match="model.name .'a' there, 'b' here"):
    folder.check_same_run({'model': {'name': 'b'}, 'x': [1, 2]})


def test_off_a_terminal_each_log_is_one_plain_line():
  stream = io.StringIO()
  console = results.Console(100, 0, stream)
  console.log(7, {'train/loss': 0.5, 'train/top_1': 0.25, 'agc/x': 1.0})
  console.log(8, {'agc/x': 1.0})
  console.close()
  assert stream.getvalue() == 'step 7/100  loss 0.5  top_1 25.00 %\n'


def test_on_a_terminal_there_is_a_bar_with_loss_rate_and_time_left():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  console = results.Console(100, 0, Terminal())
  console.log(
    50,
    {
      'train/loss': 0.5,
      'train/images_per_second': 1234.0,
      'train/seconds_left': 75.0,
    },
  )
  task = console._bar.tasks[0]
  console.close()
  assert task.completed == 50
  assert task.fields['metrics'] == 'loss 0.5  1234 images/s  0:01:15 left'


def test_the_meter_averages_between_logs_and_counts_skipped_steps():
  class Config:
    log_every, num_steps, batch_size, observe_every = 2, 4, 8, 0
    stop_after_nonfinite = 2

  meter = monitor.Meter(Config, 0)
  for step, (loss, bad) in enumerate([(1, 0), (3, 0), (5, 1), (7, 1)], 1):
    meter.add(step, {'loss': loss, 'learning_rate': step, 'nonfinite': bad})
  rows = list(meter.due())
  assert [step for step, _ in rows] == [2, 4]
  assert [row['train/loss'] for _, row in rows] == [2, 6]
  assert [row['train/learning_rate'] for _, row in rows] == [2, 4]
  assert [row['train/nonfinite'] for _, row in rows] == [0, 2]
  assert meter.nonfinite_in_a_row == 2 and meter.diverged_at == 4


def test_a_good_step_behind_the_bad_one_does_not_hide_it():
  class Config:
    log_every, num_steps, batch_size, observe_every = 2, 4, 8, 0
    stop_after_nonfinite = 1

  meter = monitor.Meter(Config, 0)
  for step, bad in enumerate([0, 1, 0], 1):
    meter.add(step, {'loss': 1, 'learning_rate': 1, 'nonfinite': bad})
  assert meter.diverged_at == 2


def test_curves_are_drawn_from_metrics_lines(tmp_path):
  rows = [
    {'step': 1, 'train/loss': 2.0, 'train/top_1': 0.1},
    {'step': 2, 'train/loss': 'nan', 'eval/top_1': 0.2},
  ]
  curves.plot(rows, tmp_path / 'curves.png', 'title')
  assert (tmp_path / 'curves.png').stat().st_size > 5000
