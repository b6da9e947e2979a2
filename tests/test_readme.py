"""Every command and every snippet of the README runs, as it stands there.

Training takes one or two steps, on tiny data sets laid out like the real ones;
a tiny network stands in for the published weights of NFNet-F0.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import tiny
import tiny_tfds

from nfnets import weights
from nfnets.data import sources
from nfnets.weights import certificate, files, pretrained

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
INSTALL, *BLOCKS = re.findall(r'```bash\n(.*?)```', README, re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
SHORT = '--config.num_steps=1 --config.schedule.warmup_steps=0 '
CIFAR = SHORT + '--config.batch_size=8 --config.data.num_train=24 '
IMAGENET = SHORT + (
  '--config.batch_size=4 --config.data.num_train=24 '
  '--config.eval_batch_size=4 --config.data.train_image_size=32 '
  '--config.data.eval_image_size=32 --config.data.num_threads=1 '
  '--config.model.depths=1,1,1,1 '
)
# Flags that make a command short, by a part of it; the others run unchanged.
FLAGS = {
  'finetune.py --': '--config.num_steps=2 --config.batch_size=4 '
  '--config.schedule.warmup_steps=1 ',
  '--workdir=runs/f0': IMAGENET,
  'runs/f0_folder': '--config.data.num_classes=2 ',
  'scripts.plan': '--images_per_core=900 --config.model.depths=1,1,1,1 ',
  'cifar_resnet20': CIFAR,
  'experiment run': CIFAR,
  'experiment measure': '--only=f0 ',
}
FAST = ('prepare_data', 'experiment measure', 'scripts.launch')


@pytest.fixture(scope='module')
def workspace(tmp_path_factory):
  """A checkout with data sets beside it, as a user would have."""
  path = tmp_path_factory.mktemp('workspace')
  for entry in ['nfnets', 'configs', 'scripts', 'examples', 'experiments']:
    (path / entry).symlink_to(ROOT / entry)
  splits = {'train': 24, 'test': 8}
  tiny_tfds.write(
    path / 'data', 'cifar10', splits, classes=10, version='3.0.2',
    form='tfrecord',
  )  # fmt: skip
  splits = {'train': 24, 'validation': 8}
  tiny_tfds.write(
    path / 'data', 'imagenet2012', splits, classes=1000, version='5.1.0',
    form='tfrecord',
  )  # fmt: skip
  for split, count in (('train', 12), ('val', 4)):
    for name in ('n01440764', 'n01443537'):
      folder = path / 'ILSVRC2012' / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        file = folder / f'{name}_{i}.JPEG'
        file.write_bytes(tiny_tfds.jpeg(i, 40, 50))
  for name, first in (('cat', 0), ('dog', 20)):
    (path / 'PHOTOS' / name).mkdir(parents=True)
    for i in range(5):
      photo = tiny_tfds.jpeg(first + i, 60, 80)
      (path / 'PHOTOS' / name / f'{i}.jpg').write_bytes(photo)
  for label in range(8):
    (path / 'IMAGENET_V2' / str(label)).mkdir(parents=True)
    picture = tiny_tfds.jpeg(label, 40, 50)
    (path / 'IMAGENET_V2' / str(label) / f'{label}.jpeg').write_bytes(picture)
  known = sources.create('imagenet_v2', 'test', path / 'IMAGENET_V2')
  labels = path / 'data' / 'imagenet2012' / '5.1.0' / 'label.labels.txt'
  labels.write_text('\n'.join(known.class_names) + '\n')
  write_weights(path / 'tiny.npz')
  (path / 'PHOTO.jpg').write_bytes(tiny_tfds.jpeg(20, 60, 80))
  return path


def write_weights(path):
  """Writes a tiny network of ten classes."""
  config = tiny.config()
  _, _, state = tiny.network_and_state(config)
  overrides = config.model.to_dict()
  name = overrides.pop('name')
  data = {'eval_image_size': 8}
  files.write(path, files.Weights(state.params, {}, name, 10, overrides, data))


def call(workspace, command):
  """Runs a command; `python` is this one, and F0's weights are tiny."""
  command = command.replace('weights=nfnet_f0', 'weights=tiny.npz')
  words = shlex.split(command)
  if words[0] == 'python':
    words[0] = sys.executable
  is_shell = words[0].startswith('./')
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  if not is_shell:  # tiny networks, where compilation is all
    environment['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
  done = subprocess.run(
    words,
    cwd=ROOT if is_shell else workspace,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
  return done.stdout


def shortened(command):
  return f'{command} ' + ''.join(
    FLAGS[part] for part in FLAGS if part in command
  )


def having(part):
  (command,) = [command for command in COMMANDS if part in command]
  return command


def test_the_install_commands_name_extras_of_this_package():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  given = re.findall(r"^pip install -e '\.\[(.*?)\]'", INSTALL, re.M)
  named = {extra for extras in given for extra in extras.split(',')}
  assert len(given) == 3 and named <= set(project['optional-dependencies'])


def test_the_five_lines_of_python_run(workspace):
  kept = certificate.random_weights('test_nfnet')
  data = {'eval_image_size': 32}
  files.write(workspace / 'F0.safetensors', kept._replace(data=data))
  code, _ = re.findall(r'```python\n(.*?)```', README, re.S)
  code = code.replace("'nfnet_f0'", "'F0.safetensors'")
  code += '\nassert set(maps) == {2, 4, 8, 16, 32}'
  said = call(workspace, f'python -c {shlex.quote(code)}')
  assert said.strip() in weights.imagenet_classes()


def test_agc_sam_and_wsconv2d_train_in_your_own_code(workspace):
  """Its loss falls, and the clipped step of a gain is within lambda."""
  _, code = re.findall(r'```python\n(.*?)```', README, re.S)
  code += """
batch = {'images': jax.random.normal(jax.random.key(0), (20, 8, 8, 3)),
         'targets': jax.nn.one_hot(jax.numpy.arange(20) % 10, 10)}
params = network.init(jax.random.key(1), batch['images'])
grads, _ = grad_fn(params, {}, None, batch)
clipped, _ = clip.update(grads, clip.init(params), params)
norms = [optax.global_norm(tree['ws_conv2_d']['gain'])
         for tree in (clipped, params)]
assert 0 < norms[0] <= 0.0101 * norms[1], norms
assert (clipped['linear']['w'] == grads['linear']['w']).all()
opt_state, losses = optimizer.init(params), []
for _ in range(10):
  grads, (metrics, _) = grad_fn(params, {}, None, batch)
  updates, opt_state = optimizer.update(grads, opt_state, params)
  params = optax.apply_updates(params, updates)
  losses.append(metrics['loss'])
assert losses[-1] < losses[0], losses
"""
  call(workspace, f'python -c {shlex.quote(code)}')


@pytest.mark.parametrize(
  'command', [c for c in COMMANDS if any(part in c for part in FAST)]
)
def test_quick_commands_run(workspace, command):
  assert call(workspace, shortened(command))


def test_ten_photographs_of_two_classes_get_a_new_head(workspace):
  said = call(workspace, having('finetune.py:probe'))
  assert '2 classes, 8 pictures to train on, 2 to test on' in said
  assert re.search(r'^test accuracy \d+\.\d %$', said, re.M)
  found = pretrained.load(workspace / 'runs' / 'probe' / 'probe.safetensors')
  assert found.data['class_names'] == ['cat', 'dog']


@pytest.mark.parametrize(
  ('flag', 'steps', 'learning_rate'),
  [
    ('--config.micro_batches=16', 112602, 1.6),
    ('--config.batch_size=1024', 450410, 0.4),
  ],
)
def test_on_one_gpu_the_schedule_follows_the_batch_size(
  workspace, flag, steps, learning_rate
):
  """1,281,167 images for 360 epochs; 0.1 per 256 images (paper A, A.1)."""
  config = json.loads(call(workspace, having(flag)))
  assert config['batch_size'] / config['micro_batches'] == 256
  assert config['num_steps'] == steps
  assert config['learning_rate'] == pytest.approx(learning_rate)


@pytest.mark.slow
def test_training_evaluation_and_prediction_commands_run_in_order(workspace):
  assert all(part in README for part in FLAGS)
  for command in COMMANDS:
    if command.startswith('./') or '--print_config' in command:
      continue
    said = call(workspace, shortened(command))
    if 'scripts.train --' in command:
      assert re.search(r'^test accuracy \d+\.\d %$', said, re.M)
    if 'finetune.py --' in command:
      assert 'head: new' in said
    if 'predict' in command:
      assert 'PHOTO.jpg' in said


@pytest.mark.slow
def test_quickstart_reaches_97_percent_and_can_be_repeated(tmp_path):
  command = f'./scripts/quickstart.sh {tmp_path / "run"}'
  said = call(None, command)
  accuracy = re.search(r'^test accuracy (\d+\.\d) %$', said, re.M)
  assert float(accuracy[1]) >= 97
  assert str(tmp_path / 'run') in said.splitlines()[-1]
  assert (tmp_path / 'run' / 'curves.png').exists()
  assert f'test accuracy {accuracy[1]} %' in call(None, command)


@pytest.mark.slow
def test_the_test_command_lints_and_collects():
  said = call(None, './scripts/test.sh --collect-only -n 0')
  assert 'All checks passed!' in said and 'tests collected' in said
