"""Every parameter's label, and the published chain that follows from it.

Clipping, then weight decay, then momentum, then the learning rate.
"""

import functools
from collections.abc import Iterable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

from nfnets import stacks
from nfnets.optim import agc, groups
from nfnets.optim.groups import labels

CLIPPERS = ('agc', 'norm', 'layer', 'none')
DECAYED = ('weights', 'all')

Tree = TypeVar('Tree')


def sgd(
  learning_rate: float | optax.Schedule,
  *,
  momentum: float = 0.9,
  nesterov: bool = True,
  weight_decay: float = 0.0,
  clipping: float | None = None,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
  clip: str = 'agc',
  axes: agc.Axes | None = None,
  decayed: str = 'weights',
  frozen: Iterable[str] = (),
  learning_rate_scales: Iterable[tuple[str, float]] = (),
) -> optax.GradientTransformation:
  """The published optimizer: clip, decay, Nesterov momentum, -learning rate.

  Args:
    learning_rate: a number or a schedule.
    momentum: 0 for none. b <- momentum * b + g.
    nesterov: whether the step is g + momentum * b, or b alone.
    weight_decay: times W, added to the clipped gradients of what `decayed`
      says; coupled with the learning rate.
    clipping: threshold of the clipper, lambda for AGC; None switches it off.
    eps: AGC's floor of the parameters' norms.
    unclipped: who isn't clipped: labels, places such as 'stem' and 'stage_1',
      or patterns, as `groups.select` reads them.
    clip: which clipper, one of `CLIPPERS`.
    axes: AGC's units for parameters whose rank doesn't tell them.
    decayed: 'weights' for all but gains and biases; 'all', as He et al. (2015)
      decay.
    frozen: who stays bit for bit as it is, read as `unclipped`: not clipped,
      not part of a norm, not decayed, without momentum.
    learning_rate_scales: pairs of whom, read as `unclipped`, and a factor of
      its learning rate; the last that names a parameter counts.

  Returns:
    A transformation that labels the parameters by itself; its `update` needs
    `params`.

  Source: Brock, De, Smith and Simonyan 2021, appendix A.1.
  """
  if decayed not in DECAYED:
    raise ValueError(f'unknown decayed {decayed!r}; choose from {DECAYED}')
  unclipped, frozen = groups.entries(unclipped), groups.entries(frozen)
  links = [
    clipper(
      'none' if clipping is None else clip,
      clipping,
      eps,
      (*unclipped, *frozen),
      axes,
    )
  ]
  # Without decay too, since labelling is what refuses unknown parameters.
  links.append(
    optax.add_decayed_weights(
      weight_decay, mask=lambda params: is_decayed(params, decayed, frozen)
    )
  )
  if momentum:
    trace = optax.trace(momentum, nesterov, jnp.float32)
    links.append(
      optax.masked(trace, lambda params: _is_trained(params, frozen))
      if frozen
      else trace
    )
  links.append(optax.scale_by_learning_rate(learning_rate))
  if frozen or learning_rate_scales:
    links.append(scale_groups(learning_rate_scales, frozen))
  return optax.chain(*links)


def scale_groups(
  scales: Iterable[tuple[str, float]], frozen: Iterable[str] = ()
) -> optax.GradientTransformation:
  """The last link: multiplies the updates; those of frozen ones become 0.

  Args:
    scales: as `learning_rate_scales` of `sgd`.
    frozen: as for `sgd`.
  """

  def init(params: Tree) -> optax.EmptyState:
    groups.factors(params, scales, frozen)  # refuses what names nothing
    return optax.EmptyState()

  def update(
    updates: Tree, state: optax.EmptyState, params: Tree | None = None
  ) -> tuple[Tree, optax.EmptyState]:
    def scale(update: jax.Array, factor: float) -> jax.Array:
      return update * factor if factor else jnp.zeros_like(update)

    factors = groups.factors(params, scales, frozen)
    return jax.tree.map(scale, updates, factors), state

  return optax.GradientTransformation(init, update)


def clipper(
  name: str,
  threshold: float | None,
  eps: float = 1e-3,
  unclipped: Iterable[str] = ('head',),
  axes: agc.Axes | None = None,
) -> optax.GradientTransformation:
  """The first link of a chain, by the name a config gives it.

  Args:
    name: 'agc'; 'norm', the norm of all clipped gradients together; 'layer',
      the norm of each parameter's gradient; 'none'.
    threshold: lambda for 'agc', the largest norm for 'norm' and 'layer'.
    eps: AGC's floor of the parameters' norms.
    unclipped: as for `sgd`.
    axes: as for `sgd`.

  Raises:
    ValueError: for an unknown name, a threshold that isn't above 0, and, at
      `init`, for an entry of `unclipped` that names nothing.
  """
  if name not in CLIPPERS:
    raise ValueError(f'unknown clipper {name!r}; choose from {CLIPPERS}')
  if name == 'none':
    return optax.identity()
  if threshold is None or not threshold > 0:
    raise ValueError(f'clipping must be above 0 for {name!r}, got {threshold}')
  links = {
    'agc': lambda: agc.adaptive_grad_clip(threshold, eps, axes=axes),
    'norm': lambda: optax.clip_by_global_norm(threshold),
    'layer': lambda: clip_by_layer_norm(threshold),
  }
  unclipped = groups.entries(unclipped)
  return optax.masked(
    links[name](), lambda params: is_clipped(params, unclipped)
  )


def clip_by_layer_norm(max_norm: float) -> optax.GradientTransformation:
  """Holds the norm of each tensor's gradient at or below `max_norm`.

  Of a stack of equal blocks, that of each block's.
  """

  @functools.partial(jax.jit, static_argnums=1)
  def clip(grad: jax.Array, stack_axes: int) -> jax.Array:
    axes = tuple(range(stack_axes, grad.ndim))
    square = jnp.square(grad.astype(jnp.float32))
    norm = jnp.sqrt(jnp.sum(square, axes, keepdims=True))
    clipped = grad * (max_norm / jnp.where(norm == 0, 1.0, norm))
    return jnp.where(norm <= max_norm, grad, clipped.astype(grad.dtype))

  def clip_leaf(path: tuple[object, ...], grad: jax.Array) -> jax.Array:
    return clip(grad, int(stacks.is_stack(groups.path_name(path))))

  return optax.stateless(
    lambda updates, _: jax.tree.map_with_path(clip_leaf, updates)
  )


def is_decayed(
  params: Tree, decayed: str = 'weights', frozen: Iterable[str] = ()
) -> Tree:
  """Which parameters weight decay applies to; arguments as for `sgd`."""
  return jax.tree.map(
    lambda label, trained: (
      trained and (decayed == 'all' or label != 'gain_or_bias')
    ),
    labels(params),
    _is_trained(params, frozen),
  )


def _is_trained(params: Tree, frozen: Iterable[str]) -> Tree:
  return jax.tree.map(lambda hit: not hit, groups.select(params, frozen))


def is_clipped(params: Tree, unclipped: Iterable[str] = ('head',)) -> Tree:
  """Which parameters are clipped; `unclipped` as for `sgd`.

  Raises:
    ValueError: for an entry of `unclipped` that names nothing.
  """
  return jax.tree.map(lambda hit: not hit, groups.select(params, unclipped))
