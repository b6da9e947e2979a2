"""The labelled chain against the published optimizer's own trajectories."""

import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import optim
from nfnets.optim import chain

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
  assert flat(chain.labels(tree(dict.fromkeys(paths, 0.0)))) == paths


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
