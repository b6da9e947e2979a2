"""Classifies pictures: python -m scripts.predict --weights=FILE IMAGE...

FILE is anything that scripts.convert reads or writes: a name of published
weights, a published file, one of ours or timm's, or a run's folder. Prints the
five likeliest classes of each picture with their probabilities, by a softmax,
or by a sigmoid if a run was trained with config.loss='sigmoid'. A file that
isn't a picture is reported on stderr, and the others are still classified. Exit
codes: 0 every picture was read, 1 some were not, 2 refused or failed.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from nfnets import texts
from scripts import common

UNREADABLE = 1
BATCH_SIZE = 16
TOP = 5

WEIGHTS = flags.DEFINE_string(
  'weights', None, "The weights: a name, a file, or a run's folder."
)
JSON = flags.DEFINE_bool('json', False, 'Print one JSON object.')
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size',
  None,
  "The images' side in pixels. By default the size the network is tested at.",
  lower_bound=1,
  upper_bound=4096,
)


def main(paths: Sequence[str]) -> int:
  source = common.needed(WEIGHTS, 'F0_haiku.npz')
  if not paths:
    raise ValueError('give at least one picture')
  import jax

  from nfnets import hub, weights
  from nfnets.weights import files

  found = weights.load(source)
  common.note(found.note)
  files.require_head(found, source)
  net = hub.Network(found, image_size=IMAGE_SIZE.value)
  if (channels := net.config['in_channels']) not in (1, 3):
    raise ValueError(
      f'{source}: takes images of {channels} channels, pictures have 3'
    )
  is_sigmoid = found.data.get('loss') == 'sigmoid'
  probabilities_of = jax.nn.sigmoid if is_sigmoid else jax.nn.softmax
  predictions, errors = [], []
  for good, images, failures in read(paths, net.preprocess):
    errors += failures
    for failure in failures:
      common.refuse(f'{failure["image"]}: {failure["error"]}')
    if not good:
      continue
    logits = np.asarray(net(images))
    if not np.isfinite(logits).all():
      raise ValueError(
        f'{source}: the outputs of {found.model} are not finite; use other '
        'weights'
      )
    probabilities = np.asarray(probabilities_of(logits))
    for path, *scores in zip(good, logits, probabilities):
      row = {'image': path, 'classes': best(*scores, net.class_names)}
      predictions.append(row)
      if not JSON.value:
        print(text(row), flush=True)
  if JSON.value:
    print(json.dumps({'predictions': predictions, 'errors': errors}, indent=1))
  return UNREADABLE if errors else 0


def read(
  paths: Sequence[str], prepare: Callable[[str], np.ndarray]
) -> Iterator[tuple[list[str], np.ndarray, list[dict[str, str]]]]:
  """Yields batches: paths, their images `[n, H, W, 3]`, and the failures."""
  for start in range(0, len(paths), BATCH_SIZE):
    good, images, failures = [], [], []
    for path in paths[start : start + BATCH_SIZE]:
      try:
        images += list(prepare(path))
        good.append(path)
      except FileNotFoundError:
        failures.append({'image': path, 'error': 'no such file'})
      except (ValueError, OSError, MemoryError) as error:
        line = getattr(error, 'strerror', None) or str(error)
        failures.append({'image': path, 'error': f'not a picture: {line}'})
    yield good, np.array(images), failures


def best(
  logits: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> list[dict]:
  """The likeliest classes of one image, best first."""
  # By logits, as the sigmoids of all large ones are exactly 1.
  order = np.argsort(-logits, kind='stable')[:TOP]
  return [
    {
      'index': int(index),
      'name': names[index],
      'probability': float(probabilities[index]),
    }
    for index in order
  ]


def text(row: dict[str, Any]) -> str:
  """A picture and its classes, one a line."""
  lines = [texts.printable(row['image'])]
  for found in row['classes']:
    name = texts.printable(found['name'])
    lines.append(f'  {100 * found["probability"]:5.1f} %  {name}')
  return '\n'.join(lines)


if __name__ == '__main__':
  common.run(main, positional=True)
