"""Nonlinearities scaled by gamma to keep a unit normal's variance at one."""

import difflib
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Activation = Callable[[jax.Array], jax.Array]


def _with_slope(function: Activation, slope: Activation) -> Activation:
  """The same function; its gradient is `slope`'s, of what it was given alone.

  By JAX's own derivative, XLA's CPU and GPU backends keep every tanh (or
  exponential) for the backward pass, beside the input that they keep anyway:
  more memory, and more traffic than taking it again (results/speed.md). A
  slope that is written by another function can't be merged with it. On TPUs
  XLA takes it again by itself.
  """

  def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return function(x), x

  def backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    def by_jax(x: jax.Array, cotangent: jax.Array) -> jax.Array:
      return jax.vjp(function, x)[1](cotangent)[0]

    def by_slope(x: jax.Array, cotangent: jax.Array) -> jax.Array:
      wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
      return (cotangent * slope(wide)).astype(x.dtype)

    product = lax.platform_dependent(x, cotangent, tpu=by_jax, default=by_slope)
    return (product,)

  made = jax.custom_vjp(function)
  made.defvjp(forward, backward)
  return made


def _gelu_slope(x: jax.Array) -> jax.Array:
  # Of x (1 + tanh(u)) / 2 = x s for s = sigmoid(2 u),
  # u = sqrt(2 / pi) (x + 0.044715 x^3).
  scale = 2 * (2 / jnp.pi) ** 0.5
  gate = jax.nn.sigmoid(scale * (x + 0.044715 * x**3))
  return gate + x * gate * (1 - gate) * scale * (1 + 3 * 0.044715 * x**2)


def _silu_slope(x: jax.Array) -> jax.Array:
  # Of x s(x), s the sigmoid: s (1 + x s(-x)). Where x < 0, 1 - s(-x) cancels.
  closed = jax.nn.sigmoid(-x)
  gate = jnp.where(x < 0, jnp.exp(jnp.minimum(x, 0)) * closed, 1 - closed)
  return gate * (1 + x * closed)


FUNCTIONS: dict[str, Activation] = {
  'identity': lambda x: x,
  'celu': jax.nn.celu,
  'elu': jax.nn.elu,
  'gelu': _with_slope(
    functools.partial(jax.nn.gelu, approximate=True), _gelu_slope
  ),
  'gelu_erf': functools.partial(jax.nn.gelu, approximate=False),
  'glu': jax.nn.glu,
  'leaky_relu': jax.nn.leaky_relu,
  'log_sigmoid': jax.nn.log_sigmoid,
  'log_softmax': jax.nn.log_softmax,
  'relu': jax.nn.relu,
  'relu6': jax.nn.relu6,
  'selu': jax.nn.selu,
  'sigmoid': jax.nn.sigmoid,
  'silu': _with_slope(jax.nn.silu, _silu_slope),
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

  Differentiable in reverse, any number of times; 'gelu' and 'silu' not in
  forward mode.

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
  if not scaled:
    return function
  return lambda x: function(x) * gamma
