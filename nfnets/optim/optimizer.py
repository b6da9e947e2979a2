"""Every parameter's label, the masks, the chain, and the table of groups.

The chain: clipping, an optimizer with weight decay, minus the learning rate.
"""

import dataclasses
import functools
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tabulate

from nfnets.models import network
from nfnets.optim import agc

OPTIMIZERS = ('sgd', 'adamw', 'lamb', 'muon')
CLIPPERS = ('agc', 'norm', 'layer', 'none')
DECAYED = ('weights', 'all')
LABELS = ('gain_or_bias', 'head', 'weight')

Tree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What an optimizer is made of: the keys of `config.optimizer`.

  Who is named is a label ('head'), a place ('stem', 'stage_1', 'final') or a
  pattern, as `select` reads it.

  Attributes:
    name: one of `OPTIMIZERS`, at optax's defaults but for what is said here.
    momentum: 0 for none (sgd); the decay of the first moment (adamw, lamb) and
      of the momentum that muon orthogonalizes.
    nesterov: of sgd and muon: whether a step looks ahead.
    weight_decay: times W, added to what `decayed` says, before the learning
      rate: to the clipped gradient (sgd), to the optimizer's step (others).
    decayed: 'weights' for all but gains and biases; 'all', as He et al. (2015)
      decay.
    clip: 'agc'; 'norm', of all clipped gradients together; 'layer', of each
      tensor's gradient; 'none'.
    clipping: lambda for 'agc', the largest norm for the others; None for none.
    eps: AGC's floor of the parameters' norms.
    axes: AGC's units where the rank doesn't tell them.
    unclipped: who isn't clipped.
    frozen: who stays bit for bit as it is: not clipped, no part of a norm, not
      decayed, without momentum.
    learning_rate_scales: pairs of whom and a factor of its learning rate; the
      last that names a parameter counts.
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
    for key, choices in (
      ('name', OPTIMIZERS), ('clip', CLIPPERS), ('decayed', DECAYED)
    ):  # fmt: skip
      if getattr(self, key) not in choices:
        raise ValueError(
          f'optimizer.{key}={getattr(self, key)!r}: choose one of '
          + ', '.join(choices)
        )
    if self.clips and not self.clipping > 0:
      raise ValueError(f'clipping must be above 0, got {self.clipping}')

  @property
  def clips(self) -> bool:
    return self.clip != 'none' and self.clipping is not None


@dataclasses.dataclass(frozen=True, order=True)
class Group:
  """How a parameter is treated; those treated alike are one group."""

  label: str
  decayed: bool
  clipped: bool
  factor: float  # of the learning rate; 0 for the frozen


def sgd(
  learning_rate: float | optax.Schedule, **settings: Any
) -> optax.GradientTransformation:
  """The published optimizer: clip, decay, Nesterov momentum, -learning rate.

  Args:
    learning_rate: a number or a schedule.
    **settings: fields of `Settings`.

  Source: Brock, De, Smith and Simonyan 2021, appendix A.1.
  """
  return create(learning_rate, Settings(name='sgd', **settings))


def create(
  learning_rate: float | optax.Schedule, settings: Settings
) -> optax.GradientTransformation:
  """One optax transformation that labels a Haiku tree by itself.

  Its masks are `groups`, as is `table`. Of a stack, each block is clipped and
  scaled by itself. `update` needs `params`; `init` raises ValueError for a
  parameter without a label and for an entry that names nothing.
  """

  def mask(field: str) -> Callable[[Tree], Tree]:
    return lambda params: jax.tree.map(
      lambda group: bool(getattr(group, field)), groups(params, settings)
    )

  def trained(link: optax.GradientTransformation) -> Any:
    return optax.masked(link, mask('factor')) if settings.frozen else link

  # Without decay too: its mask is what refuses unknown parameters.
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
  """Orthogonalizes weights, `[H W I, O]` each; Adam for all else.

  The head is Adam's too (Jordan 2024: hidden layers). The learning rate of -1
  leaves the step's sign and size to the chain's last link.
  """

  def dimensions(params: Tree) -> Tree:
    def of_leaf(path: tuple, leaf: jax.Array, label: str) -> Any:
      first = int(network.is_stacked(agc.path_name(path)))
      if label != 'weight' or leaf.ndim - first < 2:
        return None
      return optax.contrib.MuonDimensionNumbers(
        tuple(range(first, leaf.ndim - 1)), (leaf.ndim - 1,)
      )

    return jax.tree.map_with_path(of_leaf, params, labels(params))

  return optax.contrib.muon(
    -1.0,
    beta=momentum,
    nesterov=nesterov,
    muon_weight_dimension_numbers=dimensions,
  )


