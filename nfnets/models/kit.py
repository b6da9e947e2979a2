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
    activation: scaled by gamma with weight standardization.
    se_activation: squeeze-excite's, if it is to be the network's own.
    conv: `conv(channels, kernel, stride=1, groups=1, name=...)`.
    norm: `norm(name=...)`; its result, `norm(x, is_training)`, is the identity
      when `is_nf`.
  """

  is_nf: bool
  activation: activations.Activation
  conv: Callable[..., hk.Module]
  norm: Callable[..., Callable[[jax.Array, bool], jax.Array]]
  se_activation: activations.Activation


def make(
  normalizer: str,
  activation: str,
  ws_eps: str = 'published',
  cross_replica_axis: str | None = None,
  padding: str = 'same',
  folded: bool = False,
  known: tuple[str, ...] = ('nf', 'batch'),
) -> Kit:
  """Chooses the kit of a normalizer.

  Args:
    normalizer: 'nf'; 'batch' for plain convolutions, batch normalization and
      plain activations; 'none' for He-initialized convolutions with biases and
      plain activations between alpha, expected std and skip gain.
    activation: name in `activations.GAMMAS`.
    ws_eps: see `layers.standardize`.
    cross_replica_axis: of 'batch', see `layers.BatchNorm`.
    padding: see `layers.WSConv2D`.
    folded: of 'nf', whether the weights hold every constant, as
      `nfnets.weights.fold` makes them: for inference.
    known: the normalizers that the network offers.

  Raises:
    ValueError: for an unknown or impossible choice.
  """
  for name, value, choices in (
    ('normalizer', normalizer, known),
    ('ws_eps', ws_eps, layers.WS_EPS),
    ('padding', padding, layers.PADDINGS),
  ):
    if value not in choices:
      raise ValueError(f'no {name} {value!r}: use {" or ".join(choices)}.')
  plain = activations.get(activation, scaled=False)
  scaled = activations.get(activation)
  if folded and normalizer != 'nf':
    raise ValueError("folded=True folds normalizer='nf' alone.")
  if normalizer == 'batch':
    conv = functools.partial(
      layers.Conv2D, w_init=layers.truncated_fan_in, padding=padding
    )
    norm = functools.partial(
      layers.BatchNorm, cross_replica_axis=cross_replica_axis
    )
    return Kit(False, plain, conv, norm, plain)
  if normalizer == 'none':
    conv = functools.partial(layers.Conv2D, with_bias=True, padding=padding)
    return Kit(True, plain, conv, identity, plain)
  if folded:
    conv = functools.partial(layers.Conv2D, with_bias=True, padding=padding)
    return Kit(False, plain, conv, identity, scaled)
  conv = functools.partial(layers.WSConv2D, eps=ws_eps, padding=padding)
  return Kit(True, scaled, conv, identity, scaled)


def se_activation(name: str, kit: Kit) -> activations.Activation:
  """Squeeze-excite's own: 'relu' as released, or 'network' for the kit's."""
  if name == 'network':
    return kit.se_activation
  return activations.get(name, scaled=False)


def skip_gain(init: float | Callable) -> jax.Array:
  """The block's learned scalar (SkipInit), `[]`, in the calling module."""
  if not callable(init):
    init = hk.initializers.Constant(init)
  return hk.get_parameter('skip_gain', (), jnp.float32, init)


def identity(name: str) -> Callable[[jax.Array, bool], jax.Array]:
  """A norm that does nothing."""
  del name
  return lambda x, is_training: x
