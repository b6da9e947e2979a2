"""The export command: one line of success, one line for each mistake."""

import pytest
from test_files import small

from nfnets import weights
from nfnets.weights import exported


@pytest.fixture
def path(tmp_path):
  weights.write(tmp_path / 'w.safetensors', small())
  return tmp_path / 'w.safetensors'


def test_the_command_writes_what_was_asked_for(path, run_script):
  out = path.with_name('out.zip')
  options = ['--format=stablehlo', '--batch=2', '--image_size=9']
  options += [f'--weights={path}', '--platforms=cpu', out]
  done = run_script('scripts.export', *options)
  assert done.code == 0, done.stderr
  assert done.stdout.startswith(f'{out}: cifar_resnet_20 as stablehlo, 0.')
  found = exported.load(str(out)).description
  assert found['input']['shape'] == [2, 9, 9, 3]
  assert found['platforms'] == ['cpu']
