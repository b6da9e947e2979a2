"""Exports a network to a file that runs without this package.

  python -m scripts.export --weights=FILE --format=stablehlo OUT
  python -m scripts.export --weights=FILE --format=onnx OUT.onnx

FILE is anything that scripts.predict reads. OUT maps images `[N, S, S, 3]` to
logits `[N, K]` and contains the names of the classes and how to turn a picture
into an image. nfnets/weights/exported.py reads and runs it, and needs nothing
else from this package. Normalizer-free networks are folded first. OUT is
written only after it has been loaded again and has computed the network's
logits. ONNX needs `pip install -e '.[export]'`. Exit codes: 0 written, 2
refused or failed.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from scripts import common

WEIGHTS = flags.DEFINE_string(
  'weights', None, "The weights: a name, a file, or a run's folder."
)
FORMAT = flags.DEFINE_enum(
  'format', 'stablehlo', ('stablehlo', 'onnx'), 'The format of OUT.'
)
BATCH = flags.DEFINE_string('batch', 'any', "N: a batch size, or 'any'.")
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size',
  None,
  'S, in pixels. By default the size that the network is tested at.',
)
PLATFORMS = flags.DEFINE_list(
  'platforms',
  ['cpu', 'cuda', 'tpu'],
  'The platforms that a stablehlo file runs on: cpu, cuda, rocm, tpu; cpu is '
  'required.',
)


def main(arguments: Sequence[str]) -> int:
  source = common.needed(WEIGHTS, 'F0_haiku.npz')
  if len(arguments) != 1:
    raise ValueError('give one file to write: python -m scripts.export … OUT')
  target = pathlib.Path(arguments[0])
  if target.is_dir():
    raise ValueError(f'{target} is a folder; name the file to write')
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
    f'{written.size / 2**20:.1f} MiB; the logits of the reloaded file differ '
    f'by {written.error:.1e} of the largest'
  )
  return 0


def batch_size(text: str) -> int | None:
  """The value of --batch; None for 'any'."""
  if text == 'any':
    return None
  if not text.isdecimal() or int(text) < 1:
    raise ValueError(f"--batch={text}: give a positive number, or 'any'")
  return int(text)


if __name__ == '__main__':
  common.run(main, positional=True)
