"""Golden numbers and narrow networks for the tests of models."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from filling import fill, images

from nfnets import models

__all__ = ['fill', 'images']

FOLDER = pathlib.Path(__file__).parents[1] / '..' / 'shared' / 'golden'


def load(name):
  """A golden file as a dictionary; skips the test where there is none."""
  path = FOLDER / f'{name}.json'
  if not path.exists():
    pytest.skip(f'no golden numbers at {FOLDER}')
  return json.loads(path.read_text())


def difference(name, golden, **overrides):
  """Our logits' distance from a golden file's, relative to their norm.

  Checks the tree and the pooled features on the way.
  """
  params, _ = shapes(name, golden['kwargs']['num_classes'], **overrides)
  sizes = [leaf.size for leaf in jax.tree.leaves(params)]
  assert sum(sizes) == golden['parameters']
  if 'tree' in golden:
    assert tree(params) == golden['tree']
  out = outputs(name, golden, **overrides)
  pool = np.asarray(golden['pool_head'])
  error = np.abs(out['pool'][:, : pool.shape[1]] - pool).max()
  assert error < 1e-4 * golden['pool_norm']
  want = np.asarray(golden['logits'])
  return np.linalg.norm(out['logits'] - want) / np.linalg.norm(want)


def outputs(name, golden, **overrides):
  """Runs a network on a golden file's parameters and images."""
  num_classes = golden['kwargs']['num_classes']
  net = models.create(name, num_classes, **overrides)
  params, state = shapes(name, num_classes, **overrides)
  state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
  apply = jax.jit(net.apply, static_argnums=4)
  x = images(golden['input_shape'])
  return apply(fill(params), state, None, x, golden.get('is_training', False))[
    0
  ]


def tree(shapes):
  """Leaf path to shape, as the golden files write it."""
  return {
    f'{module}/{name}': list(leaf.shape)
    for module, leaves in shapes.items()
    for name, leaf in leaves.items()
  }


def shapes(name, num_classes=1000, **overrides):
  """Shapes of a network's parameters and state."""
  net = models.create(name, num_classes, **overrides)
  x = jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32)
  init = functools.partial(net.init, is_training=True)
  return jax.eval_shape(init, jax.random.key(0), x)


def count(name, num_classes=1000, **overrides):
  """A network's number of parameters."""
  params, _ = shapes(name, num_classes, **overrides)
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def tiny(name, **overrides):
  """A narrow network of one block per stage, its functions compiled."""
  sizes = {'depths': (1, 1, 1, 1), 'widths': (32, 32, 64, 64)}
  net = models.create(name, 3, **{**sizes, **overrides})
  return net._replace(
    init=jax.jit(net.init, static_argnums=2),
    apply=jax.jit(net.apply, static_argnums=4),
  )
