"""Labels, masks and chains against the papers' trajectories and optax."""

import collections
import functools
import json
import pathlib
import re
import zlib

import golden_lib
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets import optim, weights
from nfnets.optim import agc, optimizer, parameters
from nfnets.optim.optimizer import CLIPPERS, Settings
from nfnets.weights.match import flatten as flat
from nfnets.weights.match import unflatten as tree

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / 'tests/golden/optimizer.json').read_text())
ZERO_START = ('net/~/nf_block/skip_gain', 'net/~/linear/b')


# Each optimizer once, with the clippers that have norms of their own.
PAIRS = (
  ('sgd', 'agc'),
  ('sgd', 'layer'),
  ('adamw', 'none'),
  ('lamb', 'norm'),
  pytest.param('muon', 'agc', marks=pytest.mark.slow),  # compiles for long
)


def draw(key, shape):
  state = np.random.RandomState(zlib.crc32(key.encode()))
  return np.asarray(state.standard_normal(shape), np.float32)


def assert_close(found, expected, rtol=1e-5, atol=0.0):
  for path, leaf in flat(expected).items():
    np.testing.assert_allclose(
      flat(found)[path], leaf, rtol, atol, err_msg=path
    )


def take(chain, params, grads, steps=1):
  """The last updates and the state after `steps` equal gradients."""
  opt_state, update = chain.init(params), jax.jit(chain.update)
  for _ in range(steps):
    updates, opt_state = update(grads, opt_state, params)
  return updates, opt_state


@pytest.mark.parametrize('case', GOLDEN['cases'], ids=lambda c: c['optimizer'])
def test_published_trajectories_are_reproduced(case):
  schedule = optim.warmup_cosine(
    case['peak_lr'],
    case['num_steps'],
    case['warmup_steps'],
    end=case['min_lr'],
  )
  rates = [schedule(step) for step in range(case['steps'])]
  np.testing.assert_allclose(rates, case['learning_rates'], rtol=1e-5)
  chain = optim.sgd(
    schedule,
    weight_decay=case['weight_decay'],
    clipping=case['clipping'] if case['optimizer'] == 'SGD_AGC' else None,
  )
  shapes = GOLDEN['shapes']
  params = tree(
    {
      path: jnp.float32((path not in ZERO_START) * 0.1)
      * draw(f'param:{path}', shape)
      for path, shape in shapes.items()
    }
  )
  opt_state, update = chain.init(params), jax.jit(chain.update)
  for step in range(case['steps']):
    grads = {
      path: case['grad_scale'] * draw(f'grad{step}:{path}', shape)
      for path, shape in shapes.items()
    }
    updates, opt_state = update(tree(grads), opt_state, params)
    params = optax.apply_updates(params, updates)
  params = flat(params)
  assert params.keys() == case['norms'].keys()
  for path, leaf in params.items():
    norm = np.linalg.norm(leaf)
    np.testing.assert_allclose(norm, case['norms'][path], rtol=1e-5)
    np.testing.assert_allclose(
      np.ravel(leaf)[:4], case['heads'][path], rtol=1e-5, atol=1e-5 * norm
    )


@pytest.fixture(scope='module')
def thin():
  """Parameters of each label and stage, in few shapes; and gradients."""
  root = 'NFNet/~'
  shapes = {
    f'{root}/stem_conv0/w': (3, 3, 3, 4),
    f'{root}/stem_conv1/w': (1, 1, 4, 6),
    f'{root}/stem_conv1/bias': (6,),
    f'{root}/nf_block/skip_gain': (),
    f'{root}/nf_block/~/conv0/w': (1, 1, 4, 6),
    f'{root}/nf_block/~/conv0/gain': (6,),
    f'{root}/nf_block_1/~/conv_shortcut/w': (1, 1, 4, 6),
    f'{root}/linear/w': (4, 6),
    f'{root}/linear/b': (6,),
  }
  params = {path: draw(path, shape) for path, shape in shapes.items()}
  sizes = np.geomspace(1e-4, 1e2, len(shapes), dtype=np.float32)
  grads = {
    path: jnp.asarray(draw('grad', shape) * size)
    for (path, shape), size in zip(sorted(shapes.items()), sizes)
  }
  return tree(params), tree(grads)


def clipped(params, grads, clip, clipping, unclipped=('head',)):
  chain = optim.sgd(
    -1.0, momentum=0, clip=clip, clipping=clipping, unclipped=unclipped
  )
  return take(chain, params, grads)[0]


