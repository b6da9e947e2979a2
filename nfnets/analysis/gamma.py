"""Computes the gamma of any activation (paper B, section 4.2)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nfnets.models import activations

_NOT_ELEMENTWISE = ('glu', 'log_softmax')


def derive(activation: str | Callable[[jax.Array], jax.Array]) -> float:
  """Returns 1 / std(f(z)) for z ~ N(0, 1).

  Args:
    activation: a name in `activations.GAMMAS`, or f, an elementwise function.
      The two named ones that mix channels are sampled instead of integrated,
      with 0.05 % of noise.
  """
  elementwise = activation not in _NOT_ELEMENTWISE
  if isinstance(activation, str):
    activation = activations.get(activation, scaled=False)
  if elementwise:
    z, weights = _quadrature()
  else:
    z = np.random.RandomState(0).standard_normal((2**15, 256))
    weights = None
  y = np.asarray(activation(jnp.asarray(z, jnp.float32)), np.float64)
  mean = np.average(y, weights=weights)
  return float(1 / np.sqrt(np.average((y - mean) ** 2, weights=weights)))


def _quadrature() -> tuple[np.ndarray, np.ndarray]:
  """Points and weights of a standard normal, truncated at 10 deviations."""
  z = np.linspace(-10, 10, 100_001)
  return z, np.exp(-(z**2) / 2)
