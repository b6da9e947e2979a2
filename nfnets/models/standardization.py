"""Scaled Weight Standardization (paper B, equation 1) and its gradient."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import layout

WS_EPS = ('published', 'timm')


def standardize(
  w: jax.Array,
  gain: jax.Array,
  eps: str = 'published',
  dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
  """Scaled Weight Standardization, its statistics in float32 (B, equation 1).

  Args:
    w: `[kh, kw, C / groups, O]`.
    gain: `[O]`.
    eps: 'published' for gain / sqrt(max(var N, 1e-4)), N = kh kw C / groups,
      'timm' for gain / sqrt((var + 1e-5) N).
    dtype: of the result, which is rounded once, at the end.

  Returns:
    `[kh, kw, C / groups, O]`: per output mean 0, variance gain^2 / N.
  """
  if eps not in WS_EPS:
    raise ValueError(f'no ws_eps {eps!r}: choose one of {", ".join(WS_EPS)}.')
  return _standardize(w, gain.astype(jnp.float32), eps, jnp.dtype(dtype))


# Differentiated by hand: it reads the weights twice where JAX reads them four
# times, and a large network's step on a TPU waits for memory.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _standardize(
  w: jax.Array, gain: jax.Array, eps: str, dtype: jnp.dtype
) -> jax.Array:
  return _forward(w, gain, eps, dtype)[0]


def _forward(
  w: jax.Array, gain: jax.Array, eps: str, dtype: jnp.dtype
) -> tuple[jax.Array, tuple]:
  shape = w.shape
  given, w = w, _around_first(w)
  fan_in = len(w)
  # Both moments in one pass.
  mean = jnp.mean(w, axis=0, keepdims=True)
  var = jnp.mean(w**2, axis=0, keepdims=True) - mean**2
  if eps == 'published':
    floored = var * fan_in < 1e-4
    scale = lax.rsqrt(jnp.maximum(var * fan_in, 1e-4))  # base.py:134
  else:
    floored = jnp.zeros_like(var, bool)
    scale = lax.rsqrt((var + 1e-5) * fan_in)  # timm std_conv.py:222-231
  out = (w - mean) * (scale * gain[None])
  out = _row_by_row(out.astype(dtype).reshape(shape))
  return out, (given, gain, mean, scale, floored)


def _backward(
  eps: str, dtype: jnp.dtype, residuals: tuple, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  given, gain, mean, scale, floored = residuals
  w = _around_first(given)
  shape = cotangent.shape
  cotangent = _matrix(_row_by_row(cotangent)).astype(jnp.float32)
  mean_cotangent = jnp.mean(cotangent, axis=0, keepdims=True)
  # The sum of cotangent * (w - mean): the gain's gradient and the variance's.
  product = jnp.sum(cotangent * w, axis=0, keepdims=True)
  product = product - len(w) * mean * mean_cotangent
  slope = scale * gain[None]
  of_var = jnp.where(floored, 0.0, slope * scale**2 * product)
  grad = slope * (cotangent - mean_cotangent) - of_var * (w - mean)
  return grad.reshape(shape).astype(given.dtype), (product * scale)[0]


_standardize.defvjp(_forward, _backward)


def _around_first(w: jax.Array) -> jax.Array:
  """`[fan-in, O]` less its first row, float32.

  Moments around it don't cancel, and rounding loses nothing to a large mean.
  """
  w = _matrix(w).astype(jnp.float32)
  return w - w[:1]


def _matrix(w: jax.Array) -> jax.Array:
  """`[fan-in, O]`.

  XLA's CPU backend reduces the gradient of leading axes of size 1 at a tenth of
  the speed.
  """
  return w.reshape(-1, w.shape[-1])


def _row_by_row(x: jax.Array) -> jax.Array:
  """Lays x out as a program's arguments are: the last axis densest.

  Convolutions on accelerators want their weights, and leave their gradient,
  with the axes in another order. Unconstrained, XLA's TPU and GPU backends
  reorder what is float32 to match: the parameters before they are
  standardized, and them and their momentum for the update, which can't be
  written in place then. This way they reorder what is already rounded, or not
  yet widened.
  """
  order = layout.Layout(tuple(range(x.ndim)))
  return lax.platform_dependent(
    x,
    cpu=lambda x: x,
    default=lambda x: layout.with_layout_constraint(x, order),
  )
