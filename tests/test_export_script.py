"""The export command: one line of success, one line for each mistake."""

import subprocess
import sys

import golden_lib
import pytest
from absl import flags
from absl.testing import flagsaver

from nfnets import weights
from nfnets.weights import exported, files
from scripts import export

MODULE = [sys.executable, '-m', 'scripts.export']


def call(*arguments):
  return subprocess.run(
    [*MODULE, *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture
def path(tmp_path):
  overrides = {'normalizer': 'nf', 'depths': (1, 1, 1)}
  params = golden_lib.fill(files.shapes('cifar_resnet_20', 5, **overrides)[0])
  kept = weights.Weights(params, {}, 'cifar_resnet_20', 5, overrides)
  weights.write(tmp_path / 'w.safetensors', kept)
  return tmp_path / 'w.safetensors'


def test_the_command_writes_what_was_asked_for(path):
  out = path.with_name('out.zip')
  options = ['--format=stablehlo', '--batch=2', '--image_size=9']
  done = call(f'--weights={path}', *options, '--platforms=cpu', out)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(f'{out}: cifar_resnet_20 as stablehlo, 0.')
  found = exported.load(str(out)).description
  assert found['input']['shape'] == [2, 9, 9, 3]
  assert found['platforms'] == ['cpu']


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['out'], 'name the weights'),
    (['--weights=none.npz'], 'name one file to write'),
    (['--weights=none.npz', 'out'], 'none.npz'),
    (['--weights=none.npz', '--batch=0', 'out'], "or 'any'"),
    (['--weights=none.npz', 'nowhere/out'], 'nowhere: no such folder'),
  ],
)
def test_a_mistake_is_refused_in_a_line(arguments, words, capsys):
  given = [x for x in arguments if x.startswith('--')]
  rest = [x for x in arguments if x not in given]
  with flagsaver.flagsaver():
    flags.FLAGS(['export', *given])
    assert export.main(['export', *rest]) == export.REFUSED
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1
  assert words in error


def test_the_batch_is_a_number_or_any():
  assert export.batch_size('any') is None
  assert export.batch_size('32') == 32
  for text in ('0', '-1', 'many', '2.5', ''):
    with pytest.raises(ValueError, match="from 1 on, or 'any'"):
      export.batch_size(text)
