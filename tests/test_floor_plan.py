"""Files import in the order of the floor plan, and a run imports few."""

import ast
import pathlib
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A package, or a file directly in nfnets/, imports only what is listed before
# it. Names that are not listed may be imported anywhere.
ORDER = (
  'variants', 'parallel', 'models', 'optim', 'mirror', 'bucket', 'data',
  'workdir', 'metrics', 'loggers', 'plots', 'checkpoint',
  'distributed', 'checks', 'factory', 'step', 'evaluate', 'weights', 'hub',
  'finetune', 'linear_probe', 'train', 'analysis', 'bench', 'plan',
)  # fmt: skip
# The outer ring, and the files of the inner ring that may import weights.
OUTER = ('weights', 'hub', 'analysis', 'bench', 'plan')
MAY_READ_WEIGHTS = ('finetune', 'linear_probe')
FILES = {
  '.'.join(path.relative_to(ROOT / 'nfnets').with_suffix('').parts): path
  for path in sorted((ROOT / 'nfnets').rglob('*.py'))
  if path.parent != ROOT / 'nfnets' or path.stem != '__init__'
}


def imports(path):
  """Dotted names of all modules that a file imports, at the top or later."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      for alias in node.names:
        yield f'{node.module}.{alias.name}'


@pytest.mark.parametrize('name', FILES)
def test_imports_follow_the_order_of_the_floor_plan(name):
  room = name.partition('.')[0]
  for imported in imports(FILES[name]):
    package, _, rest = imported.partition('.')
    other = rest.partition('.')[0]
    if package != 'nfnets' or other == room:
      continue
    if room in ORDER and other in ORDER:
      assert ORDER.index(other) < ORDER.index(room), imported
    if room not in OUTER and other in OUTER:
      assert other == 'weights' and room in MAY_READ_WEIGHTS, imported


def test_only_parallel_uses_pmap_and_only_checkpoint_uses_orbax():
  for name, path in FILES.items():
    text = path.read_text()
    assert name == 'parallel' or 'jax.pmap(' not in text, name
    assert name == 'checkpoint' or 'import orbax' not in text, name


@pytest.mark.parametrize(
  ('folder', 'banned', 'allowed'),
  [
    (
      'nfnets',
      ('absl', 'configs', 'experiments', 'scripts', 'tensorflow'),
      ('absl.logging',),
    ),
    ('configs', ('jax', 'haiku', 'optax', 'nfnets'), ('nfnets.variants',)),
    ('scripts', ('scripts',), ('scripts.common',)),
    ('experiments', ('scripts',), ()),
  ],
)
def test_a_folder_imports_nothing_that_is_banned_there(folder, banned, allowed):
  for path in (ROOT / folder).rglob('*.py'):
    for imported in imports(path):
      is_banned = imported.split('.')[0] in banned
      assert not is_banned or imported in allowed, f'{path.name}: {imported}'


def test_every_package_is_installed():
  text = (ROOT / 'pyproject.toml').read_text()
  listed = tomllib.loads(text)['tool']['setuptools']['packages']
  folders = (ROOT / 'nfnets').rglob('__init__.py')
  assert set(listed) == {
    '.'.join(path.parent.relative_to(ROOT).parts) for path in folders
  }


CLOSURE = """
import sys
import jax, numpy as np
import scripts.train
from configs import {recipe}
from nfnets import train
from nfnets.data import augment
config = {recipe}.get_config()
config.data.name, config.data.num_train = 'digits', 1438
config.data.num_classes, config.batch_size = 10, 32
config, _ = train.complete(config)
train.prepare(config)
size, fresh = config.data.train_image_size, config.augment.pairs == 'fresh'
shape = ((1 + fresh) * 32, size, size, 3)
jax.eval_shape(
  lambda *args: augment.augment(config, *args), jax.random.key(0),
  {{'images': jax.ShapeDtypeStruct(shape, np.uint8),
    'labels': jax.ShapeDtypeStruct(shape[:1], np.int32)}},
)
print(*(name for name in sys.modules if name.split('.')[0] in
        ('configs', 'nfnets', 'scripts')))
"""


@pytest.mark.parametrize('recipe', ['nfnet_f0', 'cifar_resnet20'])
def test_a_run_from_scratch_imports_few_lines_and_no_outer_ring(recipe):
  """All that a run of this recipe imports before it ends (then plots).

  F0's imports 44 modules of 7,715 lines; the rest is room for a fork.
  """
  names = subprocess.run(
    [sys.executable, '-c', CLOSURE.format(recipe=recipe)],
    cwd=ROOT, capture_output=True, text=True, check=True,
  ).stdout.split()  # fmt: skip
  outer = tuple(f'nfnets.{package}' for package in OUTER)
  assert not [name for name in names if name.startswith(outer)]
  paths = [ROOT.joinpath(*name.split('.')) for name in names]
  files = [p / '__init__.py' if p.is_dir() else p.with_suffix('.py')
           for p in paths]  # fmt: skip
  lines = sum(len(f.read_text().splitlines()) for f in files if f.exists())
  assert len(names) <= 50 and lines <= 8500, (len(names), lines)