def by_block(
  rule: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Applies a stateless rule to each tensor, of a stack to each block's."""

  def of_leaf(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
    return agc.per_block(
      agc.path_name(path),
      lambda update, param: rule.update(update, optax.EmptyState(), param)[0],
      update,
      param,
    )

  return optax.stateless(
    lambda updates, params: jax.tree.map_with_path(of_leaf, updates, params)
  )


def _scale_groups(settings: Settings) -> optax.GradientTransformation:
  def scale(update: jax.Array, group: Group) -> jax.Array:
    return update * group.factor if group.factor else jnp.zeros_like(update)

  return optax.stateless(
    lambda updates, params: jax.tree.map(
      scale, updates, groups(params, settings)
    )
  )


def groups(params: Tree, settings: Settings) -> Tree:
  """Each parameter's `Group`: all the masks of the chain and of the table.

  Raises:
    ValueError: for an entry that names nothing, a factor that isn't above 0,
      or a parameter that no label covers.
  """
  factors = jax.tree.map(lambda _: 1.0, params)
  for pair in settings.learning_rate_scales:
    if len(pair) != 2 or not 0 < float(pair[1]) < float('inf'):
      raise ValueError(
        f'{pair!r} is no pair of a name and a factor above 0, such as '
        "('stage_1', 0.1); what shall not move is frozen"
      )
    with agc.naming('optimizer.learning_rate_scales', pair):
      hits = select(params, pair[0])
    factors = jax.tree.map(
      lambda old, hit, factor=float(pair[1]): factor if hit else old,
      factors,
      hits,
    )

  def of_leaf(label: str, factor: float, spared: bool, frozen: bool) -> Group:
    return Group(
      'frozen' if frozen else label,
      decayed=not frozen
      and (settings.decayed == 'all' or label != 'gain_or_bias'),
      clipped=settings.clips and not (spared or frozen),
      factor=0.0 if frozen else factor,
    )

  with agc.naming('optimizer.unclipped', settings.unclipped):
    spared = select(params, settings.unclipped)
  with agc.naming('optimizer.frozen', settings.frozen):
    frozen = select(params, settings.frozen)
  return jax.tree.map(of_leaf, labels(params), factors, spared, frozen)


def table(params: Tree, learning_rate: float, settings: Settings) -> str:
  """Who is treated how: a line per group, and one of totals.

  Args:
    params: parameters, or their shapes.
    learning_rate: its peak.
    settings: those of the chain.
  """
  members: dict[Group, list[tuple[str, int, int, int]]] = {}
  of_leaf = jax.tree.leaves(groups(params, settings))
  for (path, x), group in zip(jax.tree.flatten_with_path(params)[0], of_leaf):
    name, units = agc.path_name(path), 0
    if group.clipped and settings.clip == 'agc':
      norms = functools.partial(agc.unit_norms, name, axes=settings.axes)
      units = jax.eval_shape(norms, x).size
    first, *others = network.members(name)
    row = first, 1 + len(others), math.prod(x.shape), units
    members.setdefault(group, []).append(row)

  def line(label: str, rows: Sequence[tuple], *cells: str) -> list[str]:
    _, *counts = zip(*rows)
    return [label, *(f'{sum(count):,}' for count in counts), *cells]

  lines = [
    line(
      group.label,
      members[group],
      f'{settings.weight_decay if group.decayed else 0:g}',
      f'{settings.clip} {settings.clipping:g}' if group.clipped else 'none',
      f'{learning_rate * group.factor:g}',
      members[group][0][0],
    )
    for group in sorted(members)
  ]
  lines.append(line('all', list(itertools.chain(*members.values()))))
  head = ['group', 'tensors', 'parameters', 'units', 'decay', 'clipping']
  return tabulate.tabulate(
    lines,
    [*head, 'learning rate', 'for example'],
    tablefmt='plain',
    disable_numparse=True,
    colalign=('left', *['right'] * 6, 'left'),
  )


def select(params: Tree, wanted: Iterable[str]) -> Tree:
  """True for every parameter that one of the entries names.

  Args:
    params: parameters, or their shapes.
    wanted: labels, places as `stages` names them, or patterns for
      `re.search` in the public path `module/name`, tried in this order.

  Raises:
    ValueError: for an empty entry, one that names nothing, or one that names
      some blocks of a stack alone. (A label may be absent: a network need not
      have a head.)
  """
  by_label, by_stage = labels(params), stages(params)
  places = sorted(set(jax.tree.leaves(by_stage)))
  found = jax.tree.map(lambda _: False, params)
  for entry in agc.as_entries(wanted):
    if entry in (*LABELS, *places):
      hits = jax.tree.map(
        lambda *names, entry=entry: entry in names, by_label, by_stage
      )
    else:
      known = ', '.join((*LABELS, *places))
      hits = agc.named(params, entry, f' and is none of {known}')
    found = jax.tree.map(operator.or_, found, hits)
  return found


def freeze(params: Tree, frozen: Iterable[str]) -> Tree:
  """The parameters, of which no gradient reaches those that `frozen` names.

  What a network keeps in its state isn't frozen: the statistics of batch
  normalization go on following the data.
  """
  return jax.tree.map(
    lambda leaf, hit: jax.lax.stop_gradient(leaf) if hit else leaf,
    params,
    select(params, frozen),
  )


def moving_average(
  average: Tree,
  new: Tree,
  step: jax.Array | int,
  decay: float,
  mode: str = 'warmup',
) -> Tree:
  """The exponential moving average (EMA), one step further.

  Args:
    average: the averages so far; their types are kept.
    new: the values of this step, in the same structure; counters are copied.
    step: t, the number of steps taken before this one, from 0.
    decay: share of the old average that is kept, in [0, 1].
    mode: 'constant' keeps `decay`; 'warmup' min(decay, (1 + t) / (10 + t)), so
      that early averages forget their start.
  """
  # 1 - decay, not decay: float32 holds 0.00001 well and 0.99999 badly.
  weight = jnp.float32(1 - decay)
  if mode == 'warmup':
    weight = jnp.maximum(weight, 9 / (10 + jnp.asarray(step, jnp.float32)))

  def move(old: jax.Array, value: jax.Array) -> jax.Array:
    if not jnp.issubdtype(old.dtype, jnp.floating):
      return value
    moved = old + weight * (value.astype(jnp.float32) - old)
    return moved.astype(old.dtype)

  return jax.tree.map(move, average, new)


def labels(params: Tree) -> Tree:
  """Each parameter's label, in the structure of `params`.

  - `gain_or_bias`: leaves `b`, `scale`, `offset`, and any with `gain` or
    `bias` in its own name. Not decayed; clipped.
  - `head`: `w` of `<root>/~/linear`. Decayed; not clipped by default.
  - `weight`: other leaves `w`, and anything else of rank two or more. Decayed
    and clipped.

  Raises:
    ValueError: for a parameter that no rule covers.
  """

  def label(path: tuple, leaf: jax.Array) -> str:
    path = agc.path_name(path)
    name = path.rpartition('/')[2]
    if name in ('b', 'scale', 'offset') or 'gain' in name or 'bias' in name:
      return 'gain_or_bias'
    if re.fullmatch(r'[^/]+/~/linear/w', path):
      return 'head'
    rank = len(agc.block_shape(getattr(leaf, 'shape', ()), path))
    if name == 'w' or rank >= 2:
      return 'weight'
    raise ValueError(
      f'no label for parameter {path} of rank {rank}: rename it (gain, bias, '
      'w) or extend nfnets.optim.optimizer.labels'
    )

  return jax.tree.map_with_path(label, params)


def stages(params: Tree) -> Tree:
  """Each parameter's place in the network: stem, stage_1, ..., final, other.

  A block opens a stage if it projects its shortcut or changes the width.
  Everything after the last block, the head included, is `final`; what lies
  in none of our networks' places is `other`.
  """
  of_block = _stage_of_each_block(params)

  def place(path: tuple, _: jax.Array) -> str:
    top = _top_module(network.members(agc.path_name(path))[0])
    if top in of_block:
      return f'stage_{of_block[top]}'
    if re.match(r'stem|initial|bias1$', top):
      return 'stem'
    return 'final' if re.match(r'final|linear$|bias2$', top) else 'other'

  return jax.tree.map_with_path(place, params)


def _stage_of_each_block(params: Tree) -> dict[str, int]:
  widths, projects = {}, set()  # of each block's last convolution
  for path, leaf in jax.tree.flatten_with_path(params)[0]:
    for name in network.members(agc.path_name(path)):
      block = _top_module(name)
      if 'block' in block:
        widths.setdefault(block, None)
        if 'conv_shortcut' in name:
          projects.add(block)
        elif re.search(r'/conv\d\w*/w$', name):  # paths are sorted
          widths[block] = leaf.shape[-1]
  stage_of, before = {}, None
  for block in sorted(widths, key=_block_order):
    width = widths[block] or before
    opens = not stage_of or block in projects or width != before
    stage_of[block] = max(stage_of.values(), default=0) + opens
    before = width
  return stage_of


def _block_order(block: str) -> tuple[str, int]:
  # Haiku numbers the second of a name _1; a version (block_v2) isn't a number.
  base, index = re.fullmatch(r'(.*?block(?:_v\d+)?)(?:_(\d+))?', block).groups()
  return base, int(index or 0)


def _top_module(name: str) -> str:
  parts = [part for part in name.split('/') if part != '~']
  return parts[1] if len(parts) > 1 else ''
