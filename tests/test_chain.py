"""The labelled chain against the published optimizer's own trajectories."""

import json
import pathlib
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets import models, optim
from nfnets.optim import audit, chain, groups

GOLDEN = json.loads(
  (pathlib.Path(__file__).parent / 'golden/optimizer.json').read_text()
)
ZERO_START = ('net/~/nf_block/skip_gain', 'net/~/linear/b')


def draw(key, shape):
  state = np.random.RandomState(zlib.crc32(key.encode()))
  return np.asarray(state.standard_normal(shape), np.float32)


def tree(values):
  """{'module/name': leaf} as Haiku nests it."""
  nested = {}
  for path, leaf in values.items():
    module, _, name = path.rpartition('/')
    nested.setdefault(module, {})[name] = leaf
  return nested


def flat(nested):
  return {f'{m}/{n}': x for m, ns in nested.items() for n, x in ns.items()}


def run(case, optimizer):
  shapes = GOLDEN['shapes']
  params = tree(
    {
      path: jnp.float32((path not in ZERO_START) * 0.1)
      * draw(f'param:{path}', shape)
      for path, shape in shapes.items()
    }
  )
  opt_state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for step in range(case['steps']):
    grads = tree(
      {
        path: case['grad_scale'] * draw(f'grad{step}:{path}', shape)
        for path, shape in shapes.items()
      }
    )
    updates, opt_state = update(grads, opt_state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return flat(params)


@pytest.mark.parametrize(
  'case',
  GOLDEN['cases'],
  ids=lambda case: case['optimizer'],
)
def test_published_trajectories_are_reproduced(case):
  schedule = optim.warmup_cosine(
    case['peak_lr'],
    case['num_steps'],
    case['warmup_steps'],
    end=case['min_lr'],
  )
  rates = [schedule(step) for step in range(case['steps'])]
  np.testing.assert_allclose(rates, case['learning_rates'], rtol=1e-5)
  params = run(
    case,
    optim.sgd(
      schedule,
      weight_decay=case['weight_decay'],
      clipping=case['clipping'] if case['optimizer'] == 'SGD_AGC' else None,
    ),
  )
  assert params.keys() == case['norms'].keys()
  for path, leaf in params.items():
    norm = np.linalg.norm(leaf)
    np.testing.assert_allclose(norm, case['norms'][path], rtol=1e-5)
    np.testing.assert_allclose(
      np.ravel(leaf)[:4], case['heads'][path], rtol=1e-5, atol=1e-5 * norm
    )


def test_an_unlabelled_parameter_is_an_error_that_names_it():
  params = {'net/~/odd': {'temperature': jnp.ones(())}}
  with pytest.raises(ValueError, match='net/~/odd/temperature'):
    optim.sgd(0.1).init(params)


def test_nesterov_false_is_plain_momentum():
  params = {'net/~/conv': {'w': jnp.zeros((2, 2))}}
  grads = jax.tree.map(jnp.ones_like, params)
  moved = {}
  for nesterov in (True, False):
    optimizer = optim.sgd(1.0, momentum=0.5, nesterov=nesterov)
    opt_state = optimizer.init(params)
    sizes = []
    for _ in range(2):
      updates, opt_state = optimizer.update(grads, opt_state, params)
      sizes.append(float(updates['net/~/conv']['w'][0, 0]))
    moved[nesterov] = sizes
  # b = 1, 1.5; the Nesterov step is g + 0.5 b.
  assert moved == {True: [-1.5, -1.75], False: [-1.0, -1.5]}


def thin_nfnet():
  """F0's whole tree at 6 or 4 channels, so that few shapes compile."""
  network = models.create('nfnet_f0', 10)
  shapes, _ = jax.eval_shape(
    lambda key: network.init(key, jnp.zeros((2, 32, 32, 3)), True),
    jax.random.key(0),
  )

  def fill(path, leaf):
    shape = tuple(n if n <= 3 else 6 if n >= 512 else 4 for n in leaf.shape)
    return jnp.asarray(draw(jax.tree_util.keystr(path), shape))

  return jax.tree.map_with_path(fill, shapes)


@pytest.fixture(scope='module')
def whole_network():
  return with_gradients(thin_nfnet())


@pytest.fixture(scope='module')
def network():
  """A thin NFNet-F0 with only the first block of each stage."""
  params = {
    module: leaves
    for module, leaves in thin_nfnet().items()
    if not re.search(r'nf_block_(?!(1|3|9)(/|$))', module)
  }
  return with_gradients(params)


@pytest.fixture(scope='module')
def small_network(network):
  """Three modules, with small, medium and large gradients."""
  paths = ('NFNet/~/final_conv', 'NFNet/~/linear', 'NFNet/~/stem_conv3')
  return [{path: part[path] for path in paths} for part in network]


def with_gradients(params):
  sizes = iter(np.geomspace(1e-4, 1e2, len(jax.tree.leaves(params))))
  grads = jax.tree.map(
    lambda p: jnp.asarray(draw('grad', p.shape) * np.float32(next(sizes))),
    params,
  )
  return params, grads


def changed(updates, grads):
  return {
    path
    for path, update in flat(updates).items()
    if not np.array_equal(update, flat(grads)[path])
  }


def clip(clipper, params, grads):
  # Not jitted: few shapes and many tensors compile op by op far sooner.
  updates, _ = clipper.update(grads, clipper.init(params), params)
  return updates


def test_a_long_run_equals_the_equations_in_numpy():
  """Other lambda, decay, momentum and warm-up than the golden cases."""
  shapes = {'net/~/conv/w': (3, 3, 2, 4), 'net/~/linear/w': (6, 5)}
  shapes |= {'net/~/linear/b': (5,)}
  clipping, eps, decay, momentum = 0.07, 1e-2, 3e-3, 0.8
  schedule = optim.warmup_cosine(0.9, 80, 20, start=0.1, end=0.05)
  optimizer = optim.sgd(
    schedule,
    momentum=momentum,
    weight_decay=decay,
    clipping=clipping,
    eps=eps,
  )
  params = tree({path: draw(path, shape) for path, shape in shapes.items()})
  expected = {path: x.astype(np.float64) for path, x in flat(params).items()}
  trace = {path: np.zeros(shape) for path, shape in shapes.items()}
  opt_state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for step in range(100):
    grads = {path: draw(f'{step}{path}', s) for path, s in shapes.items()}
    updates, opt_state = update(tree(grads), opt_state, params)
    params = jax.tree.map(jnp.add, params, updates)
    if step < 20:
      rate = 0.1 + 0.8 * step / 20
    else:
      rate = 0.05 + 0.85 * (1 + np.cos(np.pi * min(1, (step - 20) / 60))) / 2
    for path, w in expected.items():
      g = grads[path].astype(np.float64)
      if path != 'net/~/linear/w':
        axes = tuple(range(w.ndim - 1)) or (0,)
        size = np.sqrt((w**2).sum(axes, keepdims=True))
        norm = np.sqrt((g**2).sum(axes, keepdims=True))
        g = g * np.minimum(1, clipping * np.maximum(size, eps) / norm)
      g = g + decay * w * (not path.endswith('/b'))
      trace[path] = momentum * trace[path] + g
      expected[path] = w - rate * (g + momentum * trace[path])
  for path, leaf in flat(params).items():
    np.testing.assert_allclose(
      leaf, expected[path], rtol=1e-5, atol=1e-5 * np.abs(leaf).max()
    )


def test_unclipped_takes_labels_places_and_patterns(network):
  params, grads = network
  grads = jax.tree.map(lambda p: jnp.asarray(1e3 * draw('g', p.shape)), params)
  everything = set(flat(params))

  def spared(*entries):
    clipper = chain.clipper('agc', 0.01, unclipped=entries)
    return everything - changed(clip(clipper, params, grads), grads)

  assert spared() == set()
  assert spared('head') == {'NFNet/~/linear/w'}
  assert spared('head', 'stem') == {
    path
    for path in everything
    if path == 'NFNet/~/linear/w' or '/stem_conv' in path
  }
  assert spared(r'squeeze_excite|/bias$') == {
    path
    for path in everything
    if 'squeeze_excite' in path or path.endswith('/bias')
  }
  with pytest.raises(ValueError, match='stage_9'):
    spared('stage_9')


def test_a_clipper_that_excludes_nothing_agrees_with_optax(whole_network):
  """On a whole NFNet tree optax means the same units throughout.

  The two part only where no NFNet has parameters: optax guesses the axes of
  rank five, and divides by at least 1e-6.
  """
  params, grads = whole_network
  ours = clip(chain.clipper('agc', 0.01, unclipped=()), params, grads)
  theirs = clip(optax.adaptive_grad_clip(0.01), params, grads)
  for path, update in flat(ours).items():
    np.testing.assert_allclose(update, flat(theirs)[path], rtol=1e-5)
  touched = changed(ours, grads)
  assert touched and touched != set(flat(grads))


def test_norm_clipping_is_global_or_per_layer(small_network):
  params, grads = small_network
  ours = clip(chain.clipper('norm', 2.0, unclipped=()), params, grads)
  np.testing.assert_allclose(optax.tree.norm(ours), 2.0, rtol=1e-5)
  theirs = clip(optax.clip_by_global_norm(2.0), params, grads)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b), ours, theirs)

  per_layer = flat(clip(chain.clipper('layer', 2.0), params, grads))
  for path, grad in flat(grads).items():
    norm = np.linalg.norm(grad)
    share = min(1, 2 / norm) if path != 'NFNet/~/linear/w' else 1
    np.testing.assert_allclose(per_layer[path], share * grad, rtol=1e-5)


