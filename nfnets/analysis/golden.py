"""Compares networks with numbers of the published reference.

A golden file holds a network's logits and pooled features for parameters and
images that a rule makes, so that neither has to be stored.
"""

import json
import pathlib
import zlib

import jax
import numpy as np

from nfnets import models

# File name to the model that it holds.
FILES = {
  'nfnet_f0': 'nfnet_f0',
  'nf_resnet50': 'nf_resnet_50',
  'nf_regnet_b0': 'nf_regnet_b0',
  'resnet50': 'resnet_50',
  'skipinit_resnet50': 'skipinit_resnet_50',
  'fixup_resnet50': 'fixup_resnet_50',
}

# The first that fits a leaf's name gives (mean, std) of its unit normal.
_FILLINGS = (
  (('gain', 'scale'), (1.0, 0.1)),
  (('skip_gain',), (0.5, 0.1)),
  (('bias', 'b', 'offset'), (0.0, 0.1)),
)


def differences(folder: str) -> dict[str, float]:
  """Relative differences of logits, of every golden file in a folder.

  Raises:
    ValueError: where the folder holds none.
  """
  found = {}
  for file, name in FILES.items():
    path = pathlib.Path(folder) / f'{file}.json'
    if path.exists():
      found[name] = difference(name, json.loads(path.read_text()))
  if not found:
    raise ValueError(f'no golden numbers in {folder}: expected nfnet_f0.json.')
  return found


def difference(name: str, golden: dict, **overrides: object) -> float:
  """The logits' distance from a golden file's, relative to their norm."""
  logits = np.asarray(golden['logits'])
  out = outputs(name, golden, **overrides)
  return float(np.linalg.norm(out['logits'] - logits) / np.linalg.norm(logits))


def outputs(
  name: str, golden: dict, **overrides: object
) -> dict[str, jax.Array]:
  """Runs a network on a golden file's parameters and images."""
  net = models.create(name, golden['kwargs']['num_classes'], **overrides)
  x = images(golden['input_shape'])
  init = lambda: net.init(jax.random.key(0), x, True)
  params, state = jax.eval_shape(init)
  state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
  apply = jax.jit(net.apply, static_argnums=4)
  is_training = golden.get('is_training', False)
  return apply(fill(params), state, None, x, is_training)[0]


def images(shape: tuple[int, ...]) -> np.ndarray:
  """A unit normal's, seeded with 0."""
  return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


def fill(shapes: dict) -> dict:
  """A Haiku tree of parameters, each seeded with its own path."""
  return {
    module: {
      name: _leaf(f'{module}/{name}', name, leaf.shape)
      for name, leaf in leaves.items()
    }
    for module, leaves in shapes.items()
  }


def _leaf(path: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
  mean, std = next(
    (filling for names, filling in _FILLINGS if name in names), (0.0, 0.05)
  )
  random = np.random.RandomState(zlib.crc32(path.encode()))
  return np.asarray(mean + std * random.standard_normal(shape), np.float32)
