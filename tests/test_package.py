"""What `pip install .` gives."""

import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
import setuptools

from nfnets.weights import certificate, files

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


@pytest.mark.skipif(
  int(setuptools.__version__.partition('.')[0]) < 77,
  reason='pip install setuptools>=77',
)
def test_the_wheel_holds_the_library_alone_with_its_data(tmp_path):
  clone = tmp_path / 'clone'  # a build leaves its folders behind
  ignored = shutil.ignore_patterns('__pycache__', '*.egg-info')
  for name in ('nfnets', 'scripts', 'configs', 'experiments', 'tests'):
    shutil.copytree(ROOT / name, clone / name, ignore=ignored)
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, clone)
  subprocess.run(
    [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps',
     '--no-build-isolation', '--disable-pip-version-check',
     f'--wheel-dir={tmp_path}', clone],
    check=True,
  )  # fmt: skip
  (wheel,) = tmp_path.glob('*.whl')
  names = zipfile.ZipFile(wheel).namelist()
  tops = {name.split('/')[0] for name in names}
  assert {top for top in tops if not top.endswith('.dist-info')} == {'nfnets'}
  sources = {
    path.relative_to(clone).as_posix()
    for path in (clone / 'nfnets').rglob('*')
    if path.is_file()
  }
  assert 'nfnets/py.typed' in sources
  assert sources == {name for name in names if name.startswith('nfnets/')}


def test_a_clone_installs_what_the_package_and_training_need():
  text = (ROOT / 'requirements.txt').read_text()
  listed = {line for line in text.splitlines() if not line.startswith('#')}
  extras = PROJECT['optional-dependencies']
  assert listed == {*PROJECT['dependencies'], *extras['train']}


def test_networks_weights_and_optimizers_need_no_extra(tmp_path):
  extras = PROJECT['optional-dependencies']['train']
  names = {
    'absl-py': 'jax', 'markdown-it-py': 'markdown_it', 'flatbuffers': 'onnx',
    'orbax-checkpoint': 'orbax', 'scikit-learn': 'sklearn',
    'tensorflow-datasets': 'tensorflow_datasets',
  }  # fmt: skip
  blocked = [re.split('[<>=]', extra)[0] for extra in extras]
  blocked = {names.get(name, name) for name in blocked} - {'jax'}
  files.write(
    tmp_path / 'a.safetensors', certificate.random_weights('test_nfnet', 3)
  )
  script = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(blocked)}))  # importing them fails
import numpy as np
import nfnets
net = nfnets.load({str(tmp_path / 'a.safetensors')!r}, image_size=32)
assert net(net.preprocess(np.zeros((9, 9, 3), np.uint8))).shape == (1, 3)
nfnets.create('test_nfnet', 3), nfnets.list_models(pretrained=True)
nfnets.sgd(0.1, clipping=0.01).init(net.params)
"""
  subprocess.run([sys.executable, '-c', script], check=True, cwd=ROOT)
