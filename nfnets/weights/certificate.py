"""Compares a network here with timm's same network, stage by stage.

timm and PyTorch may live in an environment of their own: weights, an image and
activations pass through files.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import safetensors.numpy

from nfnets import models
from nfnets.weights import files, timm

_VARIABLE = 'NFNETS_TIMM_PYTHON'
_SCRIPT = """
import sys
import numpy, safetensors.torch, timm, torch

name, folder, num_classes = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = timm.create_model(name, num_classes=num_classes).eval()
weights = safetensors.torch.load_file(f'{folder}/weights.safetensors')
model.load_state_dict(weights, strict=True)
kept = {}
for index, stage in enumerate(model.stages):
  stage.register_forward_hook(
    lambda module, inputs, output, index=index: kept.__setitem__(
      f'stage {index + 1}', output.permute(0, 2, 3, 1).numpy()
    )
  )
images = torch.from_numpy(numpy.load(f'{folder}/images.npy'))
with torch.no_grad():
  kept['logits'] = model(images.permute(0, 3, 1, 2).contiguous()).numpy()
numpy.savez(f'{folder}/activations.npz', **kept)
"""


class Row(NamedTuple):
  """One activation: `error` is the difference's norm over timm's norm."""

  name: str
  shape: tuple[int, ...]
  norm: float
  error: float


def python_with_timm() -> str | None:
  """The interpreter that can import timm: the one named by the environment
  variable NFNETS_TIMM_PYTHON, or this one, or None."""
  python = os.environ.get(_VARIABLE, sys.executable)
  command = [python, '-c', 'import timm, torch, safetensors']
  try:
    found = subprocess.run(command, capture_output=True, check=False)
  except FileNotFoundError:
    return None
  return python if found.returncode == 0 else None


def compare(weights: files.Weights, name: str, images: np.ndarray) -> list[Row]:
  """Runs both networks in evaluation on the same weights and images.

  Args:
    weights: of the network `timm.PEERS[name].model`.
    name: of timm's network.
    images: float32 `[N, H, W, 3]`.

  Returns:
    Rows for every stage's output and the logits, in order.

  Raises:
    RuntimeError: where timm can't be imported, or doesn't take the weights.
  """
  python = python_with_timm()
  if python is None:
    raise RuntimeError(
      f'timm cannot be imported; name a Python that can in {_VARIABLE}'
    )
  ours = _ours(weights, name, images)
  theirs = _theirs(python, weights, name, images)
  return [
    Row(
      key,
      theirs[key].shape,
      float(np.linalg.norm(theirs[key])),
      float(
        np.linalg.norm(ours[key] - theirs[key]) / np.linalg.norm(theirs[key])
      ),
    )
    for key in ours
  ]


def table(rows: Sequence[Row]) -> str:
  """The rows as text."""
  lines = [f'{"activation":12} {"shape":20} {"norm":>12} {"difference":>12}']
  for row in rows:
    lines.append(
      f'{row.name:12} {row.shape!s:20} {row.norm:12.4g} {row.error:12.2e}'
    )
  return '\n'.join(lines)


def random_weights(
  name: str, num_classes: int = 1000, seed: int = 0
) -> files.Weights:
  """Weights of timm's network `name` with every leaf away from its start.

  Gains and skip gains are drawn around 1 and 1/2, biases around 0: what a zero
  would hide is seen.
  """
  peer = timm.PEERS[name]
  random = np.random.default_rng(seed)
  shapes = files.shapes(peer.model, num_classes, **peer.overrides)[0]
  centers = {'gain': (1.0, 0.1), 'skip_gain': (0.5, 0.1)}
  centers |= {'bias': (0.0, 0.1), 'b': (0.0, 0.1)}
  params = {}
  for module, leaves in shapes.items():
    params[module] = {}
    for leaf, shape in leaves.items():
      mean, std = centers.get(leaf, (0.0, 0.05))
      draw = random.standard_normal(shape.shape, np.float32)
      params[module][leaf] = np.float32(mean) + np.float32(std) * draw
  return files.Weights(params, {}, peer.model, num_classes, peer.overrides)


def _ours(
  weights: files.Weights, name: str, images: np.ndarray
) -> dict[str, np.ndarray]:
  peer = timm.PEERS[name]
  network = models.create(
    peer.model, weights.num_classes, **peer.overrides, features=True
  )
  apply = jax.jit(network.apply, static_argnums=4)
  output, _ = apply(weights.params, weights.state, None, images, False)
  stages = [output['features'][stride] for stride in sorted(output['features'])]
  named = {f'stage {i + 1}': np.asarray(x) for i, x in enumerate(stages)}
  return named | {'logits': np.asarray(output['logits'])}


def _theirs(
  python: str, weights: files.Weights, name: str, images: np.ndarray
) -> dict[str, np.ndarray]:
  with tempfile.TemporaryDirectory() as folder:
    safetensors.numpy.save_file(
      timm.to_timm(weights.params, name),
      pathlib.Path(folder) / 'weights.safetensors',
    )
    np.save(pathlib.Path(folder) / 'images.npy', images.astype(np.float32))
    command = [python, '-c', _SCRIPT, name, folder, str(weights.num_classes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
      raise RuntimeError(f"timm's {name} fails: {done.stderr[-2000:]}")
    with np.load(pathlib.Path(folder) / 'activations.npz') as file:
      return {key: file[key] for key in file.files}