def test_small_and_zero_gradients_pass_every_clipper_untouched(small_network):
  params, _ = small_network
  for scale in (0, 1e-9):
    grads = jax.tree.map(lambda p, s=scale: np.float32(s) * p, params)
    for name in chain.CLIPPERS:
      assert not changed(clip(chain.clipper(name, 0.01), params, grads), grads)


def test_no_clipper_is_none_by_name_and_by_threshold(small_network):
  params, grads = small_network
  by_name = clip(optim.sgd(1.0, clip='none', clipping=0.01), params, grads)
  by_value = clip(optim.sgd(1.0, clipping=None), params, grads)
  clipped = clip(optim.sgd(1.0, clipping=0.01), params, grads)
  assert not changed(by_name, by_value)
  assert changed(clipped, by_value)


@pytest.mark.parametrize(
  ('name', 'threshold', 'message'),
  [('agcc', 0.1, 'agcc'), ('norm', None, 'above 0'), ('layer', 0.0, 'above 0')],
)
def test_impossible_clippers_are_refused(name, threshold, message):
  with pytest.raises(ValueError, match=message):
    chain.clipper(name, threshold)


@pytest.fixture(scope='module')
def regression():
  """Four devices' parts of a batch, and a loss which is a mean over it."""
  params = {
    'net/~/dense': {'w': draw('w', (6, 4)), 'b': np.zeros(4, np.float32)},
    'net/~/linear': {'w': draw('h', (4, 2))},
  }
  parts = 3 * draw('x', (4, 8, 6)), draw('y', (4, 8, 2))

  def loss_fn(params, x, y):
    dense = params['net/~/dense']
    hidden = jnp.tanh(x @ dense['w'] + dense['b'][None])
    return jnp.mean(jnp.square(hidden @ params['net/~/linear']['w'] - y))

  optimizer = optim.sgd(0.5, weight_decay=1e-3, clipping=0.01)
  whole = [part.reshape(32, -1) for part in parts]
  grads = jax.jit(jax.grad(loss_fn))(params, *whole)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  return params, parts, loss_fn, optimizer, updates


