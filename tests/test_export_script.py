"""The export command writes what was asked for."""

from test_files import small

from nfnets import weights
from nfnets.weights import exported


def test_the_command_writes_what_was_asked_for(tmp_path, run_script):
  path, out = tmp_path / 'w.safetensors', tmp_path / 'out.zip'
  weights.write(path, small())
  options = ['--format=stablehlo', '--batch=2', '--image_size=9']
  options += [f'--weights={path}', '--platforms=cpu', out]
  done = run_script('scripts.export', *options)
  assert done.code == 0, done.stderr
  assert done.stdout.startswith(f'{out}: cifar_resnet_20 as stablehlo, 0.')
  found = exported.load(str(out)).description
  assert found['input']['shape'] == [2, 9, 9, 3]
  assert found['platforms'] == ['cpu']
