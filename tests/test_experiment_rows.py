"""Every experiment's rows: they resolve, build at full size, and train."""

import importlib
import inspect
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from nfnets import factory, parallel, records, step, train

FOLDER = pathlib.Path(__file__).parents[1] / 'experiments'
MODULES = {
  path.stem: importlib.import_module(f'experiments.{path.stem}')
  for path in sorted(FOLDER.glob('[!_]*.py'))
}
TRAINED = {k: m for k, m in MODULES.items() if hasattr(m, 'SEEDS')}
SCALES = {
  name: getattr(module, 'SCALES', {records.FULL: {'note': '', 'overrides': {}}})
  for name, module in MODULES.items()
}
ROWS = [(name, row) for name, module in TRAINED.items() for row in module.RUNS]
SCALED = [
  (name, records.run_of(row, scale))
  for name, module in TRAINED.items()
  for scale, spec in SCALES[name].items()
  for row in spec.get('rows', module.RUNS)
]


@pytest.mark.parametrize('name', MODULES)
def test_an_experiment_says_what_it_claims_and_gives_a_known_verdict(name):
  from experiments import _study

  module = MODULES[name]
  assert module.TITLE and module.CLAIM.endswith('.') and module.RUNS
  word, why = module.verdict([])
  assert word == 'not run' and why
  assert word in _study.VERDICTS
  assert list(inspect.signature(module.report).parameters) == [
    'records',
    'folder',
  ]


@pytest.mark.parametrize('name', MODULES)
def test_published_numbers_belong_to_rows_and_carry_a_trust_tag(name):
  from experiments import _trust

  module = MODULES[name]
  if not hasattr(module, 'cost'):
    return
  assert set(module.PAPER) <= set(module.RUNS)
  assert {entry[1] for entry in module.PAPER.values()} <= set(_trust.TRUST)
  assert all(0 < module.cost(row) < 1e4 for row in module.RUNS)


@pytest.mark.parametrize('name', TRAINED)
def test_every_row_of_every_scale_resolves(name):
  module = TRAINED[name]
  assert set(SCALES[name]) >= {records.FULL}
  for scaled_name, run in SCALED:
    if scaled_name == name:
      config = module.get_config(run)
      assert config.is_locked
      config = config.copy_and_resolve_references()
      factory.check(config, 1, 1)
      factory.network_of(config)
  with pytest.raises((ValueError, KeyError)):
    module.get_config('no such row')


def shallow(config):
  """The recipe with two blocks a stage: the others are like the second.

  `test_configs` builds the networks in their whole depth.
  """
  with config.unlocked():
    config.model.depths = (2,) * len(config.model.depths)
  return config


def full(name, row):
  return TRAINED[name].get_config(row).copy_and_resolve_references()


def program(name, row):
  """What a row's step is built from: equal ones are built once."""
  flat = step_values(shallow(full(name, row)).to_dict())
  kept = (
    'model.', 'augment.', 'sam.', 'ema.mode', 'precision', 'loss', 'micro',
    'optimizer.clip', 'optimizer.unclipped', 'optimizer.decayed',
    'optimizer.nesterov', 'schedule.name', 'data.train_image_size',
    'data.num_classes', 'observe',
  )  # fmt: skip
  found = {k: v for k, v in flat.items() if k.startswith(kept)}
  for key in NUMBERS:
    found[key] = bool(found.get(key))  # a program is the same for all of them
  found['model.name'] = found['model.name'].rstrip('0123456789')
  return json.dumps(found)


NUMBERS = (
  'sam.rho',
  'optimizer.clipping',
  'observe_every',
  'augment.mixup_alpha',
  'augment.randaugment_magnitude',
  'model.drop_rate',
  'model.stochdepth_rate',
)


def step_values(tree, prefix=''):
  flat = {}
  for key, value in tree.items():
    inner = isinstance(value, dict)
    flat |= (
      step_values(value, f'{prefix}{key}.')
      if inner
      else {f'{prefix}{key}': value}
    )
  return flat


