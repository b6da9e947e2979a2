"""Names what pictures show: python -m scripts.predict --weights=FILE IMAGE...

FILE is what scripts.convert writes, or a published file. Each picture gets five
classes with their probabilities, as text or (--json) as one JSON object. A file
that is no picture gets one line on stderr, and the others go on. Exit codes:
0 every picture was read, 1 some were not, 2 refused.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging

REFUSED = 2
UNREADABLE = 1
BATCH_SIZE = 16
TOP = 5

WEIGHTS = flags.DEFINE_string('weights', None, 'A file of weights.')
JSON = flags.DEFINE_bool('json', False, 'Print JSON.')
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', None, "Side in pixels; default: the network's test size."
)


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  if not WEIGHTS.value:
    return refuse('name the weights: --weights=FILE')
  if len(argv) < 2:
    return refuse('name at least one picture')
  from nfnets import weights as nfweights
  from nfnets.weights import pictures

  try:
    weights = nfweights.load(WEIGHTS.value)
    predict = predictor(weights)
    names = pictures.class_names(weights)
    prepare = preparation(weights, IMAGE_SIZE.value)
  except (ValueError, OSError) as error:
    return refuse(str(error))
  predictions, errors = [], []
  for paths, images, failures in read(argv[1:], prepare):
    errors += failures
    for failure in failures:
      print(f'error: {failure["image"]}: {failure["error"]}', file=sys.stderr)
    if not paths:
      continue
    for path, probabilities in zip(paths, predict(images)):
      row = {'image': path, 'classes': best(probabilities, names)}
      predictions.append(row)
      if not JSON.value:
        print(text(row), flush=True)
  if JSON.value:
    print(json.dumps({'predictions': predictions, 'errors': errors}, indent=1))
  return UNREADABLE if errors else 0


def predictor(weights: Any) -> Callable[[np.ndarray], np.ndarray]:
  """Images uint8 `[N, H, W, 3]` to probabilities `[N, K]`, N <= BATCH_SIZE."""
  import jax

  from nfnets import models
  from nfnets import weights as nfweights
  from nfnets.data import augment
  from nfnets.weights import pictures

  if nfweights.can_fold(weights):
    weights = nfweights.fold_weights(weights)
  network = models.create(
    weights.model, weights.num_classes, **weights.overrides
  )
  statistics = pictures.statistics(weights)

  @jax.jit
  def probabilities(params: Any, state: Any, images: jax.Array) -> jax.Array:
    inputs = augment.normalize(images, **statistics)
    output, _ = network.apply(params, state, None, inputs, False)
    return jax.nn.softmax(output['logits'])

  params, state = jax.device_put((weights.params, weights.state))

  def predict(images: np.ndarray) -> np.ndarray:
    return np.asarray(probabilities(params, state, images))[: len(images)]

  return predict


def preparation(
  weights: Any, image_size: int | None
) -> Callable[[str], np.ndarray]:
  """A picture's path to uint8 `[size, size, 3]`, as the network was tested."""
  from nfnets.data import images
  from nfnets.weights import pictures

  crop = images.preparation(pictures.crop_name(weights))
  size = image_size or pictures.image_size(weights)
  return lambda path: crop(images.decode(pathlib.Path(path).read_bytes()), size)


def read(
  paths: Sequence[str], prepare: Callable[[str], np.ndarray]
) -> Iterator[tuple[list[str], np.ndarray, list[dict[str, str]]]]:
  """Yields paths, their pictures `[n, H, W, 3]`, and what couldn't be read."""
  for start in range(0, len(paths), BATCH_SIZE):
    good, images, failures = [], [], []
    for path in paths[start : start + BATCH_SIZE]:
      try:
        images.append(prepare(path))
        good.append(path)
      except (ValueError, OSError) as error:
        line = getattr(error, 'strerror', None) or str(error).splitlines()[0]
        failures.append({'image': path, 'error': f'not a picture: {line}'})
    yield good, np.array(images), failures


def best(probabilities: np.ndarray, names: Sequence[str]) -> list[dict]:
  """The likeliest classes, best first."""
  order = np.argsort(-probabilities, kind='stable')[:TOP]
  return [
    {
      'index': int(index),
      'name': names[index],
      'probability': float(probabilities[index]),
    }
    for index in order
  ]


def text(row: dict[str, Any]) -> str:
  lines = [row['image']]
  for found in row['classes']:
    lines.append(f'  {100 * found["probability"]:5.1f} %  {found["name"]}')
  return '\n'.join(lines)


def refuse(why: str) -> int:
  print(f'error: {why}', file=sys.stderr)
  return REFUSED


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; what is wrong with them is one line, not a traceback."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    sys.exit(refuse(str(error)))


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
