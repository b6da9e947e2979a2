"""The optimizer, the masks it applies, and the table that reports them.

The chain is: clipping, an optimizer with weight decay, minus the learning rate.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tabulate

from nfnets.models import layers, network
from nfnets.optim import agc, parameters

OPTIMIZERS = ('sgd', 'adamw', 'lamb', 'muon')
CLIPPERS = ('agc', 'norm', 'layer', 'none')
DECAYED = ('weights', 'all')

Tree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The settings of an optimizer: the keys of `config.optimizer`, and `axes`.

  Parameters are selected by label ('head'), stage ('stem', 'stage_1', 'final')
  or pattern, see `parameters.select`.

  Attributes:
    name: one of `OPTIMIZERS`; what isn't set here has optax's default.
    momentum: of sgd, 0 for none; the decay of the first moment (adamw, lamb) or
      of the momentum that muon orthogonalizes.
    nesterov: whether sgd and muon look ahead.
    weight_decay: its product with W is added before the learning rate: to the
      clipped gradient (sgd), or to the optimizer's step (others).
    decayed: 'weights' for all but gains and biases, or 'all', as He et al.
      (2015) do.
    clip: 'agc', 'norm' (the norm of all clipped gradients together), 'layer'
      (the norm of each tensor's gradient) or 'none'.
    clipping: lambda for 'agc', the largest norm for 'norm' and 'layer'; None
      for no clipping.
    eps: AGC's lower bound on the norms of parameters.
    axes: AGC's units by name, see `agc.unit_axes`.
    unclipped: parameters that aren't clipped.
    frozen: parameters that stay bit for bit the same: they aren't clipped or
      decayed, don't count towards a norm, and have no momentum.
    learning_rate_scales: pairs of an entry and a factor of the learning rate of
      the parameters that it selects; the last pair that selects one applies.
  """

  name: str = 'sgd'
  momentum: float = 0.9
  nesterov: bool = True
  weight_decay: float = 0.0
  decayed: str = 'weights'
  clip: str = 'agc'
  clipping: float | None = None
  eps: float = 1e-3
  axes: agc.Axes | None = None
  unclipped: Iterable[str] = ('head',)
  frozen: Iterable[str] = ()
  learning_rate_scales: Iterable[tuple[str, float]] = ()

  def __post_init__(self):
    layers.check_choice('optimizer.name', self.name, OPTIMIZERS)
    layers.check_choice('optimizer.clip', self.clip, CLIPPERS)
    layers.check_choice('optimizer.decayed', self.decayed, DECAYED)
    if self.clips and not self.clipping > 0:
      raise ValueError(f'clipping must be above 0, got {self.clipping}')

  @property
  def clips(self) -> bool:
    return self.clip != 'none' and self.clipping is not None


@dataclasses.dataclass(frozen=True, order=True)
class Group:
  """How parameters are treated; those treated alike form a group."""

  label: str
  decayed: bool
  clipped: bool
  factor: float  # of the learning rate; 0 if frozen


def sgd(
  learning_rate: float | optax.Schedule, **settings: Any
) -> optax.GradientTransformation:
  """The published optimizer, if given its settings: SGD with Nesterov momentum.

  By default nothing is clipped or decayed; F0 has `clipping=0.01` and
  `weight_decay=2e-5`. Clipping leaves out the head, `<root>/~/linear`; if
  yours has another name, pass a pattern, `unclipped=('my_net/logits',)`.
  `optax.inject_hyperparams` takes a function of what it injects:
  `optax.inject_hyperparams(lambda rate: sgd(rate, clipping=0.01))(rate=0.1)`.

  Args:
    learning_rate: a number or a schedule.
    **settings: fields of `Settings`.

  Source: Brock, De, Smith and Simonyan 2021, appendix A.1.
  """
  return create(learning_rate, Settings(name='sgd', **settings))


