"""Exports networks to StableHLO and ONNX, to run without this package.

`nfnets.weights.exported` documents the files and runs them.
"""

import importlib
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from nfnets import models
from nfnets.models import layers
from nfnets.weights import (
  exported,
  files,
  folding,
  match,
  onnx_writer,
  pictures,
)

FORMATS = ('stablehlo', 'onnx')
PLATFORMS = ('cpu', 'cuda', 'tpu')
KNOWN_PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
TOLERANCE = 1e-4  # relative to the largest logit
_CHECKED_BATCHES = (1, 3)  # for an open batch size
_PROTOBUF = 2**31 - 2**24  # bytes of weights: the format's limit less the graph


class Written(NamedTuple):
  """A checked file: its size in bytes, and its logits' largest difference from
  the network's, relative to the largest logit."""

  size: int
  error: float


def write(
  path: str | os.PathLike[str],
  weights: files.Weights,
  format: str,
  *,
  batch: int | None = None,
  image_size: int | None = None,
  platforms: Sequence[str] = PLATFORMS,
) -> Written:
  """Writes a network for inference and checks the file's logits.

  Weights are folded if possible. Before the file replaces an older one, it is
  loaded and run on random images on the CPU; the logits must equal the unfolded
  network's to `TOLERANCE`.

  Args:
    path: of the file.
    weights: of a complete network.
    format: one of `FORMATS`.
    batch: N; None leaves it open.
    image_size: side of the images; None for the network's evaluation size.
    platforms: to lower StableHLO for; must include 'cpu'.

  Raises:
    ValueError: an argument is invalid, the format can't express the network,
      the file doesn't run, or the logits differ.
    ImportError: ONNX needs onnx and onnxruntime, which aren't installed.
  """
  _check(weights, format, batch, image_size, platforms)
  size = image_size or pictures.image_size(weights)
  kept = folding.fold_if_possible(weights)
  description = describe(kept, batch, size)
  path = pathlib.Path(path)
  with tempfile.TemporaryDirectory(dir=path.parent) as folder:
    made = pathlib.Path(folder) / 'network'
    with files.one_line_errors(f'{weights.model} as {format}'):
      if format == 'stablehlo':
        _write_stablehlo(made, kept, description, platforms)
      else:
        _write_onnx(made, kept, description)
      error = _difference(made, weights, batch, size)
    if not error <= TOLERANCE:
      raise ValueError(
        f"{path}: not written: the {format} file's logits differ from the "
        f"network's by {error:.1e} of the largest, where {TOLERANCE:.0e} is "
        'allowed'
      )
    os.replace(made, path)
  return Written(path.stat().st_size, error)


def describe(
  weights: files.Weights, batch: int | None, image_size: int
) -> dict[str, Any]:
  """The description inside a file, as JSON values."""
  size = 'batch' if batch is None else batch
  return {
    'format': 'nfnets 1',
    'model': weights.model,
    'is_folded': bool(weights.overrides.get('folded', False)),
    'input': {
      'name': 'images',
      'shape': [
        size,
        image_size,
        image_size,
        files.channels(weights.params),
      ],
      'dtype': 'float32',
    },
    'output': {
      'name': 'logits',
      'shape': [size, weights.num_classes],
      'dtype': 'float32',
    },
    'preprocessing': pictures.preparation(weights, image_size),
    'class_names': pictures.class_names(weights),
    'jax': jax.__version__,
  }


def inference(weights: files.Weights) -> Callable[..., jax.Array]:
  """A function of leaves `{path: array}`, images `[N, H, W, 3]` to logits."""
  network = models.create(
    weights.model, weights.num_classes, **weights.overrides
  )

  def logits(leaves: dict[str, Any], images: jax.Array) -> jax.Array:
    is_state = {p: p.startswith(files.STATE) for p in leaves}
    params = {p: x for p, x in leaves.items() if not is_state[p]}
    state = {
      p.removeprefix(files.STATE): x for p, x in leaves.items() if is_state[p]
    }
    trees = match.unflatten(params), match.unflatten(state)
    return network.apply(*trees, None, images, False)[0]['logits']

  return logits


