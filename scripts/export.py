"""Writes a network that runs without this package.

  python -m scripts.export --weights=FILE --format=stablehlo OUT
  python -m scripts.export --weights=FILE --format=onnx OUT.onnx

FILE is anything that scripts.predict reads. Normalizer-free networks are
folded first. OUT takes images `[N, S, S, 3]` to logits `[N, K]`, and holds how
pictures become images and the classes' names. nfnets/weights/exported.py says
how it does and runs it; it needs nothing else of this package. OUT appears when
another process has run it so and its logits are the network's. ONNX takes
`pip install -e '.[export]'`. Exit codes: 0 written, 2 refused.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from scripts import common

WEIGHTS = flags.DEFINE_string(
  'weights', None, "A name or file of weights, or a run's folder."
)
FORMAT = flags.DEFINE_enum(
  'format', 'stablehlo', ('stablehlo', 'onnx'), 'What OUT shall be.'
)
BATCH = flags.DEFINE_string('batch', 'any', "N of the images, or 'any'.")
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', None, "S in pixels; default: the network's test size."
)
PLATFORMS = flags.DEFINE_list(
  'platforms',
  ['cpu', 'cuda', 'tpu'],
  'Of stablehlo: where it shall run, cpu among them; rocm is known besides.',
)


def main(arguments: Sequence[str]) -> int:
  source = common.needed(WEIGHTS, 'F0_haiku.npz')
  if len(arguments) != 1:
    raise ValueError('name one file to write: python -m scripts.export … OUT')
  target = pathlib.Path(arguments[0])
  if target.is_dir():
    raise ValueError(f'{target}: a folder; name the file to write')
  batch = batch_size(BATCH.value)
  if not target.parent.is_dir():
    raise FileNotFoundError(f'{target.parent}: no such folder')
  from nfnets import weights
  from nfnets.weights import export

  found = weights.load(source)
  common.note(found.note)
  written = export.write(
    target,
    found,
    FORMAT.value,
    batch=batch,
    image_size=IMAGE_SIZE.value,
    platforms=PLATFORMS.value,
  )
  print(
    f'{target}: {found.model} as {FORMAT.value}, '
    f'{written.size / 2**20:.1f} MiB; reloaded, its logits differ by '
    f'{written.error:.1e} of the largest'
  )
  return 0


def batch_size(text: str) -> int | None:
  """None for 'any'."""
  if text == 'any':
    return None
  if not text.isdecimal() or int(text) < 1:
    raise ValueError(f"--batch={text}: give a number from 1 on, or 'any'")
  return int(text)


if __name__ == '__main__':
  common.run(main, positional=True)
