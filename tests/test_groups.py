"""Labels and places of whole networks, and selecting by either."""

import collections
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import models
from nfnets.optim import groups

SHARED = pathlib.Path(__file__).parents[1] / '../shared/golden'


def shapes_of(name, size=32, **overrides):
  network = models.create(name, 10, **overrides)
  params, _ = jax.eval_shape(
    lambda key: network.init(key, jnp.zeros((2, size, size, 3)), True),
    jax.random.key(0),
  )
  return params


def golden_tree(name):
  path = SHARED / f'{name}.json'
  if not path.exists():
    pytest.skip(f'{path.name} is not at hand')
  params = {}
  for name, shape in json.loads(path.read_text())['tree'].items():
    module, _, leaf = name.rpartition('/')
    params.setdefault(module, {})[leaf] = jax.ShapeDtypeStruct(
      tuple(shape), jnp.float32
    )
  return params


def by_path(tree):
  return {
    groups.path_name(path): leaf
    for path, leaf in jax.tree.flatten_with_path(tree)[0]
  }


def blocks_per_stage(params):
  blocks = {
    (stage, next(part for part in path.split('/') if 'block' in part))
    for path, stage in by_path(groups.stages(params)).items()
    if stage.startswith('stage_')
  }
  return collections.Counter(stage for stage, _ in blocks)


def test_labels_follow_the_published_groups():
  paths = {
    'Net/bias1': 'gain_or_bias',
    'Net/~/initial_conv/w': 'weight',
    'Net/~/block/skip_gain': 'gain_or_bias',
    'Net/~/block/bias1a': 'gain_or_bias',
    'Net/~/block/scale': 'gain_or_bias',
    'Net/~/block/~/conv0/gain': 'gain_or_bias',
    'Net/~/block/~/conv0/b': 'gain_or_bias',
    'Net/~/block/~/bn0/offset': 'gain_or_bias',
    'Net/~/block/~/squeeze_excite/~/linear/w': 'weight',
    'Net/~/block/~/squeeze_excite/~/linear_1/w': 'weight',
    'Net/~/linear/w': 'head',
    'Net/~/linear/b': 'gain_or_bias',
    'Net/~/linear_1/w': 'weight',
  }
  params = {}
  for path in paths:
    module, _, name = path.rpartition('/')
    params.setdefault(module, {})[name] = 0.0
  assert by_path(groups.labels(params)) == paths


@pytest.mark.parametrize(
  ('name', 'overrides'),
  [
    ('nfnet_f0', {}),
    ('nfnet_f0', {'normalizer': 'batch'}),
    ('cifar_resnet_20', {'normalizer': 'batch'}),
    ('cifar_resnet_20', {'normalizer': 'none'}),
    ('cifar_resnet_20', {'normalizer': 'nf'}),
  ],
)
def test_whole_networks_have_one_head_and_decay_only_matrices(name, overrides):
  params = shapes_of(name, **overrides)
  labels = by_path(groups.labels(params))
  heads = [path for path, label in labels.items() if label == 'head']
  assert [path.partition('/')[2] for path in heads] == ['~/linear/w']
  for path, leaf in by_path(params).items():
    assert (labels[path] != 'gain_or_bias') == path.endswith('/w'), path
    assert leaf.ndim >= 2 or labels[path] == 'gain_or_bias'


@pytest.mark.parametrize(
  ('name', 'overrides', 'depths'),
  [
    ('nfnet_f0', {}, (1, 2, 6, 3)),
    ('nfnet_f1', {}, (2, 4, 12, 6)),
    ('cifar_resnet_20', {'normalizer': 'none'}, (3, 3, 3)),
    ('cifar_resnet_32', {'normalizer': 'batch'}, (5, 5, 5)),
    ('cifar_resnet_20', {'normalizer': 'nf'}, (3, 3, 3)),
  ],
)
def test_stages_have_the_published_depths(name, overrides, depths):
  params = shapes_of(name, **overrides)
  found = blocks_per_stage(params)
  assert tuple(found[f'stage_{i + 1}'] for i in range(len(found))) == depths
  places = by_path(groups.stages(params))
  assert set(places.values()) == {'stem', 'final', *found}
  for path, place in places.items():
    top = path.split('/')[2]
    expected = 'stem' if top.startswith(('stem', 'initial')) else 'final'
    assert 'block' in top or place == expected, path