def _check(
  weights: files.Weights,
  format: str,
  batch: int | None,
  image_size: int | None,
  platforms: Sequence[str],
) -> None:
  files.require_whole(weights)
  files.require_head(weights)
  if format not in FORMATS:
    raise ValueError(f'format={format!r}: use {" or ".join(FORMATS)}')
  for name, number in (('batch', batch), ('image_size', image_size)):
    if number is not None and number < 1:
      raise ValueError(f'{name}={number}: must be at least 1')
  for platform in platforms:
    if platform not in KNOWN_PLATFORMS:
      known = ', '.join(KNOWN_PLATFORMS)
      raise ValueError(f'platform {platform!r} is none of {known}')
  if 'cpu' not in platforms:
    raise ValueError('platforms must include cpu, where the file is checked')
  if format == 'onnx':
    for package in ('onnx', 'onnxruntime'):
      importlib.import_module(package)  # raises before the work begins
  nbytes = sum(leaf.nbytes for leaf in files.leaves(weights).values())
  if format == 'onnx' and nbytes > _PROTOBUF:
    raise ValueError(
      f'{weights.model} has {nbytes / 2**30:.1f} GiB of weights, and an ONNX '
      'file holds at most 2: export as stablehlo'
    )


def _write_stablehlo(
  path: pathlib.Path,
  weights: files.Weights,
  description: dict[str, Any],
  platforms: Sequence[str],
) -> None:
  dimensions = ', '.join(map(str, description['input']['shape']))
  images = jax.ShapeDtypeStruct(export.symbolic_shape(dimensions), np.float32)
  specs = {
    path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    for path, leaf in files.leaves(weights).items()
  }
  lower = export.export(
    jax.jit(inference(weights)),
    platforms=list(platforms),
    disabled_checks=[
      export.DisabledSafetyCheck.custom_call(call)
      for call in exported.KNOWN_CALLS
    ],
  )
  with layers.traced_for('cpu'):
    program = lower(specs, images).serialize()
  stored = path.with_name('weights.safetensors')
  files.write(stored, weights)
  description = description | {'platforms': list(platforms)}
  with zipfile.ZipFile(path, 'w') as file:
    # ZipInfo's fixed date makes equal networks equal files.
    for name, data in (
      ('network.json', json.dumps(description, indent=1).encode()),
      ('network.stablehlo', bytes(program)),
      ('weights.safetensors', stored.read_bytes()),
    ):
      file.writestr(zipfile.ZipInfo(name), data)


def _write_onnx(
  path: pathlib.Path, weights: files.Weights, description: dict[str, Any]
) -> None:
  leaves, run = files.leaves(weights), inference(weights)
  batch, *shape = description['input']['shape']
  is_any = batch == 'batch'
  images = jax.ShapeDtypeStruct((1 if is_any else batch, *shape), np.float32)
  model = onnx_writer.convert(lambda x: run(leaves, x), images, is_any)
  for key, value in description.items():
    model.metadata_props.add(key=key, value=json.dumps(value))
  path.write_bytes(model.SerializeToString())


def _difference(
  path: pathlib.Path, weights: files.Weights, batch: int | None, size: int
) -> float:
  """The relative difference of the logits; infinite if they aren't finite."""
  random, errors = np.random.RandomState(0), []
  with jax.default_device(jax.devices('cpu')[0]):
    network = exported.load(str(path))
    run, leaves = jax.jit(inference(weights)), files.leaves(weights)
    for n in [batch] if batch else _CHECKED_BATCHES:
      shape = (n, size, size, files.channels(weights.params))
      images = random.standard_normal(shape).astype(np.float32)
      found, wanted = network.run(images), np.asarray(run(leaves, images))
      errors.append(np.abs(found - wanted).max() / np.abs(wanted).max())
  return float(max(errors)) if np.isfinite(errors).all() else float('inf')
