"""Nonlinearities scaled by gamma, so that a unit normal keeps its variance."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nfnets.models.platform import traced_platform

Activation = Callable[[jax.Array], jax.Array]

# Function and gamma. The released gammas (base.py:101-118) exceed the exact
# 1 / std(f(z)) by 0.04 to 0.09 %, and the published weights depend on them.
_TABLE: dict[str, tuple[Activation, float]] = {
  'identity': (lambda x: x, 1.0),
  'celu': (jax.nn.celu, 1.270926833152771),
  'elu': (jax.nn.elu, 1.2716004848480225),
  'gelu': (jax.nn.gelu, 1.7015043497085571),  # its tanh approximation
  'gelu_erf': (lambda x: jax.nn.gelu(x, False), 1.7015043497085571),
  'glu': (jax.nn.glu, 1.8484294414520264),
  'leaky_relu': (jax.nn.leaky_relu, 1.70590341091156),
  'log_sigmoid': (jax.nn.log_sigmoid, 1.9193484783172607),
  'log_softmax': (jax.nn.log_softmax, 1.0002083778381348),
  'relu': (jax.nn.relu, 1.7139588594436646),
  'relu6': (jax.nn.relu6, 1.7131484746932983),
  'selu': (jax.nn.selu, 1.0008515119552612),
  'sigmoid': (jax.nn.sigmoid, 4.803835391998291),
  'silu': (jax.nn.silu, 1.7881293296813965),
  'soft_sign': (jax.nn.soft_sign, 2.338853120803833),
  'softplus': (jax.nn.softplus, 1.9203323125839233),
  'tanh': (jnp.tanh, 1.5939117670059204),
}
GAMMAS = {name: gamma for name, (_, gamma) in _TABLE.items()}


def get(name: str, scaled: bool = True) -> Activation:
  """Returns gamma * f, elementwise (paper B, equation 4).

  Args:
    name: one of `GAMMAS`. 'gelu' is the tanh approximation that the published
      networks use, 'gelu_erf' the exact function.
    scaled: False returns f itself, as batch-normalized networks use it.

  Raises:
    ValueError: if the name is unknown.
  """
  if name not in _TABLE:
    raise ValueError(
      f"unknown activation {name!r} (swish is 'silu'): choose one of "
      + ', '.join(_TABLE)
    )
  function, gamma = _TABLE[name]
  if name in SLOPES:
    function = _with_slope(function, SLOPES[name])
  return (lambda x: function(x) * gamma) if scaled else function


def _with_slope(function: Activation, slope: Activation) -> Activation:
  """Makes the backward pass save only the function's input.

  XLA's CPU and GPU backends would also save a tanh or an exponential, which
  costs memory, and more traffic than recomputing it (results/speed.md). They
  can't reuse it for a derivative written as another expression. For a TPU, XLA
  recomputes without being told.
  """

  @jax.custom_jvp
  def made(x: jax.Array) -> jax.Array:
    return function(x)

  @made.defjvp
  def _(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return function(x), (tangent * slope(wide)).astype(x.dtype)

  def recomputed(x: jax.Array) -> jax.Array:
    chosen = function if traced_platform() == 'tpu' else made
    return jax.checkpoint(chosen, prevent_cse=False)(x)

  return recomputed


def _gelu_slope(x: jax.Array) -> jax.Array:
  # The derivative of x (1 + tanh(u)) / 2 = x s, where s = sigmoid(2 u) and
  # u = sqrt(2 / pi) (x + 0.044715 x^3).
  scale = 2 * (2 / jnp.pi) ** 0.5
  gate = jax.nn.sigmoid(scale * (x + 0.044715 * x**3))
  return gate + x * gate * (1 - gate) * scale * (1 + 3 * 0.044715 * x**2)


def _silu_slope(x: jax.Array) -> jax.Array:
  # The derivative of x s(x), where s is the sigmoid, is s (1 + x s(-x)). For
  # x < 0, s = 1 - s(-x) would cancel.
  closed = jax.nn.sigmoid(-x)
  gate = jnp.where(x < 0, jnp.exp(jnp.minimum(x, 0)) * closed, 1 - closed)
  return gate * (1 + x * closed)


SLOPES = {'gelu': _gelu_slope, 'silu': _silu_slope}
