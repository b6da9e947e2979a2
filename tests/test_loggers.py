"""Loggers of metrics."""

import importlib.util
import io
import struct
import subprocess
import sys
from unittest import mock

import pytest
from tensorboardX.proto import event_pb2

from nfnets import loggers, workdir


def test_metrics_of_steps_that_will_be_repeated_are_dropped(tmp_path):
  folder = workdir.RunFolder(tmp_path)
  path = tmp_path / 'metrics.jsonl'
  log = loggers.JsonLines(path)
  for step in (10, 20, 30):
    log.log(step, {'train/loss': 1 / step})
  log.close()
  with path.open('a') as file:
    file.write('{"step": 40, "tra')  # torn by a kill
  loggers.JsonLines(path, folder.read_metrics()[:2]).close()
  rows = folder.read_metrics()
  assert [row['step'] for row in rows] == [10, 20]
  assert rows[1]['train/loss'] == 0.05


def test_tensorboards_file_holds_what_was_logged(tmp_path):
  log = loggers.TensorBoard(tmp_path, last_step=4)
  log.log(5, {'train/loss': 0.5, 'eval/top_1': 0.25})
  (path,) = tmp_path.iterdir()  # a kill may come now
  data, events = path.read_bytes(), []
  while data:  # length, its checksum, the event, its checksum
    (size,) = struct.unpack('<Q', data[:8])
    events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
    data = data[12 + size + 4 :]
  version, start, *logged = events
  assert version.file_version == 'brain.Event:2'
  assert start.step == 5 and start.session_log.status == start.session_log.START
  found = {e.summary.value[0].tag: e.summary.value[0] for e in logged}
  assert {e.step for e in logged} == {5}
  assert found['train/loss'].simple_value == 0.5
  assert found['eval/top_1'].simple_value == 0.25
  log.close()


FULL = """
import pathlib, resource, signal, sys
from nfnets import loggers
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = pathlib.Path(sys.argv[1])
if sys.argv[2] == 'JsonLines':
  log = loggers.JsonLines(path / 'metrics.jsonl')
else:
  log = loggers.TensorBoard(path / 'board', 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
  for step in range(1000):
    log.log(step, {'train/loss': 1.0})
except OSError as error:
  sys.exit(str(error))
"""


@pytest.mark.parametrize(
  ('kind', 'name'), [('TensorBoard', 'board'), ('JsonLines', 'metrics.jsonl')]
)
def test_a_full_disk_ends_the_run_and_names_the_file(kind, name, tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', FULL, str(tmp_path), kind],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 1
  said = f'{tmp_path / name} could not be written: '
  assert said in done.stderr and 'File too large' in done.stderr


def test_without_a_terminal_each_log_is_a_line_with_all_of_the_steps_metrics():
  stream = io.StringIO()
  console = loggers.Console(100, stream)
  row = {'train/loss': 0.5, 'train/top_1': 0.25, 'train/distillation': 3.0}
  console.log(7, row | {'agc/x': 1.0, 'train/step_seconds': 2.0})
  console.log(8, {'agc/x': 1.0})
  console.close()
  shown = 'step 7/100  loss 0.5  top_1 25.00 %  distillation 3\n'
  assert stream.getvalue() == shown


def test_a_closed_console_does_not_end_the_run():
  script = """
import sys
from nfnets import loggers
console = loggers.Console(9)
for step in range(9):
  console.log(step, {'train/loss': 1.0})
print('still here')
sys.exit(3)
"""
  pipe = subprocess.PIPE
  command = [sys.executable, '-c', script]
  process = subprocess.Popen(command, stdout=pipe, stderr=pipe)
  process.stdout.close()
  _, said = process.communicate()
  assert process.returncode == 3 and not said, said


def test_on_a_terminal_a_bar_shows_loss_speed_and_time_left():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  console = loggers.Console(100, Terminal())
  console.start()
  speed = {'train/images_per_second': 1234.0, 'train/seconds_left': 75.0}
  console.log(50, {'train/loss': 0.5} | speed)
  task = console._bar.tasks[0]
  console.close()
  assert task.completed == 50
  assert task.fields['metrics'] == 'loss 0.5  1234 images/s  0:01:15 left'


def test_a_restarted_run_keeps_its_weights_and_biases_id(tmp_path, monkeypatch):
  wandb = mock.MagicMock()
  monkeypatch.setitem(sys.modules, 'wandb', wandb)
  for step in (1, 2):
    sink = loggers.WeightsAndBiases(tmp_path, {'widths': (1, 2)})
    sink.log(step, {'train/loss': 1.0})
    sink.close()
  first, second = (call.kwargs for call in wandb.init.call_args_list)
  assert first == second and len(first.pop('id')) == 8
  assert first == {
    'project': 'nfnets', 'dir': str(tmp_path), 'config': {'widths': [1, 2]},
    'resume': 'allow',
  }  # fmt: skip
  run = wandb.init.return_value
  logged = [mock.call({'train/loss': 1.0}, step=step) for step in (1, 2)]
  assert run.log.call_args_list == logged and run.finish.call_count == 2


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('wandb') is None,
  reason='wandb is not installed: pip install wandb',
)
def test_the_real_wandb_logs_offline(tmp_path, monkeypatch):
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  for step in (1, 2):
    sink = loggers.WeightsAndBiases(tmp_path, {'widths': (1, 2)})
    sink.log(step, {'train/loss': 1.0})
    sink.close()
  kept = (tmp_path / 'wandb_id').read_text()
  assert list(tmp_path.glob(f'wandb/offline-run-*-{kept}/*.wandb'))