def create(
  learning_rate: float | optax.Schedule, settings: Settings
) -> optax.GradientTransformation:
  """Creates an optax transformation that labels the parameters itself.

  Its masks come from `groups`, as does `table`. The blocks of a stack are
  clipped and scaled one by one. `update` needs `params`; `init` raises
  ValueError if a parameter has no label or an entry selects no parameter.
  """

  def mask(field: str) -> Callable[[Tree], Tree]:
    return lambda params: jax.tree.map(
      lambda group: bool(getattr(group, field)), groups(params, settings)
    )

  def trained(link: optax.GradientTransformation) -> Any:
    return optax.masked(link, mask('factor')) if settings.frozen else link

  # Present even at a decay of 0, because its mask refuses unknown parameters.
  decay = optax.add_decayed_weights(settings.weight_decay, mask('decayed'))
  momentum = settings.momentum
  match settings.name:
    case 'sgd':
      trace = optax.trace(momentum, settings.nesterov, jnp.float32)
      links = [decay, trained(trace)] if momentum else [decay]
    case 'adamw':
      links = [trained(optax.scale_by_adam(momentum)), decay]
    case 'lamb':
      adam = optax.scale_by_adam(momentum, eps=1e-6)
      links = [trained(adam), decay, by_block(optax.scale_by_trust_ratio())]
    case 'muon':
      links = [trained(_muon(momentum, settings.nesterov)), decay]
  clip = optax.identity()
  if settings.clips:
    clip = optax.masked(_clipper(settings), mask('clipped'))
  links = [clip, *links, optax.scale_by_learning_rate(learning_rate)]
  if settings.frozen or settings.learning_rate_scales:
    links.append(_scale_groups(settings))
  return optax.chain(*links)


def _clipper(settings: Settings) -> optax.GradientTransformation:
  match settings.clip:
    case 'agc':
      return agc.adaptive_grad_clip(
        settings.clipping, settings.eps, axes=settings.axes
      )
    case 'norm':
      return optax.clip_by_global_norm(settings.clipping)
    case 'layer':
      return by_block(optax.clip_by_global_norm(settings.clipping))


def _muon(momentum: float, nesterov: bool) -> optax.GradientTransformation:
  """Orthogonalizes weights as matrices `[H W I, O]`; Adam for all others.

  The head uses Adam too (Jordan 2024: muon is for hidden layers). With a
  learning rate of -1, the last link of the chain sets sign and size of a step.
  """

  def dimensions(params: Tree) -> Tree:
    def of_leaf(path: tuple, leaf: jax.Array, label: str) -> Any:
      first = int(network.is_stacked(parameters.path_name(path)))
      if label != 'weight' or leaf.ndim - first < 2:
        return None
      return optax.contrib.MuonDimensionNumbers(
        tuple(range(first, leaf.ndim - 1)), (leaf.ndim - 1,)
      )

    return jax.tree.map_with_path(of_leaf, params, parameters.labels(params))

  return optax.contrib.muon(
    -1.0,
    beta=momentum,
    nesterov=nesterov,
    muon_weight_dimension_numbers=dimensions,
  )


