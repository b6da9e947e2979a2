"""Converts weights: python -m scripts.convert IN OUT.

IN is a published file (F0_haiku.npz), a file of ours (.safetensors, .npz), a
run's folder, or timm's weights (.safetensors, .pth); it may be in a bucket
(gs://, s3://). A name of published weights (nfnet_f0, dm_nfnet_f0.dm_in1k,
hf-hub:timm/NAME) is downloaded. OUT is .safetensors or .npz, or with --to=timm
timm's .safetensors.

--certify also runs timm's implementation of the network and prints how far the
outputs of each stage differ. With --timm=NAME and without IN and OUT it does so
for random weights. Exit codes: 0 written, 1 --certify found a difference, 2
refused or failed.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from scripts import common

DIFFERENT = 1
TOLERANCE = 1e-4  # relative to the norm, of two implementations in float32

MODEL = flags.DEFINE_string(
  'model',
  None,
  "The network of IN. By default IN's metadata or its tensors tell.",
)
TO = flags.DEFINE_enum('to', 'ours', ('ours', 'timm'), 'The format of OUT.')
TIMM = flags.DEFINE_string(
  'timm', None, "timm's name for the network, with --to=timm and --certify."
)
FOLD = flags.DEFINE_bool(
  'fold', False, 'Write folded weights: standardized once, for inference only.'
)
RAW = flags.DEFINE_bool(
  'raw', False, 'Take the last weights where IN holds their average too.'
)
CERTIFY = flags.DEFINE_bool(
  'certify', False, "Compare the network with timm's, stage by stage."
)
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', 96, 'The side in pixels of the random image of --certify.'
)


def main(arguments: Sequence[str]) -> int:
  if CERTIFY.value and TIMM.value and not arguments:
    return certify(None, TIMM.value)
  if len(arguments) != 2:
    raise ValueError('give two files: python -m scripts.convert IN OUT')
  return convert(arguments[0], pathlib.Path(arguments[1]))


def convert(source: str, target: pathlib.Path) -> int:
  """Converts a file and prints what was written; returns the exit code."""
  from nfnets import bucket, weights
  from nfnets.weights import certificate

  if CERTIFY.value:
    certificate.python_with_timm()
  if target.suffix not in ('.safetensors', '.npz'):
    raise ValueError(f'{target}: name it .safetensors or .npz')
  if bucket.is_url(target):
    raise ValueError(f'{target}: write a local file, and copy it to there')
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
  """The timm network that the weights belong to, or the nearest one."""
  from nfnets.weights import timm

  return TIMM.value or timm.name_of(weights.model, weights.overrides)


def write_timm(target: pathlib.Path, weights: Any) -> None:
  """Writes timm's file, and prints where timm's network differs from ours."""
  from nfnets import models
  from nfnets.weights import files, timm

  if target.suffix != '.safetensors':
    raise ValueError(f'{target}: timm reads .safetensors; name it that')
  name = timm_name(weights)
  ours = models.arguments(weights.model, **weights.overrides)
  theirs = models.arguments(timm.known(name))
  for key in ('depths', 'widths'):
    if ours[key] != theirs[key]:
      raise ValueError(
        f"timm's {name} has {key}={theirs[key]}, not {ours[key]}: only our own "
        'format, without --to=timm, describes this network'
      )
  differing = timm.changes(name, weights.model, weights.overrides)
  for key, value in differing.items():
    print(f"note: timm's {name} is this network with {key}={value!r}")
  files.write_safetensors(target, timm.to_timm(weights.params, name))


def certify(weights: Any, name: str) -> int:
  """Prints how far each stage differs from timm's; returns the exit code.

  Args:
    weights: `nfnets.weights.Weights`, or None for random ones.
    name: timm's name of the network.
  """
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
