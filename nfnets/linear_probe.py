"""A linear probe: a classifier on the features of fixed weights.

The folded network computes the features of each picture once; scikit-learn fits
the classifier, a multinomial logistic regression whatever `config.loss` is.
"""

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nfnets import (
  bucket,
  evaluate,
  factory,
  finetune,
  models,
  step,
  texts,
)
from nfnets import weights as weighing
from nfnets.data import augment, sources
from nfnets.weights import match
from nfnets.workdir import PROBE, RunFolder, dump_line, write_atomically

L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # ascending
MAX_ITERATIONS = 1000
SECONDS_PER_REPORT = 5.0


class Linear(NamedTuple):
  """`features @ w + b`: w `[C, K]`, b `[K]`, float32."""

  w: np.ndarray
  b: np.ndarray


def probe(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  defaults: Mapping[str, Any] | None = None,
  opened: factory.Splits = (None, None),
) -> dict[str, Any]:
  """Fits a probe to the features of fixed weights, as a run in `workdir`.

  Args:
    config: a recipe, resolved: its weights, its data, and `probe_l2`, the `l2`
      of `fit`; 0 selects one by `choose_l2`.
    workdir: the run's folder. It also gets `probe.safetensors`, the folded
      network with its new head.
    defaults: as for `train.train_and_evaluate`.
    opened: the splits of the data, if they have been opened before.

  Returns:
    The summary, as in summary.json: `status`, `step` (iterations), `l2`,
    `train/top_1`, `eval/top_1`, `eval/top_5` (fractions of 1), `eval/loss`.

  Raises:
    ValueError: the config, the weights or the workdir is refused, or there are
      several processes.
  """
  if not config.weights:
    raise ValueError('a probe needs weights: pass --config.weights=FILE')
  if jax.process_count() > 1:
    raise ValueError(
      'config.probe=True: a probe needs all features in one process, not in '
      f'{jax.process_count()}: start it on one machine, with '
      '--distributed=False'
    )
  with bucket.working_copy(workdir) as copy:
    folder = RunFolder(copy.path, url=copy.url)
    with folder.lock():
      folder.check_same_run(config.to_dict(), defaults)
      if not folder.is_finished():
        folder.write_config(config.to_dict())
        _probe(config, folder, opened)
    summary = folder.read_summary()
    print(
      f'probe: l2 {summary["l2"]:g}, {summary["step"]} iterations, training '
      f'accuracy {100 * summary["train/top_1"]:.1f} %'
    )
    for line in folder.results(summary):
      print(texts.printable(line))
  return summary


def _probe(
  config: ConfigDict, folder: RunFolder, opened: factory.Splits
) -> None:
  weights = weighing.load(config.weights)
  finetune.check_same_function(config, weights)
  if weights.note:
    print(f'weights: {weights.note}')
  weights = weighing.fold_if_possible(weights)
  splits = factory.sources_of(config, opened)
  for note in sources.notes(*splits):
    print(f'{config.data.name}: {note}')
  train, test = (features_of(config, weights, split) for split in splits)
  if len(np.unique(train[1])) < 2:
    place = f' in {data_dir}' if (data_dir := config.data.data_dir) else ''
    raise ValueError(
      f'config.data.name={config.data.name!r}: all {len(train[1])} training '
      f'pictures{place} are of one class; a classifier needs at least two'
    )
  penalties = '' if config.probe_l2 else f' with {len(L2_GRID)} penalties'
  print(f'fitting the classifier{penalties}', flush=True)
  num_classes = config.data.num_classes
  l2 = config.probe_l2 or choose_l2(*train, num_classes, seed=config.seed)
  linear, iterations = fit(*train, num_classes, l2)
  scores = {'train/top_1': score(linear, *train)['top_1']} | {
    f'eval/{name}': value
    for name, value in score(linear, *test, config.loss).items()
  }
  probed = _with_head(config, weights, linear, splits[0].class_names)
  weighing.write(folder.path / PROBE, probed)
  row = {'step': iterations, 'time': round(time.time(), 3), **scores}
  write_atomically(folder.path / 'metrics.jsonl', dump_line(row))
  folder.write_summary(
    {'status': 'finished', 'step': iterations, 'l2': l2, **scores}
  )