def changed(updates, grads):
  updates, grads = flat(updates), flat(grads)
  return {p for p in grads if not np.array_equal(updates[p], grads[p])}


def test_norm_clipping_is_global_or_per_layer(thin):
  params, grads = thin
  ours = clipped(params, grads, 'norm', 2.0, unclipped=())
  np.testing.assert_allclose(optax.tree.norm(ours), 2.0, rtol=1e-5)
  assert_close(ours, take(optax.clip_by_global_norm(2.0), params, grads)[0])
  per_layer = flat(clipped(params, grads, 'layer', 2.0))
  for path, grad in flat(grads).items():
    share = min(1, 2 / np.linalg.norm(grad))
    share = 1 if path == 'NFNet/~/linear/w' else share
    np.testing.assert_allclose(per_layer[path], share * grad, rtol=1e-5)


@pytest.mark.parametrize('clip', CLIPPERS)
def test_small_and_zero_gradients_pass_every_clipper_untouched(thin, clip):
  for scale in (0, 1e-9):
    grads = jax.tree.map(lambda p, s=scale: np.float32(s) * p, thin[0])
    assert not changed(clipped(thin[0], grads, clip, 0.01), grads)


PROBED = {
  'weight_decay': 0.1,
  'clipping': 0.01,
  'unclipped': ('head', 'conv_shortcut'),
  'frozen': ('stem_conv1',),
  'learning_rate_scales': (('stage_1', 0.5), ('head', 10.0)),
}


@pytest.mark.parametrize(('name', 'clip'), PAIRS)
def test_the_table_tells_what_the_chain_does_to_each_parameter(
  thin, name, clip
):
  """Probed with a gradient for one parameter at a time."""
  params, _ = thin
  settings = Settings(name=name, clip=clip, **PROBED)
  plain = Settings(
    name=name, clip=clip, **PROBED | {'learning_rate_scales': ()}
  )
  free = Settings(name=name, clip='none', **PROBED)
  chain, plain, free = (optim.create(1.0, s) for s in (settings, plain, free))
  update = [jax.jit(functools.partial(take, c)) for c in (chain, plain, free)]
  zeros = jax.tree.map(jnp.zeros_like, params)
  decayed = changed(update[0](params, zeros)[0], zeros)
  found = collections.Counter()
  for path, leaf in flat(params).items():
    grads = tree(flat(zeros) | {path: 1e3 * jnp.ones_like(leaf)})
    steps = [fn(params, grads) for fn in update]
    own, unscaled, _ = (np.linalg.norm(flat(s[0])[path]) for s in steps)
    assert changed(steps[0][0], zeros) <= decayed | {path}
    states = (jax.tree.leaves(steps[i][1]) for i in (0, 2))
    is_clipped = not all(map(np.array_equal, *states))
    rate = own / unscaled if own else 0.0
    row = (
      f'{0.1 * (path in decayed):g}',
      f'{clip} 0.01' if is_clipped else 'none',
      f'{rate:.3g}',
    )
    found[row] += np.array([1, leaf.size])
  table = optim.table(params, 1.0, settings)
  told = collections.Counter()
  for line in table.splitlines()[1:-1]:
    _, tensors, parameters, _, *row, _ = re.split(r'  +', line)
    told[tuple(row)] += np.array([int(tensors), int(parameters)])
  assert {k: tuple(v) for k, v in told.items()} == {
    k: tuple(v) for k, v in found.items()
  }
  assert sum(len(x) for x in found) and '0' in {row[2] for row in found}


def test_the_table_counts_every_parameter_and_the_units_of_agc(thin):
  table = optim.table(thin[0], 1.6, Settings(clipping=0.01))
  labels, *counts = zip(*(row.split()[:4] for row in table.splitlines()[1:]))
  assert labels == ('gain_or_bias', 'head', 'weight', 'all')
  assert counts == [
    ('4', '1', '4', '9'),
    ('19', '24', '180', '223'),
    ('4', '0', '22', '26'),
  ]


