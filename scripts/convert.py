"""Converts weights: python -m scripts.convert IN OUT.

IN is a published file (F0_haiku.npz), a file of ours (.safetensors, .npz), a
run's folder, or timm's weights (.safetensors, .pth). OUT is .safetensors or
.npz; with --to=timm, timm's .safetensors. The content tells what IN is;
--from says it. --certify runs timm's same network besides and prints how far
the stages' outputs differ; it needs no IN and OUT with --timm, and then takes
random weights. Exit codes: 0 written, 1 certified to differ, 2 refused.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

REFUSED = 2
DIFFERENT = 1
# Two float32 implementations of one function, relative to the norm.
TOLERANCE = 1e-4
FORMATS = ('auto', 'published', 'ours', 'run', 'timm')

FROM = flags.DEFINE_enum('from', 'auto', FORMATS, 'What IN is.')
TO = flags.DEFINE_enum('to', 'ours', ('ours', 'timm'), 'What OUT shall be.')
TIMM = flags.DEFINE_string(
  'timm', None, "timm's network, such as dm_nfnet_f0; default: by its parts."
)
FOLD = flags.DEFINE_bool(
  'fold', False, 'Write weights for inference alone, standardized once.'
)
RAW = flags.DEFINE_bool(
  'raw', False, "Of a run, the last weights instead of their average's."
)
CERTIFY = flags.DEFINE_bool(
  'certify', False, "Compare with timm's network, stage by stage."
)
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', 96, 'Side of the random image of --certify.'
)


def main(argv: Sequence[str]) -> int:
  logging.set_verbosity(logging.WARNING)
  paths = [pathlib.Path(argument) for argument in argv[1:]]
  if len(paths) != 2 and not (CERTIFY.value and not paths and TIMM.value):
    return refuse('name two files: python -m scripts.convert IN OUT')
  try:
    if not paths:
      return certify(None, TIMM.value)
    return convert(*paths)
  except (ValueError, OSError, RuntimeError) as error:
    return refuse(str(error))


def convert(source: pathlib.Path, target: pathlib.Path) -> int:
  """Reads, checks, writes, and says what was done."""
  from nfnets.weights import files, fold_weights

  if target.suffix not in ('.safetensors', '.npz'):
    raise ValueError(f'{target}: write .safetensors or .npz')
  weights, timm_name = read(source)
  files.require_whole(weights, str(source))
  code = 0
  if TO.value == 'timm':
    timm_name = write_timm(target, weights)
  else:
    kept = fold_weights(weights) if FOLD.value else weights
    files.write(target, kept)
  count = sum(x.size for m in weights.params.values() for x in m.values())
  print(f'{target}: {weights.model}, {count:,} parameters, from {source}')
  if CERTIFY.value:
    code = certify(weights, timm_name or TIMM.value)
  return code


def read(source: pathlib.Path) -> tuple[Any, str | None]:
  """The weights, and timm's name of the network where timm wrote them."""
  from nfnets import pretrained

  found = pretrained.read(
    source, FROM.value, timm_name=TIMM.value, averaged=not RAW.value
  )
  if found.kind == 'run' and 'class_names' not in found.weights.data:
    print('note: the data are not at hand, so classes stay numbers')
  return found.weights, found.timm_name


def write_timm(target: pathlib.Path, weights: Any) -> str:
  import safetensors.numpy

  from nfnets.weights import timm

  if target.suffix != '.safetensors':
    raise ValueError(f'{target}: timm reads .safetensors; name it so')
  name = TIMM.value or timm.name_of(weights.model)
  if timm.PEERS[name].model != weights.model:
    raise ValueError(f"timm's {name} is no {weights.model}")
  for line in timm.differences(name, weights.overrides):
    print(f'note: {line}')
  safetensors.numpy.save_file(timm.to_timm(weights.params, name), target)
  return name


def certify(weights: Any, name: str | None) -> int:
  """Prints each stage's difference from timm's network."""
  import numpy as np

  from nfnets.weights import certificate, timm

  name = name or timm.name_of(weights.model)
  if name not in timm.PEERS:
    raise ValueError(f'no network of timm {name!r}: {", ".join(timm.PEERS)}')
  weights = weights or certificate.random_weights(name)
  shape = (1, IMAGE_SIZE.value, IMAGE_SIZE.value, 3)
  image = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
  peer = timm.PEERS[name]
  print(f'{peer.model} with {peer.overrides} against timm {name}:')
  rows = certificate.compare(weights, name, image)
  print(certificate.table(rows))
  worst = max(row.error for row in rows)
  print(f'largest difference {worst:.1e}, allowed {TOLERANCE:.0e}')
  return 0 if worst <= TOLERANCE else DIFFERENT


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
