"""What a normalizer-free block is made of, or its batch-normalized twin."""

import dataclasses
import functools
from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers


@dataclasses.dataclass(frozen=True)
class Kit:
  """The layers that one choice of normalizer stands for.

  Attributes:
    is_nf: whether alpha, expected std and skip gain apply.
    activation: scaled by gamma when `is_nf`.
    conv: `conv(channels, kernel, stride=1, groups=1, name=...)`.
    norm: `norm(name=...)`; its result, `norm(x, is_training)`, is the identity
      when `is_nf`.
  """

  is_nf: bool
  activation: activations.Activation
  conv: Callable[..., hk.Module]
  norm: Callable[..., Callable[[jax.Array, bool], jax.Array]]


def make(
  normalizer: str,
  activation: str,
  ws_eps: str = 'published',
  cross_replica_axis: str | None = None,
) -> Kit:
  """Chooses the kit of `normalizer`, 'nf' or 'batch'.

  Raises:
    ValueError: for an unknown normalizer, activation or `ws_eps`.
  """
  if normalizer == 'nf':
    if ws_eps not in layers.WS_EPS:
      raise ValueError(
        f'no ws_eps {ws_eps!r}: use {" or ".join(layers.WS_EPS)}.'
      )
    conv = functools.partial(layers.WSConv2D, eps=ws_eps)
    return Kit(True, activations.get(activation), conv, _identity)
  if normalizer == 'batch':
    norm = functools.partial(
      layers.BatchNorm, cross_replica_axis=cross_replica_axis
    )
    plain = activations.get(activation, scaled=False)
    return Kit(False, plain, layers.Conv2D, norm)
  raise ValueError(f"no normalizer {normalizer!r}: use 'nf' or 'batch'.")


def se_activation(name: str, kit: Kit) -> activations.Activation:
  """Squeeze-excite's own: 'relu' as released, or 'network' for the kit's."""
  if name == 'network':
    return kit.activation
  return activations.get(name, scaled=False)


def skip_gain(init: float | Callable) -> jax.Array:
  """The block's learned scalar (SkipInit), `[]`, in the calling module."""
  if not callable(init):
    init = hk.initializers.Constant(init)
  return hk.get_parameter('skip_gain', (), jnp.float32, init)


def _identity(name: str) -> Callable[[jax.Array, bool], jax.Array]:
  del name
  return lambda x, is_training: x