def test_on_devices_the_mean_is_clipped(regression):
  params, parts, loss_fn, optimizer, expected = regression

  def step(params, x, y):
    grads = jax.grad(loss_fn)(params, x, y)
    return optimizer.update(
      jax.lax.pmean(grads, 'data'), optimizer.init(params), params
    )[0]

  mapped = jax.pmap(step, 'data', in_axes=(None, 0, 0), out_axes=None)
  updates = mapped(params, *parts)
  for path, update in flat(updates).items():
    np.testing.assert_allclose(
      update, flat(expected)[path], rtol=1e-4, atol=1e-7
    )


def test_under_accumulation_the_whole_batch_is_clipped_once(regression):
  params, parts, loss_fn, optimizer, expected = regression
  accumulated = optax.MultiSteps(optimizer, every_k_schedule=4)
  opt_state = accumulated.init(params)
  grad_fn = jax.jit(jax.grad(loss_fn))
  update = jax.jit(accumulated.update)
  clip_first = []
  for x, y in zip(*parts):
    grads = grad_fn(params, x, y)
    clip_first.append(
      optimizer.update(grads, optimizer.init(params), params)[0]
    )
    updates, opt_state = update(grads, opt_state, params)
  for path, leaf in flat(updates).items():
    np.testing.assert_allclose(leaf, flat(expected)[path], rtol=1e-4, atol=1e-7)
  # Clipping each part first is another step: the test can tell.
  other = jax.tree.map(lambda *parts: sum(parts) / 4, *clip_first)
  path = 'net/~/dense'
  assert not np.allclose(other[path]['w'], expected[path]['w'], rtol=1e-2)


