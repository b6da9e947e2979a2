"""The accuracy of weights on a data set (scripts.evaluate)."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from nfnets import distributed, evaluate, factory, models, parallel, step
from nfnets.data import sources
from nfnets.weights import files, folding, pictures


def measure(
  config: ConfigDict,
  candidates: Mapping[str, files.Weights],
  fold: bool,
  say: Callable[[str], None] = print,
) -> dict[str, float]:
  """Evaluates several sets of weights of one network.

  Args:
    config: a recipe, for its data; its model isn't used.
    candidates: {prefix: weights}, of one model with the same overrides.
    fold: whether to fold a normalizer-free network, which changes its logits by
      at most 1e-5.
    say: prints what is evaluated, reordered or left out.

  Raises:
    ValueError: the weights' classes aren't the data's (in any order), or the
      outputs aren't finite.
  """
  source = factory.source_of(config, config.data.eval_split)
  any_of_them = next(iter(candidates.values()))
  for line in _notes(config, source, any_of_them.data.get('class_names')):
    say(line)
  skipped: dict[str, str] = {}

  def prepared(weights: files.Weights) -> files.Weights:
    weights = files.with_classes(weights, source.class_names)
    return folding.fold_if_possible(weights) if fold else weights

  candidates = {prefix: prepared(w) for prefix, w in candidates.items()}
  one = next(iter(candidates.values()))
  network = models.create(one.model, one.num_classes, **one.overrides)
  eval_step = parallel.map_eval(step.make_eval_step(config, network))
  variables = parallel.replicate(
    {p: (dict(w.params), dict(w.state)) for p, w in candidates.items()}
  )
  batches = evaluate.eval_batches(config, source, skipped)
  metrics = evaluate.evaluate(eval_step, variables, batches)
  for prefix in candidates:
    if not np.isfinite(metrics[f'{prefix}/loss']):
      raise ValueError(
        f'{prefix}: the outputs of {one.model} are not finite; take other '
        'weights, or the mean and std that they were trained with'
      )
  for others in distributed.exchange(skipped):
    skipped |= others
  if skipped:
    say(evaluate.left_out(skipped))
  return metrics


def _notes(
  config: ConfigDict, source: sources.Source, own_classes: Sequence[str] | None
) -> Iterator[str]:
  """Lines on what is evaluated, and on reordered classes."""
  data = config.data
  crop = pictures.crop_words(data.eval_preprocessing)
  more = f'; {source.note}' if source.note else ''
  yield (
    f'{len(source)} examples of {data.name}, split {data.eval_split}, at '
    f'{data.eval_image_size} pixels, {crop}{more}'
  )
  names = list(source.class_names)
  own = list(own_classes or names)
  if own != names and sorted(own) == sorted(names):
    yield "the weights' classes have another order: matched by their names"
