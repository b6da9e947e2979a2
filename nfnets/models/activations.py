"""Nonlinearities scaled by gamma to keep a unit normal's variance at one."""

import difflib
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from nfnets.models.platform import traced_platform

Activation = Callable[[jax.Array], jax.Array]


FUNCTIONS: dict[str, Activation] = {
  'identity': lambda x: x,
  'celu': jax.nn.celu,
  'elu': jax.nn.elu,
  'gelu': functools.partial(jax.nn.gelu, approximate=True),
  'gelu_erf': functools.partial(jax.nn.gelu, approximate=False),
  'glu': jax.nn.glu,
  'leaky_relu': jax.nn.leaky_relu,
  'log_sigmoid': jax.nn.log_sigmoid,
  'log_softmax': jax.nn.log_softmax,
  'relu': jax.nn.relu,
  'relu6': jax.nn.relu6,
  'selu': jax.nn.selu,
  'sigmoid': jax.nn.sigmoid,
  'silu': jax.nn.silu,
  'soft_sign': jax.nn.soft_sign,
  'softplus': jax.nn.softplus,
  'tanh': jnp.tanh,
}

# The released constants (base.py:101-118), 0.04 to 0.09 % above the exact
# 1 / std(f(z)): published weights were trained with these.
GAMMAS = {
  'identity': 1.0,
  'celu': 1.270926833152771,
  'elu': 1.2716004848480225,
  'gelu': 1.7015043497085571,
  'gelu_erf': 1.7015043497085571,
  'glu': 1.8484294414520264,
  'leaky_relu': 1.70590341091156,
  'log_sigmoid': 1.9193484783172607,
  'log_softmax': 1.0002083778381348,
  'relu': 1.7139588594436646,
  'relu6': 1.7131484746932983,
  'selu': 1.0008515119552612,
  'sigmoid': 4.803835391998291,
  'silu': 1.7881293296813965,
  'soft_sign': 2.338853120803833,
  'softplus': 1.9203323125839233,
  'tanh': 1.5939117670059204,
}


def get(name: str, scaled: bool = True) -> Activation:
  """Returns gamma * f, elementwise (paper B, equation 4).

  Args:
    name: one of `GAMMAS`; 'gelu' is the tanh form the published networks were
      trained with, 'gelu_erf' the exact one.
    scaled: False for f alone, as batch-normalized networks use it.

  Raises:
    ValueError: for an unknown name.
  """
  if name not in FUNCTIONS:
    near = difflib.get_close_matches(name, FUNCTIONS, n=1, cutoff=0.5)
    hint = {'swish': 'silu'}.get(name, near[0] if near else None)
    known = f'did you mean {hint}?' if hint else f'known: {", ".join(GAMMAS)}.'
    raise ValueError(f'no activation {name!r}: {known}')
  function, gamma = FUNCTIONS[name], GAMMAS[name]
  if name in ('gelu', 'silu'):
    function = _recomputed(function)
  return (lambda x: function(x) * gamma) if scaled else function


def _recomputed(function: Activation) -> Activation:
  """The same function, of which the backward pass keeps the input alone.

  XLA's CPU and GPU backends keep a tanh or exponential otherwise, beside the
  input that they keep anyway: more memory, and more traffic than computing it
  again (results/speed.md). On a TPU XLA recomputes by itself, and a barrier
  would keep it from fusing the gradient into the convolution before it.
  """

  def recomputed(x: jax.Array) -> jax.Array:
    has_barrier = traced_platform() != 'tpu'
    return jax.checkpoint(function, prevent_cse=has_barrier)(x)

  return recomputed
