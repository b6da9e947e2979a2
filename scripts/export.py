"""Writes a network that runs without this package.

  python -m scripts.export --weights=FILE --format=stablehlo OUT
  python -m scripts.export --weights=FILE --format=onnx OUT.onnx

FILE is anything that scripts.predict reads. Normalizer-free networks are
folded first. OUT takes images `[N, S, S, 3]` to logits `[N, K]`, and holds how
pictures become images and the classes' names. nfnets/weights/exported.py says
how it does and runs it; it needs nothing else of this package. OUT appears when
another process has run it so and its logits are the network's. ONNX takes
`pip install -r requirements-export.txt`. Exit codes: 0 written, 2 refused.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging

REFUSED = 2

WEIGHTS = flags.DEFINE_string('weights', None, 'A file of weights.')
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


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  try:
    if not WEIGHTS.value:
      return refuse('name the weights: --weights=FILE')
    if len(argv) != 2:
      return refuse('name one file to write: python -m scripts.export … OUT')
    return export(pathlib.Path(WEIGHTS.value), pathlib.Path(argv[1]))
  except (ValueError, OSError, ImportError) as error:
    return refuse(str(error))


def export(source: pathlib.Path, target: pathlib.Path) -> int:
  """Reads, writes, checks, and says what was done."""
  from nfnets.weights import export, files

  batch = batch_size(BATCH.value)
  if not target.parent.is_dir():
    raise FileNotFoundError(f'{target.parent}: no such folder')
  weights = files.load(source)
  written = export.write(
    target,
    weights,
    FORMAT.value,
    batch=batch,
    image_size=IMAGE_SIZE.value,
    platforms=PLATFORMS.value,
  )
  print(
    f'{target}: {weights.model} as {FORMAT.value}, '
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
