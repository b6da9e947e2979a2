"""`TrainState`, the train step and the eval step: pure, per-device code."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from nfnets import factory, parallel
from nfnets.data import augment
from nfnets.optim import agc, agc_stats, sam
from nfnets.optim.optimizer import moving_average
from nfnets.optim.parameters import freeze, matches, naming

LOSSES = {  # (logits, soft targets), both `[N, K]`, to losses `[N]` in nats
  'softmax': optax.softmax_cross_entropy,
  'sigmoid': lambda logits, targets: jnp.sum(
    optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1
  ),
}

Batch = Mapping[str, jax.Array]
Tree = Any


class TrainState(NamedTuple):
  """What a run carries from step to step: float32, and integer counters."""

  step: jax.Array  # []
  params: Tree
  state: Tree
  opt_state: Tree
  ema_params: Tree  # {}, like ema_state, if `config.ema.mode` is 'none'
  ema_state: Tree


def make_train_step(
  config: ConfigDict,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict]]:
  """Makes `train_step(state, batch, key)` for `parallel.map_step`.

  Args:
    config: a recipe (configs/), resolved.

  Returns:
    A function of the state, this device's batch (`images` uint8
    `[N, H, W, 3]`, `labels` int32 `[N]`) and the run's key, which returns the
    next state and the metrics: what the loss function returns and more, each
    `[]` and equal on all devices. If `config.observe_every` isn't 0, `observed`
    is a vector (see `observed_names`). The examples of a data set on the device
    are given by `ids` int32 `[N]`, and the set's `images` and `labels`
    `[M, ...]` in a pair with the key.
  """
  gradient, optimizer = make_gradient(config), factory.optimizer_of(config)
  learning_rate = factory.schedule_of(config)

  def train_step(
    state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[TrainState, dict]:
    if 'ids' in batch:
      key, data = key
      batch = {name: value[batch['ids']] for name, value in data.items()}
    key = parallel.device_key(jax.random.fold_in(key, state.step))
    data_key, model_key = jax.random.split(key)
    inputs = augment.augment(config, data_key, batch)
    grads, (metrics, net_state) = parallel.mean(
      gradient(state.params, state.state, model_key, inputs)
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averages = state.ema_params, state.ema_state
    if config.ema.mode != 'none':
      current = params, net_state
      averages = moving_average(averages, current, state.step, **config.ema)
    new = TrainState(state.step, params, net_state, opt_state, *averages)
    metrics['grad_norm'] = agc.global_norm(grads)
    metrics['learning_rate'] = jnp.asarray(learning_rate(state.step))
    new, metrics['nonfinite'] = _unless_nonfinite(config, metrics, new, state)
    new = new._replace(step=state.step + 1)
    if config.observe_every:
      metrics['observed'] = _observed(config, new.step, state.params, grads)
    return new, metrics

  return train_step


def _unless_nonfinite(
  config: ConfigDict, metrics: dict, new: TrainState, old: TrainState
) -> tuple[TrainState, jax.Array]:
  """Keeps the old state if the loss or the gradient isn't finite.

  The schedule goes on: the rate of step t is schedule(t), whatever was skipped.
  Except where the first such step ends the run (`stop_after_nonfinite` is 1):
  not selecting saves a pass over the state.

  Returns:
    The state, and 1 if something isn't finite, else 0.
  """
  norm, rate = metrics['grad_norm'], metrics['learning_rate']
  # Checking the new parameters would read them all once more. But no update is
  # much larger than the rate times the gradient's norm. The square of that
  # overflows from 2e19 on, far below float32's largest number, 3e38, which
  # leaves room for momentum and weight decay.
  numbers = norm, metrics['loss'], (rate * norm) ** 2
  finite = jnp.all(jnp.isfinite(jnp.stack(numbers)))
  is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)

  def chosen(a: Any, b: Any) -> Any:
    return a if is_schedule(a) else jnp.where(finite, a, b)

  if config.stop_after_nonfinite > 1:
    new = jax.tree.map(chosen, new, old, is_leaf=is_schedule)
  return new, 1.0 - finite


def observed_names(config: ConfigDict, params: Tree) -> list[str]:
  """Names of the entries of `observed`, in order; [] if there is none."""
  if not config.observe_every:
    return []
  norms = jax.eval_shape(agc.unit_norms, params)
  summary = functools.partial(_agc_summary, config)
  return sorted(jax.eval_shape(summary, params, norms, norms))


def _observed(
  config: ConfigDict, step: jax.Array, params: Tree, grads: Tree
) -> jax.Array:
  """What AGC clips, every `observe_every` steps; zeros in between."""
  # AGC and the global norm need these norms anyway. The `cond` below gets them
  # and not the parameters, which then couldn't be updated in place.
  norms = agc.unit_norms(params), agc.unit_norms(grads)
  shapes = jax.eval_shape(lambda: params)

  def values(*norms: Tree) -> jax.Array:
    found = _agc_summary(config, shapes, *norms)
    return jnp.stack([found[name] for name in sorted(found)])

  zeros = jax.eval_shape(values, *norms)
  return jax.lax.cond(
    step % config.observe_every == 0,
    values,
    lambda *_: jnp.zeros(zeros.shape, zeros.dtype),
    *norms,
  )


def _agc_summary(config: ConfigDict, params: Tree, *norms: Tree) -> dict:
  spec = config.optimizer
  spared = (*spec.unclipped, *spec.frozen)
  return agc_stats.summarize(params, *norms, spec.clipping, spec.eps, spared)


def make_gradient(
  config: ConfigDict,
) -> Callable[..., tuple[Tree, tuple[dict, Tree]]]:
  """Makes `gradient(params, net_state, key, inputs)` for one device's inputs.

  It averages over micro-batches, and SAM wraps it if `config.sam.rho` isn't 0.

  Returns:
    A function that returns (gradients, (metrics, new network state)).
  """
  network = factory.network_of(config)

  def loss(
    params: Tree, net_state: Tree, key: jax.Array, inputs: Batch
  ) -> tuple[jax.Array, tuple[dict, Tree]]:
    params = freeze(params, config.optimizer.frozen)
    outputs, net_state = network.apply(
      params, net_state, key, inputs['images'], True
    )
    logits = outputs['logits'].astype(jnp.float32)
    targets = optax.smooth_labels(inputs['targets'], config.label_smoothing)
    value = jnp.mean(LOSSES[config.loss](logits, targets))
    hits = top_k_correct(logits, inputs['targets'].argmax(-1), 1)
    return value, ({'loss': value, 'top_1': jnp.mean(hits)}, net_state)

  gradient = jax.grad(loss, has_aux=True)
  gradient = sam.accumulate(gradient, config.micro_batches)
  # With m, the axis tells how many devices there are to form groups of.
  crosses_devices = config.sam.synchronized or config.sam.m
  return sam.sharpness_aware(
    gradient,
    config.sam.rho,
    ascent_fraction=config.sam.ascent_fraction,
    axis_name=parallel.AXIS if crosses_devices else None,
    m=config.sam.m or None,
    perturbed=config.sam.perturbed or ('.',),  # '.' matches every path
    multiple_of=config.micro_batches,
  )


def make_eval_step(
  config: ConfigDict, network: hk.TransformedWithState
) -> Callable[[dict[str, tuple[Tree, Tree]], Batch], dict]:
  """Makes `eval_step(variables, batch)` for `parallel.map_eval`.

  Returns:
    A function of {prefix: (params, state)} and this device's batch (`images`,
    `labels`, and `mask` float32 `[N]`, 0 for padding), which returns sums over
    all devices, {prefix: {count, loss, top_1, top_5}}, computed in float32, as
    published. If an example has several labels (`[N, K]`), its likeliest one
    counts (ReaL, arXiv:2006.07159).
  """

  def eval_step(variables: dict[str, tuple[Tree, Tree]], batch: Batch) -> dict:
    images = augment.normalize(
      batch['images'].astype(jnp.float32), config.data.mean, config.data.std
    )
    sums = {}
    for prefix, (params, state) in variables.items():
      outputs, _ = network.apply(params, state, None, images, False)
      logits = outputs['logits'].astype(jnp.float32)
      labels = batch['labels']
      if labels.ndim > 1:
        among = jnp.where(labels > 0, logits, -jnp.inf)
        labels = jnp.argmax(among, axis=-1)
      values = {'count': jnp.ones_like(batch['mask'])}
      values |= scores(logits, labels, config.loss)
      sums[prefix] = {
        name: jnp.sum(jnp.where(batch['mask'] > 0, value, 0.0))
        for name, value in values.items()
      }
    return parallel.total(sums)

  return eval_step


def scores(
  logits: jax.Array, labels: jax.Array, loss: str = 'softmax'
) -> dict[str, jax.Array]:
  """`loss`, `top_1` and `top_5` of each example, `[N]`.

  Takes logits `[N, K]` and integer labels `[N]`; `loss` is one of `LOSSES`.
  """
  num_classes = logits.shape[-1]
  return {
    'loss': LOSSES[loss](logits, jax.nn.one_hot(labels, num_classes)),
    'top_1': top_k_correct(logits, labels, 1),
    'top_5': top_k_correct(logits, labels, min(5, num_classes)),
  }


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Whether each label is among the k largest logits of its example.

  Ties go to the lower class index. A NaN counts as the largest logit, and as
  wrong if it is the label's own.

  Args:
    logits: `[N, K]`.
    labels: `[N]` integers in [0, K).
    k: number of guesses.

  Returns:
    `[N]` booleans.
  """
  index = labels[:, None].astype(jnp.int32)
  own = jnp.take_along_axis(logits, index, axis=-1)
  classes = jnp.arange(logits.shape[-1])[None, :]
  ahead = ~(logits <= own) | ((logits == own) & (classes < index))
  return (jnp.sum(ahead, axis=-1) < k) & ~jnp.isnan(own[:, 0])


def init_state(config: ConfigDict, key: jax.Array) -> TrainState:
  """The state before the first step; for `jax.jit` or `jax.eval_shape`."""
  size, network = config.data.train_image_size, factory.network_of(config)
  params, state = network.init(key, jnp.zeros((2, size, size, 3)), True)
  opt_state = factory.optimizer_of(config).init(params)
  averages = ({}, {}) if config.ema.mode == 'none' else (params, state)
  zero = jnp.zeros((), jnp.int32)
  return TrainState(zero, params, state, opt_state, *averages)


def state_shapes(config: ConfigDict) -> TrainState:
  """The shapes of a state, traced: this checks all arguments and patterns."""
  state = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
  with naming('sam.perturbed', config.sam.perturbed):
    matches(state.params, config.sam.perturbed)
  return state
