"""A linear probe: the features of fixed weights, and a classifier on them.

Features are computed once per picture by the folded network; the classifier is
multinomial logistic regression, fitted by scikit-learn.
"""

import json
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from nfnets import evaluate, factory, models, step
from nfnets import weights as weighing
from nfnets.data import augment, sources
from nfnets.weights import match
from nfnets.workdir import RunFolder, dump_line, plain, write_atomically

L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MAX_ITERATIONS = 1000
WEIGHTS = 'probe.safetensors'


class Linear(NamedTuple):
  """`features @ w + b`: w `[C, K]`, b `[K]`, float32."""

  w: np.ndarray
  b: np.ndarray


def probe(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Fits a probe on `config.weights` and leaves a run's folder.

  Args:
    config: a recipe, resolved, which names the weights, the data and
      `probe_l2`, the penalty of `fit`; 0 chooses it (see `choose_l2`).
    workdir: the run's folder; holds `features.npz`, which is computed once, and
      `probe.safetensors`, the folded network with its new head.
    defaults: as for `train.train_and_evaluate`.

  Returns:
    The summary, as in summary.json: `status`, `step` (iterations), `l2`,
    `train/top_1`, `eval/top_1`, `eval/top_5` (shares of 1), `eval/loss`.

  Raises:
    ValueError: the config, the weights or the workdir is refused.
  """
  if not config.weights:
    raise ValueError('a probe needs weights: pass --config.weights=FILE')
  folder = RunFolder(workdir)
  with folder.lock():
    folder.check_same_run(config.to_dict(), defaults)
    summary = folder.read_summary()
    if summary is None or summary['status'] != 'finished':
      folder.write_config(config.to_dict())
      summary = _probe(config, folder)
  print(
    f'probe: l2 {summary["l2"]:g}, {summary["step"]} iterations, training '
    f'accuracy {100 * summary["train/top_1"]:.1f} %'
  )
  print(f'test accuracy {100 * summary["eval/top_1"]:.1f} %')
  print(f'run folder {folder.path.absolute()}')
  return summary


def _probe(config: ConfigDict, folder: RunFolder) -> dict[str, Any]:
  weights = weighing.load(config.weights)
  if weighing.can_fold(weights):
    weights = weighing.fold_weights(weights)
  data = _cached_features(config, weights, folder.path / 'features.npz')
  num_classes, l2 = config.data.num_classes, config.probe_l2
  if not l2:
    l2 = choose_l2(*data['train'], num_classes, L2_GRID, config.seed)
  linear, iterations = fit(*data['train'], num_classes, l2)
  scores = {
    f'{prefix}/{name}': value
    for prefix, split in (('train', 'train'), ('eval', 'test'))
    for name, value in score(linear, *data[split]).items()
  }
  scores.pop('train/top_5')
  row = {'step': iterations, 'time': round(time.time(), 3), **scores}
  names = factory.sources_of(config)[0].class_names
  probed = _with_head(config, weights, linear, list(names))
  weighing.write(folder.path / WEIGHTS, probed)
  summary = {'status': 'finished', 'step': iterations, 'l2': l2, **scores}
  folder.write_summary(summary)
  write_atomically(folder.path / 'metrics.jsonl', dump_line(row))
  return summary


def features_of(
  config: ConfigDict, weights: weighing.Weights, source: sources.Source
) -> tuple[np.ndarray, np.ndarray]:
  """The pooled features of every example, prepared as for evaluation.

  Returns:
    float32 `[M, C]` and the labels, int32 `[M]`.
  """
  # A backbone has no head; any does, since only the features are taken.
  num_classes = weights.num_classes or 1
  network = models.create(weights.model, num_classes, **weights.overrides)
  size = config.data.eval_image_size
  wanted, _ = jax.eval_shape(
    lambda: network.init(
      jax.random.key(0), jnp.zeros((1, size, size, 3)), False
    )
  )
  own = match.flatten(weights.params)
  params = match.unflatten(
    {
      path: own.get(path, np.zeros(leaf.shape, leaf.dtype))
      for path, leaf in match.flatten(wanted).items()
    }
  )

  @jax.jit
  def pool(params: Any, state: Any, images: jax.Array) -> jax.Array:
    images = augment.normalize(
      images.astype(jnp.float32), config.data.mean, config.data.std
    )
    outputs, _ = network.apply(params, state, None, images, False)
    return outputs['pool'].astype(jnp.float32)

  params, state = jax.device_put((params, dict(weights.state)))
  features, labels = [], []
  for batch in evaluate.eval_batches(config, source):
    is_real = batch['mask'] > 0
    features.append(np.asarray(pool(params, state, batch['images']))[is_real])
    labels.append(batch['labels'][is_real])
  return np.concatenate(features), np.concatenate(labels)


def fit(
  features: np.ndarray, labels: np.ndarray, num_classes: int, l2: float
) -> tuple[Linear, int]:
  """Minimizes mean cross-entropy + l2 / 2 |w|^2.

  The features are standardized first, so that `l2` means the same for every
  network; the result takes them as they are.

  Args:
    features: `[M, C]`.
    labels: `[M]`.
    num_classes: K.
    l2: above 0.

  Returns:
    The classifier and the number of iterations.
  """
  from sklearn.linear_model import LogisticRegression

  if not 0 < l2 < float('inf'):
    raise ValueError(f'config.probe_l2={l2}: must be above 0, or 0 to choose')
  mean, std = features.mean(0), features.std(0)
  std = np.where(std > 1e-6 * max(std.max(), 1e-30), std, 1.0)
  present = np.unique(labels)
  w = np.zeros((features.shape[1], num_classes))
  b = np.full(num_classes, -30.0)  # of classes that have no example
  iterations = 0
  if len(present) == 1:
    b[present] = 0.0
  else:
    # It sums the losses. Of two classes it fits the difference of the weights,
    # whose square is twice the sum of both ones' squares.
    strength = l2 * len(labels) / (2 if len(present) == 2 else 1)
    model = LogisticRegression(
      C=1 / strength, tol=1e-6, max_iter=MAX_ITERATIONS
    ).fit((features - mean) / std, labels)
    coefficients, intercept = model.coef_, model.intercept_
    if len(present) == 2:
      coefficients = np.concatenate([-coefficients, coefficients]) / 2
      intercept = np.concatenate([-intercept, intercept]) / 2
    w[:, present], b[present] = coefficients.T, intercept
    iterations = int(np.max(model.n_iter_))
  w = w / std[:, None]
  b = b - mean @ w
  return Linear(w.astype(np.float32), b.astype(np.float32)), iterations


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
  logits, labels = (
    jnp.asarray(features @ linear.w + linear.b),
    jnp.asarray(labels),
  )
  values = {
    'loss': optax.softmax_cross_entropy_with_integer_labels(logits, labels),
    'top_1': step.top_k_correct(logits, labels, 1),
    'top_5': step.top_k_correct(logits, labels, min(5, logits.shape[-1])),
  }
  return {name: float(jnp.mean(value)) for name, value in values.items()}


def _cached_features(
  config: ConfigDict, weights: weighing.Weights, path: pathlib.Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  splits = dict(zip(('train', 'test'), factory.sources_of(config)))
  made_of = json.dumps(plain([config.weights, config.data.to_dict()]))
  if path.exists():
    with np.load(path, allow_pickle=False) as file:
      if 'made_of' in file and str(file['made_of']) == made_of:
        return {s: (file[f'{s}_features'], file[f'{s}_labels']) for s in splits}
  found = {s: features_of(config, weights, x) for s, x in splits.items()}
  np.savez(
    path,
    made_of=made_of,
    **{f'{s}_features': x for s, (x, _) in found.items()},
    **{f'{s}_labels': y for s, (_, y) in found.items()},
  )
  return found


def _with_head(
  config: ConfigDict,
  weights: weighing.Weights,
  linear: Linear,
  class_names: list[str],
) -> weighing.Weights:
  leaves = {
    path: leaf
    for path, leaf in match.flatten(weights.params).items()
    if not match.is_head(path)
  }
  root = next(iter(leaves)).partition('/')[0]
  leaves |= {f'{root}/~/linear/w': linear.w, f'{root}/~/linear/b': linear.b}
  keys = ('eval_image_size', 'eval_preprocessing', 'mean', 'std')
  return weights._replace(
    params=match.unflatten(leaves),
    num_classes=len(linear.b),
    data={key: config.data[key] for key in keys} | {'class_names': class_names},
  )
