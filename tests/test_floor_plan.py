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
  'workdir', 'metrics', 'loggers', 'plots', 'checkpoint', 'distributed', 'step',
  'checks', 'factory', 'evaluate', 'weights', 'hub', 'finetune', 'linear_probe',
  'train', 'analysis', 'bench', 'plan',
)  # fmt: skip
# The outer ring, and the files of the inner ring that may import weights.
OUTER = ('weights', 'hub', 'analysis', 'bench', 'plan')
MAY_READ_WEIGHTS = ('finetune', 'linear_probe', '')
FILES = sorted((ROOT / 'nfnets').rglob('*.py'))


def module_name(path):
  parts = path.relative_to(ROOT / 'nfnets').with_suffix('').parts
  return '.'.join(part for part in parts if part != '__init__')


def imports(path):
  """Dotted names of all modules that a file imports, at the top or later."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      for alias in node.names:
        yield f'{node.module}.{alias.name}'


@pytest.mark.parametrize('path', FILES, ids=module_name)
def test_imports_follow_the_order_of_the_floor_plan(path):
  room = module_name(path).partition('.')[0]
  for imported in imports(path):
    package, _, rest = imported.partition('.')
    if package != 'nfnets' or room not in ORDER:
      continue
    other = rest.partition('.')[0]
    if other in ORDER and other != room:
      assert ORDER.index(other) < ORDER.index(room), f'{path}: {imported}'


@pytest.mark.parametrize('path', FILES, ids=module_name)
def test_the_inner_ring_imports_of_the_outer_only_weights_where_it_must(path):
  room = module_name(path).partition('.')[0]
  for imported in imports(path):
    other = imported.removeprefix('nfnets.').partition('.')[0]
    if imported.startswith('nfnets.') and room not in OUTER and other in OUTER:
      known = [('weights', r) for r in MAY_READ_WEIGHTS] + [('hub', '')]
      assert (other, room) in known, path


@pytest.mark.parametrize('path', FILES, ids=module_name)
def test_nfnets_has_no_flags_and_no_dead_packages(path):
  banned = {
    'absl.app', 'absl.flags', 'clu', 'dill', 'jaxline', 'tensorflow',
    'tensorflow_addons', 'tensorflow_probability', 'tree', 'chex', 'configs',
    'experiments', 'scripts',
  }  # fmt: skip
  for imported in imports(path):
    assert imported not in banned and imported.split('.')[0] not in banned


def test_only_parallel_uses_pmap_and_only_checkpoint_uses_orbax():
  for path in FILES:
    text = path.read_text()
    name = module_name(path)
    assert name == 'parallel' or 'jax.pmap(' not in text, name
    assert name == 'checkpoint' or 'import orbax' not in text, name


def test_configs_import_no_jax():
  for path in (ROOT / 'configs').glob('*.py'):
    for imported in imports(path):
      top = imported.split('.')[0]
      known = ('configs', 'ml_collections', 'typing', 'collections')
      assert top in (*known, 'functools') or (
        imported in ('nfnets', 'nfnets.variants')
      ), f'{path.name} imports {imported}'


def test_scripts_import_no_other_script():
  for path in (ROOT / 'scripts').glob('*.py'):
    for imported in imports(path):
      is_script = imported.split('.')[0] == 'scripts'
      assert not is_script or imported == 'scripts.common', path.name


def test_experiments_import_no_script():
  for path in (ROOT / 'experiments').glob('*.py'):
    for imported in imports(path):
      assert imported.split('.')[0] != 'scripts', f'{path.name}: {imported}'


def test_every_package_is_installed():
  text = (ROOT / 'pyproject.toml').read_text()
  listed = tomllib.loads(text)['tool']['setuptools']['packages']
  folders = (ROOT / 'nfnets').rglob('__init__.py')
  assert set(listed) == {
    '.'.join(path.parent.relative_to(ROOT).parts) for path in folders
  }


def test_a_run_from_scratch_imports_few_modules_and_no_outer_ring():
  script = (
    'import sys, configs.nfnet_f0, nfnets.train, scripts.train\n'
    "print(*(name for name in sys.modules if name.split('.')[0] in "
    "('configs', 'nfnets', 'scripts')))"
  )
  names = subprocess.run(
    [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True,
    check=True,
  ).stdout.split()  # fmt: skip
  assert len(names) <= 50
  outer = tuple(f'nfnets.{package}' for package in OUTER)
  assert not [name for name in names if name.startswith(outer)]
