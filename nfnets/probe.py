"""A linear probe: the features of fixed weights, and a classifier on them.

Features are computed once per picture by the folded network; the classifier is
multinomial logistic regression, found by L-BFGS.
"""

import os
import pathlib
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from nfnets import (
  evaluate,
  factory,
  models,
)
from nfnets.data import augment, sources
from nfnets.step import top_k_correct
from nfnets.weights import files, folding, match, pretrained
from nfnets.workdir import RunFolder, dump_line, write_atomically

L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MAX_ITERATIONS = 300
TOLERANCE = 1e-5  # of the gradient's norm
WEIGHTS = 'probe.safetensors'


class Linear(NamedTuple):
  """`features @ w + b`: w `[C, K]`, b `[K]`, float32."""

  w: np.ndarray
  b: np.ndarray


def probe(
  config: ConfigDict, workdir: str | os.PathLike[str], l2: float | None = None
) -> dict[str, Any]:
  """Fits a probe on `config.weights` and leaves a run's folder.

  Args:
    config: a recipe, resolved, which names the weights and the data; nothing
      of how it trains is read but the seed, of the draw that chooses `l2`.
    workdir: the run's folder; holds `features.npz`, which is computed once, and
      `probe.safetensors`, the folded network with its new head.
    l2: of `fit`; None chooses from `L2_GRID` (see `choose_l2`).

  Returns:
    The summary, as in summary.json: `status`, `step` (iterations), `l2`,
    `train/top_1`, `eval/top_1`, `eval/top_5` (shares of 1), `eval/loss`.

  Raises:
    ValueError: the config, the weights or the workdir is refused.
  """
  if not config.weights:
    raise ValueError('a probe needs weights: pass --config.weights=FILE')
  plan = config.to_dict() | {
    'num_steps': 0,  # nothing is trained
    'probe': {'l2': 'chosen' if l2 is None else l2},
  }
  folder = RunFolder(workdir)
  folder.check_same_run(plan)
  if folder.is_finished():
    return folder.read_summary()
  weights = pretrained.read(config.weights)
  files.require_whole(weights, config.weights)
  if folding.can_fold(weights):
    weights = folding.fold_weights(weights)
  data = _cached_features(config, weights, folder.path / 'features.npz')
  folder.write_config(plan)
  num_classes = config.data.num_classes
  if l2 is None:
    l2 = choose_l2(*data['train'], num_classes, L2_GRID, config.seed)
  linear, steps = fit(*data['train'], num_classes, l2)
  scores = {
    f'{prefix}/{name}': value
    for prefix, split in (('train', 'train'), ('eval', 'test'))
    for name, value in score(linear, *data[split]).items()
  }
  scores.pop('train/top_5')
  line = {'step': steps, 'time': round(time.time(), 3), **scores}
  write_atomically(folder.path / 'metrics.jsonl', dump_line(line))
  names = factory.sources_of(config)[0].class_names
  probed = _with_head(config, weights, linear, list(names))
  files.write(folder.path / WEIGHTS, probed)
  summary = {'status': 'finished', 'step': steps, 'l2': l2, **scores}
  folder.write_summary(summary)
  return summary


def features_of(
  config: ConfigDict, weights: files.Weights, source: sources.Source
) -> tuple[np.ndarray, np.ndarray]:
  """The pooled features of every example, prepared as for evaluation.

  Returns:
    float32 `[M, C]` and the labels, int32 `[M]`.
  """
  network = models.create(
    weights.model, weights.num_classes, **weights.overrides
  )

  @jax.jit
  def pool(params: Any, state: Any, images: jax.Array) -> jax.Array:
    images = augment.normalize(
      images.astype(jnp.float32), config.data.mean, config.data.std
    )
    outputs, _ = network.apply(params, state, None, images, False)
    return outputs['pool'].astype(jnp.float32)

  params, state = jax.device_put((dict(weights.params), dict(weights.state)))
  features, labels = [], []
  for batch in evaluate.eval_batches(config, source):
    is_real = batch['mask'] > 0
    features.append(np.asarray(pool(params, state, batch['images']))[is_real])
    labels.append(batch['labels'][is_real])
  return np.concatenate(features), np.concatenate(labels)


def fit(
  features: np.ndarray, labels: np.ndarray, num_classes: int, l2: float
) -> tuple[Linear, int]:
  """Minimizes mean cross-entropy + l2 / 2 |w|^2 by L-BFGS.

  The features are standardized first, so that `l2` means the same for every
  network; the result takes them as they are.

  Args:
    features: `[M, C]`.
    labels: `[M]`.
    num_classes: K.
    l2: 0 or more.

  Returns:
    The classifier and the number of iterations.
  """
  if not 0 <= l2 < float('inf'):
    raise ValueError(f'l2={l2}: must be 0 or more')
  mean, std = features.mean(0), features.std(0)
  std = np.where(std > 1e-6 * max(std.max(), 1e-30), std, 1.0)
  standard = jnp.asarray((features - mean) / std, jnp.float32)
  targets = jax.nn.one_hot(labels, num_classes)
  start = Linear(
    jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes)
  )
  found, steps = _minimize(start, standard, targets, jnp.float32(l2))
  w = np.asarray(found.w) / std[:, None]
  b = np.asarray(found.b) - mean @ w
  return Linear(w.astype(np.float32), b.astype(np.float32)), int(steps)


def choose_l2(
  features: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  grid: Iterable[float] = L2_GRID,
  seed: int = 0,
) -> float:
  """The strength that classifies best a random fifth of the training data.

  Of equally good ones the strongest. Where there are fewer than ten examples,
  the middle of the grid.
  """
  grid = sorted(grid)
  if len(labels) < 10:
    return grid[len(grid) // 2]
  order = np.random.RandomState(seed).permutation(len(labels))
  held_out, rest = np.split(order, [len(order) // 5])
  hits = {}
  for l2 in grid:
    linear, _ = fit(features[rest], labels[rest], num_classes, l2)
    hits[l2] = score(linear, features[held_out], labels[held_out])['top_1']
  return max(grid, key=lambda l2: (hits[l2], l2))


def score(
  linear: Linear, features: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
  """Mean cross-entropy `loss`, `top_1` and `top_5`, shares of 1."""
  logits = jnp.asarray(features @ linear.w + linear.b)
  targets = jax.nn.one_hot(labels, logits.shape[-1])
  labels = jnp.asarray(labels)
  hits = {
    f'top_{k}': top_k_correct(logits, labels, min(k, logits.shape[-1]))
    for k in (1, 5)
  }
  values = {'loss': optax.softmax_cross_entropy(logits, targets), **hits}
  return {name: float(jnp.mean(value)) for name, value in values.items()}


@jax.jit
def _minimize(
  start: Linear, features: jax.Array, targets: jax.Array, l2: jax.Array
) -> tuple[Linear, jax.Array]:
  def objective(linear: Linear) -> jax.Array:
    logits = features @ linear.w + linear.b[None]
    value = jnp.mean(optax.softmax_cross_entropy(logits, targets))
    return value + l2 / 2 * jnp.sum(linear.w**2)

  solver = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(objective)

  def step(carry: tuple) -> tuple:
    linear, state, _, count = carry
    value, grads = value_and_grad(linear, state=state)
    updates, state = solver.update(
      grads, state, linear, value=value, grad=grads, value_fn=objective
    )
    linear = optax.apply_updates(linear, updates)
    return linear, state, optax.tree.norm(grads), count + 1

  def is_going(carry: tuple) -> jax.Array:
    return (carry[2] > TOLERANCE) & (carry[3] < MAX_ITERATIONS)

  first = (start, solver.init(start), jnp.float32(jnp.inf), jnp.int32(0))
  linear, _, _, count = jax.lax.while_loop(is_going, step, first)
  return linear, count


def _cached_features(
  config: ConfigDict, weights: files.Weights, path: pathlib.Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  splits = dict(zip(('train', 'test'), factory.sources_of(config)))
  if not path.exists():
    found = {s: features_of(config, weights, x) for s, x in splits.items()}
    np.savez(
      path,
      **{f'{s}_features': x for s, (x, _) in found.items()},
      **{f'{s}_labels': y for s, (_, y) in found.items()},
    )
  with np.load(path, allow_pickle=False) as file:
    return {s: (file[f'{s}_features'], file[f'{s}_labels']) for s in splits}


def _with_head(
  config: ConfigDict,
  weights: files.Weights,
  linear: Linear,
  class_names: list[str],
) -> files.Weights:
  leaves = dict(match.flatten(weights.params))
  for path in [path for path in leaves if match.is_head(path)]:
    leaves[path] = linear.w if path.endswith('/w') else linear.b
  keys = ('eval_image_size', 'eval_preprocessing', 'mean', 'std')
  return weights._replace(
    params=match.unflatten(leaves),
    num_classes=len(linear.b),
    data={key: config.data[key] for key in keys} | {'class_names': class_names},
  )
