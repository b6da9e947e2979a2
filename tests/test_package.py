"""What `pip install .` gives."""

import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
import setuptools

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
  script = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(blocked)}))  # importing them fails
import jax, numpy as np
import nfnets
from nfnets.hub import Network
nfnets.list_models(pretrained=True), nfnets.load
network = nfnets.create('nf_resnet_50', 3, widths=(64,) * 4, depths=(1,) * 4)
images = np.zeros((1, 32, 32, 3), np.float32)
params, state = network.init(jax.random.key(0), images, False)
nfnets.sgd(0.1, clipping=0.01).init(params)
"""
  subprocess.run([sys.executable, '-c', script], check=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('mypy') is None, reason='pip install mypy'
)
def test_a_type_checker_knows_the_public_names(tmp_path):
  script = """
from typing import assert_type
import haiku as hk
import jax
import numpy as np
import optax
import nfnets
from nfnets.hub import Network

network = nfnets.load('dm_nfnet_f0.dm_in1k', num_classes=10, dtype='bfloat16')
assert_type(network, Network)
images = network.preprocess(['a.jpg', b'', np.zeros((9, 9, 3), np.uint8)])
assert_type(network(images), jax.Array)
assert_type(network.pool(images), jax.Array)
assert_type(network.features(images), dict[int, jax.Array])
assert_type(nfnets.list_models(pretrained=True), list[str])
assert_type(nfnets.create('nfnet_f0', 10), hk.TransformedWithState)
assert_type(nfnets.sgd(0.1, clipping=0.01), optax.GradientTransformation)
assert_type(nfnets.adaptive_grad_clip(0.01), optax.GradientTransformation)
nfnets.sharpness_aware(jax.grad(lambda params: params), 0.05)
"""
  (tmp_path / 'use.py').write_text(script)
  done = subprocess.run(
    [sys.executable, '-m', 'mypy', '--follow-imports=silent',
     '--ignore-missing-imports', f'--cache-dir={tmp_path}',
     tmp_path / 'use.py'],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout
