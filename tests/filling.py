"""Parameters and images that a rule makes, so that nothing need be stored.

It is the rule of the golden numbers: every leaf is away from where it starts,
so that what a zero would hide is seen.
"""

import zlib

import numpy as np

# (mean, std) of a leaf by its name; any other is a weight.
_FILLINGS = {
  'gain': (1.0, 0.1),
  'scale': (1.0, 0.1),
  'skip_gain': (0.5, 0.1),
  'skipinit_gain': (0.5, 0.1),
  'bias': (0.0, 0.1),
  'b': (0.0, 0.1),
  'offset': (0.0, 0.1),
}
_WEIGHT = (0.0, 0.05)


def fill(shapes):
  """A Haiku tree of parameters, each leaf seeded with its own path."""
  return {
    module: {
      name: _leaf(f'{module}/{name}', name, leaf.shape)
      for name, leaf in leaves.items()
    }
    for module, leaves in shapes.items()
  }


def entry(name, shape):
  """An entry `module.name` of a state_dict of PyTorch's, seeded with that."""
  return _leaf(name, name.rpartition('.')[2], shape)


def images(shape):
  """A unit normal's, seeded with 0."""
  return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


def _leaf(path, name, shape):
  mean, std = _FILLINGS.get(name, _WEIGHT)
  random = np.random.RandomState(zlib.crc32(path.encode()))
  return np.asarray(mean + std * random.standard_normal(shape), np.float32)
