"""A file of nfnets/ imports only from floors below its own."""

import ast
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Within a package the steps after the point are rungs of one floor.
FLOORS = {
  -1.0: 'loops stacks compiler_words models.onednn models.plain_convolution',
  -0.8: 'models.cpu_convolution',
  -0.5: 'models.cpu_library',
  0.0: """variants chips host_memory parallel places losses results curves
    traffic models.activations models.convolution models.standardization
    optim.agc optim.sam optim.ema optim.schedules
    data.sources data.mixing data.image_ops data.crops data.decode
    pages.markdown pages.pictures pages.style""",
  0.5: """pods loggers watch records optim.groups data.randaugment
    data.reader models.layers""",
  0.7: 'pages.facts pages.page distributed guard',
  0.8: 'pages monitor',
  1.0: 'optim.chain optim.observe data.pipeline data.augment',
  1.2: 'data.on_device optim.audit',
  1.4: 'models.kit models.stages',
  1.8: 'optim data',
  2.0: """models.nfnet models.nf_resnet models.nf_regnet models.resnet
    models.cifar_resnet models.fixup_resnet""",
  2.5: 'models.skipinit_resnet',
  3.0: 'models',
  4.0: """weights.match weights.inert weights.imagenet analysis.gamma
    analysis.counts analysis.golden analysis.rules weights.exported
    weights.onnx_graph analysis.abstract""",
  4.1: 'weights.restricted weights.onnx_rules analysis.signal analysis.tables',
  4.2: 'weights.torch_file weights.files',
  4.3: 'weights.timm weights.folding weights.pictures',
  4.4: 'weights.certificate weights.export',
  4.8: 'weights analysis',
  5.0: 'step checkpoint recipe',
  5.5: 'analysis.numerics analysis.cost',
  5.6: 'bench.clock bench.report analysis.batchnorm',
  5.7: 'bench.peer bench.verdict bench.speed',
  5.8: 'bench.host bench.device bench.programs',
  5.85: 'bench.step_time bench.published',
  5.9: 'bench.versus bench.deploy bench.gate',
  6.0: 'evaluate plan bench.input',
  6.1: 'budget bench.gpu_program',
  6.15: 'pod_page',
  6.2: 'pretrained pod_table',
  6.4: 'finetune preflight',
  6.5: 'run probe',
  6.6: 'instruments',
  6.8: 'bench',
  7.0: 'train',
  7.5: 'bench.loop',
}
FLOOR = {name: f for f, names in FLOORS.items() for name in names.split()}
FILES = sorted((ROOT / 'nfnets').rglob('*.py'))


def module_name(path):
  parts = path.relative_to(ROOT / 'nfnets').with_suffix('').parts
  return '.'.join(part for part in parts if part != '__init__')


def imports(path):
  """Every module that a file imports, wherever in it, as dotted names."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        is_module = whole.removeprefix('nfnets.') in FLOOR
        yield whole if is_module else node.module


@pytest.mark.parametrize('path', FILES, ids=module_name)
def test_imports_come_from_floors_below(path):
  name = module_name(path)
  if not name:
    return
  assert name in FLOOR, f'{name} has no floor: add it to the plan'
  for imported in imports(path):
    if imported.startswith('nfnets.'):
      below = imported.removeprefix('nfnets.')
      assert FLOOR[below] < FLOOR[name], f'{name} imports {below}'


def test_every_floor_plan_entry_is_there_or_planned():
  there = {module_name(path) for path in FILES}
  assert set(FLOOR) - there <= {'plan'}


@pytest.mark.parametrize('path', FILES, ids=module_name)
def test_nfnets_has_no_flags_and_no_dead_packages(path):
  banned = {
    'absl.app', 'absl.flags', 'clu', 'dill', 'jaxline', 'tensorflow',
    'tensorflow_addons', 'tensorflow_probability', 'tree', 'chex', 'configs',
    'experiments', 'scripts',
  }  # fmt: skip
  for imported in imports(path):
    assert imported not in banned and imported.split('.')[0] not in banned


def test_only_parallel_knows_pmap_and_only_checkpoint_knows_orbax():
  for path in FILES:
    text = path.read_text()
    name = module_name(path)
    assert name == 'parallel' or 'jax.pmap(' not in text, name
    assert name == 'checkpoint' or 'import orbax' not in text, name


def test_configs_import_no_jax():
  for path in (ROOT / 'configs').glob('*.py'):
    for imported in imports(path):
      top = imported.split('.')[0]
      assert top in ('configs', 'ml_collections', 'typing', 'collections') or (
        imported in ('nfnets', 'nfnets.variants')
      ), f'{path.name} imports {imported}'


def test_scripts_never_import_each_other():
  for path in (ROOT / 'scripts').glob('*.py'):
    for imported in imports(path):
      assert imported.split('.')[0] != 'scripts', f'{path.name}: {imported}'


def test_experiments_import_configs_and_in_report_only_plotting():
  allowed = {
    'configs', 'ml_collections', 'pandas', 'matplotlib', 'sklearn', 'numpy',
    'experiments', 'nfnets', 'math', 'pathlib', 'json', 'functools', 'typing',
    'collections', 'itertools', 'dataclasses', 'statistics', 'textwrap',
  }  # fmt: skip
  for path in (ROOT / 'experiments').glob('*.py'):
    for imported in imports(path):
      assert imported.split('.')[0] in allowed, f'{path.name}: {imported}'


def test_every_package_is_installed():
  text = (ROOT / 'pyproject.toml').read_text()
  listed = tomllib.loads(text)['tool']['setuptools']['packages']
  folders = {path.parent for path in FILES if path.name == '__init__.py'}
  assert set(listed) == {
    '.'.join(folder.relative_to(ROOT).parts) for folder in folders
  }