@pytest.mark.parametrize(
  ('name', 'depths'),
  [
    ('nf_resnet50', (3, 4, 6, 3)),
    ('resnet50', (3, 4, 6, 3)),
    ('skipinit_resnet50', (3, 4, 6, 3)),
    ('fixup_resnet50', (3, 4, 6, 3)),
    ('nf_regnet_b0', (1, 3, 6, 6)),
  ],
)
def test_published_trees_are_placed_whole(name, depths):
  params = golden_tree(name)
  found = blocks_per_stage(params)
  assert tuple(found[f'stage_{i + 1}'] for i in range(4)) == depths
  assert 'other' not in jax.tree.leaves(groups.stages(params))
  labels = jax.tree.leaves(groups.labels(params))
  assert collections.Counter(labels)['head'] == 1


def test_entries_select_labels_places_and_patterns():
  params = shapes_of('cifar_resnet_20', normalizer='none')

  def chosen(*entries):
    return {
      path
      for path, hit in by_path(groups.select(params, entries)).items()
      if hit
    }

  root = 'CIFAR_ResNet/~'
  assert chosen() == set()
  assert chosen('head') == {f'{root}/linear/w'}
  assert chosen('stem') == {
    f'{root}/initial_conv/w',
    f'{root}/initial_conv/b',
  }
  assert chosen('final') == {f'{root}/linear/w', f'{root}/linear/b'}
  everything = ['stem', 'final', 'stage_1', 'stage_2', 'stage_3']
  assert chosen(*everything) == set(by_path(params))
  assert sum(len(chosen(stage)) for stage in everything) == len(by_path(params))
  assert chosen(r'linear/b$', 'head') == chosen('final')
  with pytest.raises(ValueError, match='stage_7.*matches no parameter'):
    chosen('stage_7')


def test_foreign_networks_have_other_places_and_can_be_headless():
  params = {'dense': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
  assert set(jax.tree.leaves(groups.stages(params))) == {'other'}
  assert not any(jax.tree.leaves(groups.select(params, ['head'])))


def test_factors_are_one_unless_named_and_the_last_name_counts():
  params = shapes_of('cifar_resnet_20', normalizer='none')
  scales = (('stage_1', 0.5), ('head', 10.0), (r'nf_block/|block/~/conv0', 0.1))
  found = by_path(groups.factors(params, scales, frozen=('stem',)))
  root = 'CIFAR_ResNet/~'
  assert found[f'{root}/initial_conv/w'] == 0.0
  assert found[f'{root}/linear/w'] == 10.0
  assert found[f'{root}/linear/b'] == 1.0
  stage_1 = {
    factor
    for path, factor in found.items()
    if by_path(groups.stages(params))[path] == 'stage_1'
  }
  assert stage_1 == {0.5, 0.1}


@pytest.mark.parametrize(
  'scales, message',
  [
    ((('stage_7', 0.5),), 'stage_7'),
    ((('stem', 0.0),), 'what shall not move is frozen'),
    ((('stem', -1.0),), 'above 0'),
    (('stem',), 'is no pair'),
  ],
)
def test_impossible_factors_are_named(scales, message):
  params = shapes_of('cifar_resnet_20', normalizer='none')
  with pytest.raises(ValueError, match=message):
    groups.factors(params, scales)


def test_no_gradient_reaches_what_is_frozen():
  params = {'net/~/stem_conv': {'w': jnp.ones((2, 2))},
            'net/~/linear': {'w': jnp.full((2, 2), 3.0)}}  # fmt: skip

  def product(params, frozen=()):
    frozen = groups.freeze(params, frozen)
    first, last = (leaves['w'] for leaves in frozen.values())
    return jnp.sum(first @ last)

  free, fixed = jax.grad(product)(params), jax.grad(product)(params, ('stem',))
  assert not jnp.any(fixed['net/~/stem_conv']['w'])
  assert jnp.all(free['net/~/stem_conv']['w'] == 6)
  np.testing.assert_array_equal(
    free['net/~/linear']['w'], fixed['net/~/linear']['w']
  )