def test_zero_initialized_gains_leave_zero():
  params = {'net/~/block': {'skip_gain': jnp.zeros(())}}
  optimizer = optim.sgd(1.0, momentum=0.0, clipping=0.01)
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  moved = updates['net/~/block']['skip_gain']
  np.testing.assert_allclose(moved, -0.01 * 1e-3, rtol=1e-6)


def test_momentum_is_float32_under_bfloat16_gradients():
  params = {'net/~/conv': {'w': jnp.ones((2, 2))}}
  optimizer = optim.sgd(0.1, clipping=0.01)
  grads = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
  opt_state = optimizer.init(params)
  _, new_state = optimizer.update(grads, opt_state, params)
  for before, after in zip(
    jax.tree.leaves(opt_state), jax.tree.leaves(new_state)
  ):
    assert before.dtype == after.dtype != jnp.bfloat16


def test_the_audit_names_every_parameter_once_and_counts_it(network):
  params, _ = network
  rows = audit.rows(params, learning_rate=1.6, weight_decay=2e-5, clipping=0.01)
  paths = [path for row in rows for path in row['paths']]
  assert sorted(paths) == sorted(flat(params))
  assert sum(row['parameters'] for row in rows) == sum(
    x.size for x in jax.tree.leaves(params)
  )
  facts = {row['label']: (row['weight_decay'], row['clipping']) for row in rows}
  assert facts == {
    'gain_or_bias': (0.0, 0.01),
    'head': (2e-5, None),
    'weight': (2e-5, 0.01),
  }
  weights = flat(params)
  units = sum(x.shape[-1] for path, x in weights.items() if path.endswith('/w'))
  by_label = {row['label']: row for row in rows}
  head = weights['NFNet/~/linear/w'].shape[-1]
  assert by_label['weight']['units'] == units - head
  assert (
    by_label['gain_or_bias']['units'] == by_label['gain_or_bias']['tensors']
  )


@pytest.mark.parametrize('unclipped', [('head',), ('stem', 'stage_2')])
def test_the_audit_tells_what_the_chain_does(network, unclipped):
  params, _ = network
  settings = {'weight_decay': 0.1, 'clipping': 0.01, 'unclipped': unclipped}
  rows = audit.rows(params, learning_rate=1.0, **settings)
  optimizer = optim.sgd(1.0, momentum=0.0, **settings)
  zero = jax.tree.map(jnp.zeros_like, params)
  decayed = changed(clip(optimizer, params, zero), zero)
  assert decayed == {
    path for row in rows if row['weight_decay'] for path in row['paths']
  }
  huge = jax.tree.map(lambda p: jnp.asarray(1e3 * draw('g', p.shape)), params)
  clipper = chain.clipper('agc', 0.01, unclipped=unclipped)
  assert changed(clip(clipper, params, huge), huge) == {
    path for row in rows if row['clipping'] for path in row['paths']
  }


def test_the_audit_prints_as_a_table(network):
  params, _ = network
  rows = audit.rows(params, learning_rate=1.6, weight_decay=2e-5, clipping=0.01)
  lines = audit.table(rows).splitlines()
  assert len(lines) == 2 + len(rows)
  assert lines[2].split()[:6] == ['head', '1', '24', '2e-05', 'none', '-']
  assert max(map(len, lines)) <= 120
  off = audit.rows(params, learning_rate=1.6, clipping=0.01, clip='none')
  assert all(row['clipping'] is None for row in off)


