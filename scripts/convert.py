"""Converts weights: python -m scripts.convert IN OUT.

IN is a published file (F0_haiku.npz), a file of ours (.safetensors, .npz), a
run's folder, timm's weights (.safetensors, .pth), here or in a bucket (gs://,
s3://), or a name of published weights (nfnet_f0, dm_nfnet_f0.dm_in1k,
hf-hub:timm/NAME), which is downloaded. OUT is .safetensors or .npz; with
--to=timm, timm's .safetensors. The content tells what IN is; --model says it.
--certify runs timm's same network besides and prints how far the stages'
outputs differ; it needs no IN and OUT with --timm, and then takes random
weights. Exit codes: 0 written, 1 certified to differ, 2 refused.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from scripts import common

DIFFERENT = 1
# Two float32 implementations of one function, relative to the norm.
TOLERANCE = 1e-4

MODEL = flags.DEFINE_string(
  'model', None, "IN's network; default: what it says, or by its tensors."
)
TO = flags.DEFINE_enum('to', 'ours', ('ours', 'timm'), 'What OUT shall be.')
TIMM = flags.DEFINE_string(
  'timm', None, "Of --to=timm, --certify: timm's network; default: the nearest."
)
FOLD = flags.DEFINE_bool(
  'fold', False, 'Write weights for inference alone, standardized once.'
)
RAW = flags.DEFINE_bool(
  'raw', False, 'The last weights, where IN holds their average too.'
)
CERTIFY = flags.DEFINE_bool(
  'certify', False, "Compare with timm's network, stage by stage."
)
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', 96, 'Side of the random image of --certify.'
)


def main(arguments: Sequence[str]) -> int:
  if CERTIFY.value and TIMM.value and not arguments:
    return certify(None, TIMM.value)
  if len(arguments) != 2:
    raise ValueError('name two files: python -m scripts.convert IN OUT')
  return convert(arguments[0], pathlib.Path(arguments[1]))


def convert(source: str, target: pathlib.Path) -> int:
  """Reads, checks, writes, and says what was done."""
  from nfnets import bucket, weights

  if target.suffix not in ('.safetensors', '.npz'):
    raise ValueError(f'{target}: write .safetensors or .npz')
  if bucket.is_url(target):
    raise ValueError(f'{target}: write a local file, and copy it there')
  found = weights.load(source, model=MODEL.value, averaged=not RAW.value)
  common.note(found.note)
  if TO.value == 'timm':
    write_timm(target, found)
  else:
    weights.write(target, weights.fold_weights(found) if FOLD.value else found)
  count = sum(x.size for m in found.params.values() for x in m.values())
  print(f'{target}: {found.model}, {count:,} parameters, from {source}')
  return certify(found, timm_name(found)) if CERTIFY.value else 0


def timm_name(weights: Any) -> str:
  """timm's network that the weights are for, or the nearest."""
  from nfnets.weights import timm

  return TIMM.value or timm.name_of(weights.model, weights.overrides)


def write_timm(target: pathlib.Path, weights: Any) -> None:
  from nfnets.weights import files, timm

  if target.suffix != '.safetensors':
    raise ValueError(f'{target}: timm reads .safetensors; name it so')
  name = timm_name(weights)
  differing = timm.changes(name, weights.model, weights.overrides)
  for key, value in differing.items():
    print(f"note: timm's {name} is this network with {key}={value!r}")
  files.write_safetensors(target, timm.to_timm(weights.params, name))


def certify(weights: Any, name: str) -> int:
  """Prints each stage's difference from timm's network."""
  import numpy as np
  from tabulate import tabulate

  from nfnets.weights import certificate

  weights = weights or certificate.random_weights(name)
  shape = (1, IMAGE_SIZE.value, IMAGE_SIZE.value, 3)
  image = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
  print(f'{name} against timm:')
  rows = certificate.compare(weights, name, image)
  header = ('activation', 'shape', 'norm', 'difference')
  print(tabulate(rows, header, floatfmt='.2e'))
  worst = max(row.error for row in rows)
  print(f'largest difference {worst:.1e}, allowed {TOLERANCE:.0e}')
  return 0 if worst <= TOLERANCE else DIFFERENT


if __name__ == '__main__':
  common.run(main, positional=True)