@pytest.mark.parametrize(
  ('name', 'clip'), [*PAIRS, ('sgd', 'norm'), ('sgd', 'none')]
)
def test_freezing_equals_an_optimizer_that_never_sees_the_frozen(
  thin, name, clip
):
  """The mask comes before clipping: the global norm leaves the frozen out."""
  params, grads = thin
  is_frozen = flat(parameters.select(params, ('stem', 'stage_2')))

  def rest(values):
    return tree({p: x for p, x in flat(values).items() if not is_frozen[p]})

  make = functools.partial(
    Settings, name=name, weight_decay=0.1, clip=clip, clipping=0.3
  )
  whole = optim.create(0.1, make(frozen=('stem', 'stage_2')))
  updates, state = take(whole, params, grads, 2)
  part = optim.create(0.1, make())
  expected, part_state = take(part, rest(params), rest(grads), 2)
  assert_close(rest(updates), expected, 1e-5, 1e-7)
  left = flat(updates).keys() - flat(expected).keys()
  assert left and not any(np.any(flat(updates)[path]) for path in left)
  sizes = [sum(x.size for x in jax.tree.leaves(s)) for s in (state, part_state)]
  assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
  ('name', 'theirs'),
  [
    ('adamw', lambda mask: optax.adamw(0.1, weight_decay=0.01, mask=mask)),
    ('lamb', lambda mask: optax.lamb(0.1, weight_decay=0.01, mask=mask)),
  ],
)
def test_other_optimizers_are_optax_s_behind_the_clipper(thin, name, theirs):
  params, grads = thin
  settings = Settings(name=name, weight_decay=0.01, clipping=0.01)
  ours, _ = take(optim.create(0.1, settings), params, grads, 3)
  small = clipped(params, grads, 'agc', 0.01)
  mask = jax.tree.map(lambda x: x != 'gain_or_bias', optim.labels(params))
  assert_close(ours, take(theirs(mask), params, small, 3)[0], atol=1e-7)


def test_muon_orthogonalizes_kernels_and_leaves_the_rest_to_adam():
  shapes = {'net/~/conv': {'w': (3, 3, 2, 4), 'bias': (4,)}}
  shapes |= {'net/~/dense': {'w': (6, 8)}, 'net/~/linear': {'w': (8, 5)}}
  is_shape = lambda x: isinstance(x, tuple)
  grads = jax.tree.map(lambda s: draw(str(s), s), shapes, is_leaf=is_shape)
  chain = optim.create(1.0, Settings(name='muon', momentum=0.95))
  updates, _ = take(chain, grads, grads)
  for path, wide in (('net/~/conv', 1), ('net/~/dense', 8 / 6)):
    kernel = updates[path]['w'].reshape(-1, updates[path]['w'].shape[-1])
    values = np.linalg.svd(kernel, compute_uv=False) / np.sqrt(wide)
    assert values.min() > 0.6 and values.max() < 1.3, values
    own = grads[path]['w'].reshape(kernel.shape)
    assert np.ptp(np.linalg.svd(own, compute_uv=False)) > 1
  adam = optax.adam(1.0, nesterov=True)
  expected, _ = take(adam, grads, grads)
  for path, name in (('net/~/conv', 'bias'), ('net/~/linear', 'w')):
    np.testing.assert_allclose(
      updates[path][name], expected[path][name], rtol=1e-5
    )
  two = {'net/~/dense': grads['net/~/dense']}
  theirs = optax.contrib.muon(1.0, weight_decay=0.1)
  ours = optim.create(
    1.0, Settings(name='muon', momentum=0.95, weight_decay=0.1)
  )
  assert_close(take(ours, two, two, 2)[0], take(theirs, two, two, 2)[0])


BLOCK = {
  '': {'skip_gain': ()},
  '/~/conv0': {'w': (3, 3, 4, 6), 'bias': (6,)},
  '/~/conv3d': {'w': (2, 3, 3, 4, 6)},
  '/~/squeeze_excite/~/linear': {'w': (6, 4), 'b': (4,)},
}


def unrolled(part):
  found = {'Net/~/stem_conv0': {'w': draw(f'{part}stem', (3, 3, 3, 4))}}
  for block in ('nf_block', 'nf_block_1', 'nf_block_2', 'nf_block_3'):
    for inner, leaves in BLOCK.items():
      path = f'Net/~/{block}{inner}'
      found[path] = {
        name: np.asarray(
          draw(f'{part}{path}{name}', shape) * 10 ** draw(f'{part}{path}', ()),
          np.float32,
        )
        for name, shape in leaves.items()
      }
  return found | {'Net/~/linear': {'w': draw(f'{part}head', (6, 5))}}


