"""Compares feature maps and logits with those of the same network in timm.

timm and PyTorch may be installed in another environment: weights, images and
activations are exchanged as files.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

import jax
import numpy as np
import safetensors.numpy

from nfnets import models
from nfnets.weights import files, match, timm

_VARIABLE = 'NFNETS_TIMM_PYTHON'
_SCRIPT = """
import sys
import numpy, safetensors.torch, timm, torch

name, folder, num_classes = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = timm.create_model(name, num_classes=num_classes).eval()
weights = safetensors.torch.load_file(f'{folder}/weights.safetensors')
model.load_state_dict(weights, strict=True)
kept = {}
for row in model.feature_info:  # as features_only
  model.get_submodule(row['module']).register_forward_hook(
    lambda module, inputs, output, stride=row['reduction']: kept.__setitem__(
      f'stride {stride}', output.permute(0, 2, 3, 1).numpy()
    )
  )
images = torch.from_numpy(numpy.load(f'{folder}/images.npy'))
with torch.no_grad():
  kept['logits'] = model(images.permute(0, 3, 1, 2).contiguous()).numpy()
numpy.savez(f'{folder}/activations.npz', **kept)
"""


class Row(NamedTuple):
  """One activation: timm's norm, and the difference's norm relative to it."""

  name: str
  shape: tuple[int, ...]
  norm: float
  error: float


def python_with_timm() -> str:
  """The Python that has timm: $NFNETS_TIMM_PYTHON or this one.

  Raises:
    ValueError: it hasn't.
  """
  python = os.environ.get(_VARIABLE, sys.executable)
  command = [python, '-c', 'import timm, torch, safetensors']
  try:
    subprocess.run(command, capture_output=True, check=True)
  except (FileNotFoundError, subprocess.CalledProcessError) as error:
    raise ValueError(
      f'timm is not installed; set {_VARIABLE} to a Python that has it'
    ) from error
  return python


def compare(weights: files.Weights, name: str, images: np.ndarray) -> list[Row]:
  """Evaluates both networks with the same weights on the same images.

  Args:
    weights: as `timm.to_timm` takes them.
    name: of timm's network.
    images: float32 `[N, H, W, 3]`.

  Returns:
    A row for every feature map and one for the logits.

  Raises:
    ValueError: timm can't be imported, or doesn't accept the weights.
  """
  ours, theirs = _ours(weights, name, images), _theirs(weights, name, images)
  norm = np.linalg.norm
  return [
    Row(key, x.shape, float(norm(x)), float(norm(ours[key] - x) / norm(x)))
    for key, x in theirs.items()
  ]


def random_weights(name: str, num_classes: int = 1000) -> files.Weights:
  """Random weights of timm's network `name`, unlike its initial values.

  Gains are drawn around 1, skip gains around 1/2, other leaves around 0, so
  that no zero hides a difference.
  """
  name = timm.known(name)
  random = np.random.default_rng(0)
  means = {'gain': 1.0, 'skip_gain': 0.5}
  shapes, _ = files.shapes(name, num_classes)
  leaves = {
    path: np.float32(0.1) * random.standard_normal(leaf.shape, np.float32)
    + np.float32(means.get(path.rpartition('/')[2], 0))
    for path, leaf in match.flatten(shapes).items()
  }
  params = match.unflatten(leaves)
  return files.Weights(params, {}, name, num_classes)


def _ours(
  weights: files.Weights, name: str, images: np.ndarray
) -> dict[str, np.ndarray]:
  params = timm.from_timm(timm.to_timm(weights.params, name), name)
  network = models.create(timm.known(name), weights.num_classes, features=True)
  apply = jax.jit(network.apply, static_argnums=4)
  output, _ = apply(params, {}, None, images, False)
  maps = output['features'].items()
  named = {f'stride {stride}': np.asarray(x) for stride, x in maps}
  return named | {'logits': np.asarray(output['logits'])}


def _theirs(
  weights: files.Weights, name: str, images: np.ndarray
) -> dict[str, np.ndarray]:
  python = python_with_timm()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    safetensors.numpy.save_file(
      timm.to_timm(weights.params, name), path / 'weights.safetensors'
    )
    np.save(path / 'images.npy', images.astype(np.float32))
    name = name.removeprefix('timm/')
    command = [python, '-c', _SCRIPT, name, folder, str(weights.num_classes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
      raise ValueError(f"timm's {name} fails: {done.stderr[-2000:]}")
    with np.load(path / 'activations.npz') as file:
      return {key: file[key] for key in file.files}