@pytest.mark.parametrize('decayed, share', [('weights', 0.0), ('all', 0.1)])
def test_gains_and_biases_decay_only_if_asked(decayed, share):
  params = {'net/~/linear': {'w': np.ones((2, 3)), 'b': np.full(3, 2.0)}}
  grads = jax.tree.map(np.zeros_like, params)
  optimizer = optim.sgd(1.0, weight_decay=0.1, momentum=0, decayed=decayed)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose(updates['net/~/linear']['w'], -0.1, rtol=1e-6)
  np.testing.assert_allclose(
    updates['net/~/linear']['b'], -2 * share, rtol=1e-6
  )
  rows = audit.rows(
    params, learning_rate=1.0, weight_decay=0.1, decayed=decayed
  )
  found = {row['label']: row['weight_decay'] for row in rows}
  assert found == {'head': 0.1, 'gain_or_bias': share}
  with pytest.raises(ValueError, match="unknown decayed 'some'"):
    optim.sgd(1.0, decayed='some')


@pytest.fixture(scope='module')
def thin(network):
  """The stem, the first blocks of stages 1 and 2, and the head."""
  pattern = r'stem_conv\d$|nf_block(_1)?/~/conv[02]$|nf_block$|shortcut|linear$'
  return [
    {p: x for p, x in part.items() if re.search(pattern, p)} for part in network
  ]


def frozen_pair(network):
  """The thin network's parameters and gradients, whole and less the frozen."""
  params, grads = network
  is_frozen = jax.tree.map(bool, groups.select(params, ('stem', 'stage_2')))

  def rest(values):
    kept = {}
    for path, leaf in flat(values).items():
      if not flat(is_frozen)[path]:
        module, _, name = path.rpartition('/')
        kept.setdefault(module, {})[name] = leaf
    return kept

  return params, grads, rest


@pytest.mark.parametrize('how', ['agc', 'norm', 'layer', 'none'])
def test_freezing_equals_an_optimizer_that_never_sees_the_frozen(thin, how):
  """The mask comes before clipping: the global norm leaves the frozen out."""
  params, grads, rest = frozen_pair(thin)
  settings = {
    'weight_decay': 0.1, 'clip': how, 'clipping': 0.3, 'momentum': 0.9,
  }  # fmt: skip
  whole = optim.sgd(0.1, frozen=('stem', 'stage_2'), **settings)
  part = optim.sgd(0.1, **settings)
  state, part_state = whole.init(params), part.init(rest(params))
  for _ in range(2):
    updates, state = whole.update(grads, state, params)
    expected, part_state = part.update(rest(grads), part_state, rest(params))
    for path, update in flat(expected).items():
      np.testing.assert_allclose(
        flat(updates)[path], update, rtol=1e-6, atol=1e-9
      )
  left = flat(updates).keys() - flat(expected).keys()
  assert left and not any(np.any(flat(updates)[path]) for path in left)
  after = optax.apply_updates(params, updates)
  for path in left:
    assert flat(after)[path].tobytes() == flat(params)[path].tobytes()
  momenta = sum(x.size for x in jax.tree.leaves(state))
  assert momenta == sum(x.size for x in jax.tree.leaves(part_state))


def test_learning_rate_scales_scale_the_step_of_whom_they_name(small_network):
  params, grads = small_network
  settings = {'weight_decay': 0.1, 'clipping': 0.3}
  plain = optim.sgd(0.1, **settings)
  scaled = optim.sgd(
    0.1, learning_rate_scales=(('stem', 0.25), ('linear/w', 10.0)), **settings
  )
  expected, found = (clip(o, params, grads) for o in (plain, scaled))
  for path, update in flat(expected).items():
    factor = {'NFNet/~/linear/w': 10.0}.get(path, 1.0)
    factor = 0.25 if 'stem' in path else factor
    np.testing.assert_allclose(flat(found)[path], factor * update, rtol=1e-6)


@pytest.mark.parametrize('key', ['frozen', 'learning_rate_scales'])
def test_who_is_named_must_be_there_from_the_start(small_network, key):
  value = {'frozen': ('stage1',), 'learning_rate_scales': (('stage1', 0.1),)}
  optimizer = optim.sgd(0.1, **{key: value[key]})
  with pytest.raises(ValueError, match="'stage1' is no label"):
    optimizer.init(small_network[0])