def stacked(params):
  """The second to fourth block as `config.model.scan` holds them."""
  stacks = {f'Net/stack_1_3/nf_block{inner}': BLOCK[inner] for inner in BLOCK}
  return weights.stack_like(params, stacks)


@pytest.mark.parametrize(('name', 'clip'), PAIRS)
def test_each_block_of_a_stack_is_treated_separately(name, clip):
  """Also a stacked bias, which looks like a matrix, and a 3-D convolution."""
  settings = Settings(
    name=name,
    clip=clip,
    clipping=0.5,
    weight_decay=0.1,
    unclipped=('head', r'conv3d/w'),
    frozen=('squeeze_excite/~/linear/b',),
    learning_rate_scales=(('stage_1', 0.5),),
  )
  chain = optim.create(0.1, settings)
  params, grads = unrolled('p'), unrolled('g')
  updates, _ = take(chain, params, grads, 2)
  looped, _ = take(chain, stacked(params), stacked(grads), 2)
  assert_close(looped, stacked(updates), 1e-4, 1e-6)
  tables = [optim.table(p, 1.0, settings) for p in (params, stacked(params))]
  alone, together = ([row.split() for row in t.splitlines()] for t in tables)
  for row, other in zip(alone, together, strict=True):
    assert row[:7] == other[:7]


def test_some_blocks_of_a_stack_cannot_be_selected():
  params = stacked(unrolled('p'))
  for key, value in (
    ('unclipped', 'nf_block_2/'),
    ('frozen', ('nf_block_[12]/',)),
    ('learning_rate_scales', (('nf_block_3/', 0.5),)),
  ):
    with pytest.raises(ValueError, match='stack_1_3.*all of them or none'):
      optim.sgd(0.1, clipping=0.1, **{key: value}).init(params)
  with pytest.raises(ValueError, match='all of them or none'):
    agc.adaptive_grad_clip(0.1, unclipped=('nf_block_2/',)).init(params)


@pytest.mark.parametrize('nesterov', [True, False])
def test_nesterov_is_what_its_name_says(nesterov):
  params = {'net/~/conv': {'w': jnp.zeros((2, 2))}}
  grads = jax.tree.map(jnp.ones_like, params)
  chain = optim.sgd(1.0, momentum=0.5, nesterov=nesterov)
  sizes = [
    float(take(chain, params, grads, n)[0]['net/~/conv']['w'][0, 0])
    for n in (1, 2)
  ]
  # b = 1, 1.5; the Nesterov step is g + 0.5 b.
  assert sizes == ([-1.5, -1.75] if nesterov else [-1.0, -1.5])


def test_momentum_is_float32_under_bfloat16_gradients():
  params = {'net/~/conv': {'w': jnp.ones((2, 2))}}
  grads = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
  chain = optim.sgd(0.1, clipping=0.01)
  before, (_, after) = chain.init(params), take(chain, params, grads)
  for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after)):
    assert old.dtype == new.dtype != jnp.bfloat16


def test_optax_can_inject_the_learning_rate():
  params = {'net/~/conv': {'w': jnp.ones((2, 2))}}
  injected = optax.inject_hyperparams(lambda rate: optim.sgd(rate, clipping=1))
  after, _ = take(injected(rate=0.1), params, params)
  assert_close(after, take(optim.sgd(0.1, clipping=1), params, params)[0])


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'sgdd'}, "name='sgdd': choose one of sgd, adamw"),
    ({'clip': 'agcc'}, "clip='agcc'"),
    ({'decayed': 'some'}, "decayed='some'"),
    ({'clipping': 0.0}, 'above 0'),
    ({'unclipped': ('',)}, 'an empty pattern'),
    ({'frozen': ''}, 'an empty pattern'),
    ({'frozen': ('stage1',)}, "'stage1' matches no parameter.*stage_1"),
    ({'unclipped': ('stage_9',)}, "'stage_9' matches no parameter"),
    ({'learning_rate_scales': (('stage_7', 0.5),)}, 'stage_7'),
    ({'learning_rate_scales': (('stem', 0.0),)}, 'factor above 0.*frozen'),
    *(
      (
        {'learning_rate_scales': (pair,)},
        'learning_rate_scales=.*give an entry and a factor',
      )
      for pair in ('stem', 'ab', 0.1, ('head', None), ('head', '0.1'))
    ),
  ],
)
def test_impossible_settings_are_refused_at_the_start(thin, settings, message):
  with pytest.raises(ValueError, match=message):
    optim.create(0.1, Settings(**settings)).init(thin[0])