def features_of(
  config: ConfigDict, weights: weighing.Weights, source: sources.Source
) -> tuple[np.ndarray, np.ndarray]:
  """The pooled features of every example, prepared as for evaluation.

  Returns:
    Features, float32 `[M, C]`, and labels, int32 `[M]`.
  """
  network = models.create(weights.model, 0, **weights.overrides)  # no head

  @jax.jit
  def pool(params: Any, state: Any, images: jax.Array) -> jax.Array:
    images = augment.normalize(
      images.astype(jnp.float32), config.data.mean, config.data.std
    )
    outputs, _ = network.apply(params, state, None, images, False)
    return outputs['pool'].astype(jnp.float32)

  params = match.without_head(weights.params)
  params, state = jax.device_put((params, dict(weights.state)))
  features, labels, done, due = [], [], 0, 0.0
  skipped: dict[str, str] = {}
  for batch in evaluate.eval_batches(config, source, skipped):
    if time.monotonic() >= due:
      print(f'computing features: {done} of {len(source)}', flush=True)
      due = time.monotonic() + SECONDS_PER_REPORT
    is_real = batch['mask'] > 0
    features.append(np.asarray(pool(params, state, batch['images']))[is_real])
    labels.append(batch['labels'][is_real])
    done += len(labels[-1])
  print(f'computing features: {done} of {len(source)}', flush=True)
  if skipped:
    print(evaluate.left_out(skipped))
  return np.concatenate(features), np.concatenate(labels)


def choose_l2(
  features: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  seed: int = 0,
) -> float:
  """The penalty with the best accuracy on a random fifth of the examples.

  Examples of classes that the others lack aren't held out. Ties go to the
  largest. Fewer than ten examples, or none to hold out, get the middle of the
  grid.
  """
  order = np.random.RandomState(seed).permutation(len(labels))
  held_out, rest = np.split(order, [len(order) // 5])
  is_known = np.isin(labels[held_out], labels[rest])
  rest = np.concatenate([rest, held_out[~is_known]])
  held_out = held_out[is_known]
  if len(labels) < 10 or not len(held_out):
    return L2_GRID[len(L2_GRID) // 2]
  hits = {}
  for l2 in L2_GRID:
    linear, _ = fit(features[rest], labels[rest], num_classes, l2)
    hits[l2] = score(linear, features[held_out], labels[held_out])['top_1']
  return max(L2_GRID, key=lambda l2: (hits[l2], l2))


def fit(
  features: np.ndarray, labels: np.ndarray, num_classes: int, l2: float
) -> tuple[Linear, int]:
  """Minimizes mean cross-entropy + l2 / 2 |w|^2 over standardized features.

  Standardization makes `l2` comparable between networks; the classifier that is
  returned takes the features as they are.

  Args:
    features: `[M, C]`.
    labels: `[M]`, of at least two classes.
    num_classes: K.
    l2: above 0.

  Returns:
    The classifier and the number of iterations.
  """
  from sklearn.linear_model import LogisticRegression

  if not 0 < l2 < float('inf'):
    raise ValueError(f'config.probe_l2={l2}: must be above 0, or 0 to select')
  mean, std = features.mean(0), features.std(0)
  std = np.where(std > 1e-6 * std.max(), std, 1.0)  # constant features
  present = np.unique(labels)
  is_binary = len(present) == 2
  # scikit-learn sums the losses. For two classes it fits the difference of
  # their weights, whose square is twice the sum of their squares.
  strength = l2 * len(labels) / (2 if is_binary else 1)
  model = LogisticRegression(
    C=1 / strength, tol=1e-6, max_iter=MAX_ITERATIONS
  ).fit((features - mean) / std, labels)
  coefficients, intercept = model.coef_, model.intercept_
  if is_binary:
    coefficients = np.concatenate([-coefficients, coefficients]) / 2
    intercept = np.concatenate([-intercept, intercept]) / 2
  w = np.zeros((features.shape[1], num_classes))
  b = np.full(num_classes, -30.0)  # classes without an example
  w[:, present], b[present] = coefficients.T / std[:, None], intercept
  b = b - mean @ w
  linear = Linear(w.astype(np.float32), b.astype(np.float32))
  return linear, int(np.max(model.n_iter_))


def score(
  linear: Linear,
  features: np.ndarray,
  labels: np.ndarray,
  loss: str = 'softmax',
) -> dict[str, float]:
  """The means of `step.scores`: `loss`, and `top_1` and `top_5` (of 1)."""
  logits = jnp.asarray(features @ linear.w + linear.b)
  values = step.scores(logits, jnp.asarray(labels), loss)
  return {name: float(jnp.mean(value)) for name, value in values.items()}


def _with_head(
  config: ConfigDict,
  weights: weighing.Weights,
  linear: Linear,
  class_names: Iterable[str],
) -> weighing.Weights:
  params = match.without_head(weights.params)
  root = next(iter(params)).partition('/')[0]
  keys = ('eval_image_size', 'eval_preprocessing', 'mean', 'std')
  data = {key: config.data[key] for key in keys}
  return weights._replace(
    params=params | {f'{root}/~/linear': {'w': linear.w, 'b': linear.b}},
    num_classes=len(linear.b),
    data=data | {'class_names': list(class_names)},
  )