def by_block(
  rule: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Applies a stateless rule to each tensor, and to each block of a stack."""

  def of_block(name: str, update: jax.Array, param: jax.Array) -> jax.Array:
    return rule.update(update, optax.EmptyState(), param)[0]

  return optax.stateless(functools.partial(parameters.map_blocks, of_block))


def _scale_groups(settings: Settings) -> optax.GradientTransformation:
  def scale(update: jax.Array, group: Group) -> jax.Array:
    return update * group.factor if group.factor else jnp.zeros_like(update)

  return optax.stateless(
    lambda updates, params: jax.tree.map(
      scale, updates, groups(params, settings)
    )
  )


def groups(params: Tree, settings: Settings) -> Tree:
  """Each parameter's `Group`, from which chain and table take their masks.

  Raises:
    ValueError: if an entry selects no parameter, a factor isn't above 0, or a
      parameter has no label.
  """

  def of_leaf(
    label: str, factor: float, unclipped: bool, frozen: bool
  ) -> Group:
    if frozen:
      return Group('frozen', decayed=False, clipped=False, factor=0.0)
    return Group(
      label,
      decayed=settings.decayed == 'all' or label != 'gain_or_bias',
      clipped=settings.clips and not unclipped,
      factor=factor,
    )

  return jax.tree.map(
    of_leaf,
    parameters.labels(params),
    _learning_rate_factors(params, settings),
    _selected(params, settings, 'unclipped'),
    _selected(params, settings, 'frozen'),
  )


def _learning_rate_factors(params: Tree, settings: Settings) -> Tree:
  factors = jax.tree.map(lambda _: 1.0, params)
  for pair in settings.learning_rate_scales:
    with parameters.naming('optimizer.learning_rate_scales', pair):
      is_pair = isinstance(pair, list | tuple) and len(pair) == 2
      is_number = is_pair and isinstance(pair[1], numbers.Real)
      if not is_number or not 0 < pair[1] < float('inf'):
        raise ValueError(
          "give an entry and a factor above 0, such as ('stage_1', 0.1); to "
          'keep parameters fixed use optimizer.frozen'
        )
      hits = parameters.select(params, pair[0])
    factors = jax.tree.map(
      lambda old, hit, factor=float(pair[1]): factor if hit else old,
      factors,
      hits,
    )
  return factors


def _selected(params: Tree, settings: Settings, field: str) -> Tree:
  entries = getattr(settings, field)
  with parameters.naming(f'optimizer.{field}', entries):
    return parameters.select(params, entries)


def table(params: Tree, learning_rate: float, settings: Settings) -> str:
  """A table of how parameters are treated: a row per group, and the totals.

  Args:
    params: parameters, or their shapes.
    learning_rate: its peak.
    settings: as for `create`.
  """
  counts, examples = {}, {}  # tensors, parameters and units; a path
  of_leaf = jax.tree.leaves(groups(params, settings))
  for (path, x), group in zip(jax.tree.flatten_with_path(params)[0], of_leaf):
    name, units = parameters.path_name(path), 0
    if group.clipped and settings.clip == 'agc':
      norms = functools.partial(agc.unit_norms, axes=settings.axes)
      units = jax.eval_shape(norms, {name: x})[name].size
    members = network.members(name)
    own = np.array([len(members), math.prod(x.shape), units])
    counts[group] = counts.get(group, 0) + own
    examples.setdefault(group, members[0])
  rows = [
    [
      group.label,
      *counts[group],
      f'{settings.weight_decay if group.decayed else 0:g}',
      f'{settings.clip} {settings.clipping:g}' if group.clipped else 'none',
      f'{learning_rate * group.factor:g}',
      examples[group],
    ]
    for group in sorted(counts)
  ]
  rows.append(['all', *sum(counts.values())])
  head = ['group', 'tensors', 'parameters', 'units', 'decay', 'clipping']
  return tabulate.tabulate(
    rows,
    [*head, 'learning rate', 'for example'],
    tablefmt='plain',
    intfmt=',',
    colalign=('left', *['right'] * 6, 'left'),
  )


def moving_average(
  average: Tree,
  new: Tree,
  step: jax.Array | int,
  decay: float,
  mode: str = 'warmup',
) -> Tree:
  """Updates an exponential moving average (EMA).

  Args:
    average: the averages so far; they keep their types.
    new: the values of this step, in the same structure; counters are copied.
    step: t, the number of steps before this one.
    decay: weight of the old average, in [0, 1].
    mode: 'constant' uses `decay`, 'warmup' min(decay, (1 + t) / (10 + t)), so
      that early averages forget the initial values.
  """
  # In float32, 1 - decay is more precise than decay if decay is close to 1.
  weight = jnp.float32(1 - decay)
  if mode == 'warmup':
    weight = jnp.maximum(weight, 9 / (10 + jnp.asarray(step, jnp.float32)))

  def move(old: jax.Array, value: jax.Array) -> jax.Array:
    if not jnp.issubdtype(old.dtype, jnp.floating):
      return value
    moved = old + weight * (value.astype(jnp.float32) - old)
    return moved.astype(old.dtype)

  return jax.tree.map(move, average, new)
