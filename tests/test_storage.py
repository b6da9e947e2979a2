"""Runs in emulated storage: Google's and Amazon's interfaces, on localhost."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import crew
import portpicker
import pytest

from nfnets import train, workdir

SERVERS = {
  'gs': ('gcsfs', 'gcp_storage_emulator'),
  's3': ('s3fs', 'moto'),
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module', params=SERVERS)
def storage(request):
  """A scheme, and environment variables that lead it to a local server."""
  scheme = request.param
  for package in SERVERS[scheme]:
    if importlib.util.find_spec(package) is None:
      pytest.skip(f"pip install -e '.[slow,gcs,s3]' for {package}")
  port = str(portpicker.pick_unused_port())
  url = f'http://127.0.0.1:{port}'
  command, env = {
    'gs': (
      ['gcp_storage_emulator', 'start', '--host=127.0.0.1', f'--port={port}',
       '--in-memory', '--default-bucket=bucket'],
      {'STORAGE_EMULATOR_HOST': url,
       'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false'},
    ),
    's3': (
      ['moto.server', '-H', '127.0.0.1', '-p', port],
      {'AWS_ENDPOINT_URL': url, 'AWS_ACCESS_KEY_ID': 'none',
       'AWS_SECRET_ACCESS_KEY': 'none', 'AWS_DEFAULT_REGION': 'us-east-1'},
    ),
  }[scheme]  # fmt: skip
  server = subprocess.Popen(
    [sys.executable, '-m', *command],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    for _ in range(300):
      try:
        urllib.request.urlopen(url, timeout=1)
        break
      except urllib.error.HTTPError:
        break
      except OSError:
        time.sleep(0.1)
    if scheme == 's3':
      request = urllib.request.Request(f'{url}/bucket', method='PUT')
      urllib.request.urlopen(request)
    yield scheme, env
  finally:
    server.kill()
    server.wait()


def run(storage, name, count=1, kill_at=-2):
  """Runs processes to their end; returns their exit codes and outputs."""
  scheme, env = storage
  url = f'{scheme}://bucket/runs/{name}'
  processes = crew.start(count, url, 'in_bucket', KILL_AT=str(kill_at), **env)
  return crew.finish(processes)


@pytest.fixture
def names(storage, monkeypatch):
  """A function that lists the objects of a run."""
  scheme, env = storage
  for key, value in env.items():
    monkeypatch.setenv(key, value)
  script = (
    'import fsspec, json, sys; fs, root = fsspec.core.url_to_fs(sys.argv[1]);'
    'print(json.dumps([n[len(root) + 1:] for n in fs.find(root)]))'
  )

  def listed(name):
    done = subprocess.run(
      [sys.executable, '-c', script, f'{scheme}://bucket/runs/{name}'],
      check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout)

  return listed


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The losses of the same run in a local folder."""
  folder = tmp_path_factory.mktemp('whole')
  train.train_and_evaluate(crew.bucket_config(), folder)
  return losses(folder)


def losses(folder):
  rows = workdir.RunFolder(folder).read_metrics()
  return {r['step']: r['train/loss'] for r in rows if 'train/loss' in r}


def commits(names):
  return sorted(
    int(name.split('/')[1]) for name in names if name.endswith('/uploaded')
  )


def test_a_run_killed_during_an_upload_resumes_and_commands_read_it(
  storage, names, whole, tmp_path, run_script
):
  (code,), said = run(storage, 'killed', kill_at=17)
  assert code == -signal.SIGKILL, said
  torn = {n.split('/')[1] for n in names('killed') if 'checkpoints/' in n}
  saved = commits(names('killed'))
  assert saved and set(map(str, saved)) < torn  # one is there in part
  (code,), (said,) = run(storage, 'killed')
  assert code == 0 and 'restoring the newest checkpoint' in said, said
  assert 'has no lock: start one run at a time' in said
  assert commits(names('killed')) == [9, 12]
  assert not {n.split('/')[1] for n in names('killed') if 'points/' in n} - {
    '9',
    '12',
  }
  url, env = f'{storage[0]}://bucket/runs/killed', storage[1]
  options = {'process': True, 'env': env}
  done = run_script('scripts.evaluate', f'--workdir={url}', **options)
  assert done.code == 0 and 'top-1' in done.stdout, done
  file = tmp_path / 'out.safetensors'
  done = run_script('scripts.convert', url, file, **options)
  assert done.code == 0 and file.exists(), done
  code = (
    'import sys, shutil; from nfnets import bucket\n'
    'with bucket.fetched(sys.argv[1]) as path: '
    'shutil.copytree(path, sys.argv[2])'
  )
  subprocess.run(
    [sys.executable, '-c', code, url, tmp_path / 'run'],
    check=True, env=os.environ | env,
  )  # fmt: skip
  assert losses(tmp_path / 'run') == pytest.approx(whole, rel=1e-4)


def test_of_two_processes_the_first_uploads_the_run(storage, names):
  codes, _ = run(storage, 'two', count=2, kill_at=17)
  assert codes[0] == -signal.SIGKILL and codes[1] != 0
  saved = commits(names('two'))
  assert saved and max(saved) < 12
  codes, said = run(storage, 'two', count=2)
  assert codes == [0, 0], said
  assert commits(names('two')) == [9, 12]