def distinct():
  """Rows that between them have every program, and every size of a family."""
  found = {}
  for name, row in ROWS:
    whole = json.loads(program(name, row))
    size = whole.pop('data.train_image_size')
    found.setdefault(json.dumps(whole), (name, row))
    found.setdefault((whole['model.name'], size), (name, row))
  return list(dict.fromkeys(found.values()))


DEFAULT = {('resnet20_three_ways', 'none'), ('table_depth', 'nf_50')}


@pytest.mark.parametrize(
  ('name', 'row'),
  [
    pytest.param(*place, marks=[] if place in DEFAULT else [pytest.mark.slow])
    for place in distinct()
  ],
)
def test_the_train_step_of_every_row_builds_at_full_width_and_size(name, row):
  config = shallow(full(name, row))
  network, optimizer = factory.network_of(config), factory.optimizer_of(config)
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(
    lambda key: step.init_state(config, network, optimizer, key), key
  )
  size, count = config.data.train_image_size, 8 * config.micro_batches
  batch = {
    'images': jax.ShapeDtypeStruct((1, count, size, size, 3), np.uint8),
    'labels': jax.ShapeDtypeStruct((1, count), np.int32),
  }
  train_step = parallel.map_step(
    step.make_train_step(
      config, network, optimizer, factory.schedule_of(config)
    ),
    jax.devices()[:1],
  )
  after, metrics = jax.eval_shape(train_step, state, batch, key)
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
  assert jax.tree.all(jax.tree.map(same, after, state))
  assert metrics['loss'].shape == ()


def tiny_imagenet(root):
  """ILSVRC2012's layout: five classes, four images and one of them each."""
  random = np.random.RandomState(0)
  for split, count in (('train', 4), ('val', 1)):
    for label in range(5):
      folder = root / split / f'n0000000{label}'
      folder.mkdir(parents=True)
      for index in range(count):
        noise = random.randint(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f'{index}.png')
  return root


def last_row(name):
  """The last that clips, if any; its program stands for the experiment."""
  runs = list(TRAINED[name].RUNS)
  clips = [r for r in runs if full(name, r).optimizer.clip != 'none']
  return (clips or runs)[-1]


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[] if name == 'agc_sweep' else [pytest.mark.slow])
    for name in TRAINED
  ],
)
def test_a_row_takes_two_real_steps_on_a_folder_of_imagenets_layout(
  name, tmp_path
):
  config = full(name, last_row(name))
  with config.unlocked():
    model, data = config.model, config.data
    model.depths = (1,) * len(model.depths)
    model.widths = (16, 16, 32, 32)[: len(model.depths)]
    data.name, data.data_dir = 'folder', str(tiny_imagenet(tmp_path / 'data'))
    data.train_split, data.eval_split = 'train_and_valid', 'test'
    data.num_train, data.num_classes = 20, 5
    data.train_image_size = data.eval_image_size = 32
    data.num_threads = 2
    config.weights, config.micro_batches = '', min(2, config.micro_batches)
    config.batch_size, config.eval_batch_size, config.num_steps = 8, 8, 2
    config.schedule.warmup_steps = 1
    config.precision = 'float32'
    config.augment.randaugment_layers = min(
      1, config.augment.randaugment_layers
    )
    config.eval_every = config.checkpoint_every = 2
    config.log_every = config.observe_every = 1
  summary = train.train_and_evaluate(config, tmp_path / 'run')
  assert summary['status'] == 'finished' and summary['step'] == 2
  key = 'eval/top_1'
  assert 0 <= summary[key] <= 1
  rows = [
    json.loads(line)
    for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()
  ]
  losses = [row['train/loss'] for row in rows if 'train/loss' in row]
  assert len(losses) == 2 and np.isfinite(losses).all()