def test_an_unlabelled_parameter_is_an_error_that_names_it():
  params = {'net/~/odd': {'temperature': jnp.ones(())}}
  with pytest.raises(ValueError, match='net/~/odd/temperature'):
    optim.sgd(0.1).init(params)


@pytest.mark.parametrize(
  ('name', 'depths'),
  [
    ('nf_resnet_50', (3, 4, 6, 3)),
    ('resnet_50', (3, 4, 6, 3)),
    ('skipinit_resnet_50', (3, 4, 6, 3)),
    ('fixup_resnet_50', (3, 4, 6, 3)),
    ('nf_regnet_b0', (1, 3, 6, 6)),
    ('nfnet_f0', (1, 2, 6, 3)),
    ('cifar_resnet_20', (3, 3, 3)),
  ],
)
def test_whole_networks_are_placed_with_the_published_depths(name, depths):
  params = golden_lib.shapes(name)[0]
  places = flat(optim.stages(params))
  blocks = {
    (stage, next(part for part in path.split('/') if 'block' in part))
    for path, stage in places.items()
    if stage.startswith('stage_')
  }
  found = collections.Counter(stage for stage, _ in blocks)
  assert found == {f'stage_{i + 1}': d for i, d in enumerate(depths)}
  assert set(places.values()) == {'stem', 'final', *found}
  labels = flat(optim.labels(params))
  assert list(labels.values()).count('head') == 1
  for path, label in labels.items():
    assert (label != 'gain_or_bias') == path.endswith('/w'), path


def test_entries_select_labels_places_and_patterns():
  params = golden_lib.shapes('cifar_resnet_20', normalizer='none')[0]

  def chosen(*entries):
    return {
      p for p, hit in flat(parameters.select(params, entries)).items() if hit
    }

  root = 'CIFAR_ResNet/~'
  assert chosen() == set()
  assert chosen('head') == {f'{root}/linear/w'}
  assert chosen('stem') == {f'{root}/initial_conv/{n}' for n in 'wb'}
  assert chosen(r'linear/b$', 'head') == chosen('final')
  everything = ['stem', 'final', 'stage_1', 'stage_2', 'stage_3']
  assert chosen(*everything) == set(flat(params))
  assert sum(len(chosen(stage)) for stage in everything) == len(flat(params))


def test_no_gradient_reaches_what_is_frozen():
  params = {'net/~/stem_conv': {'w': jnp.ones((2, 2))},
            'net/~/linear': {'w': jnp.full((2, 2), 3.0)}}  # fmt: skip

  def product(params, frozen=()):
    frozen = parameters.freeze(params, frozen)
    first, last = (leaves['w'] for leaves in frozen.values())
    return jnp.sum(first @ last)

  free, fixed = jax.grad(product)(params), jax.grad(product)(params, ('stem',))
  assert not jnp.any(fixed['net/~/stem_conv']['w'])
  assert jnp.all(free['net/~/stem_conv']['w'] == 6)
  np.testing.assert_array_equal(
    free['net/~/linear']['w'], fixed['net/~/linear']['w']
  )


@pytest.mark.parametrize('decay', [0.99999, 0.9])
@pytest.mark.parametrize('mode', ['warmup', 'constant'])
def test_averages_follow_the_published_decay(mode, decay):
  """Against a loop in float64."""
  values = np.random.RandomState(0).standard_normal(50).astype(np.float32)
  average, oracle = jnp.float32(values[0]), float(values[0])
  move = jax.jit(lambda a, v, t: optimizer.moving_average(a, v, t, decay, mode))
  for t, value in enumerate(values):
    average = move(average, value, t)
    kept = min(decay, (1 + t) / (10 + t)) if mode == 'warmup' else decay
    oracle = kept * oracle + (1 - kept) * float(value)
  np.testing.assert_allclose(average, oracle, rtol=1e-5)


def test_averages_copy_counters_and_keep_their_types():
  average = {'counter': jnp.int32(3), 'mean': jnp.float32(0)}
  new = {'counter': jnp.int32(4), 'mean': jnp.bfloat16(1)}
  moved = optimizer.moving_average(average, new, 0, 0.99, 'warmup')
  assert moved['counter'] == 4 and moved['counter'].dtype == jnp.int32
  assert moved['mean'].dtype == jnp.float32
  np.testing.assert_allclose(moved['mean'], 0.9, rtol=1e-6)
