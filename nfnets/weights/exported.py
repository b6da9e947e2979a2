"""Runs what scripts.export wrote. It needs nothing of nfnets: copy it freely.

`python exported.py FILE IMAGES.npz LOGITS.npz` does so from files.
"""

import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Of shapes that are open until a program runs, and of standardized weights.
KNOWN_CALLS = frozenset({'shape_assertion', 'LayoutConstraint'})


class Exported(NamedTuple):
  """A network: `run` takes images `[N, H, W, 3]` to logits `[N, K]`.

  Both float32. `description` tells the shapes, how pictures become images, and
  the classes' names.
  """

  run: Callable[[np.ndarray], np.ndarray]
  description: dict[str, Any]


def load(path: str) -> Exported:
  """Reads a file of either format, told by its content.

  A StableHLO file is a zip of `network.json`, the description;
  `network.stablehlo`, what `jax.export` serialized, a function of the weights
  and the images; and `weights.safetensors`, the weights by name. It takes jax
  and safetensors to run. An ONNX file has the description among its metadata,
  each value as JSON, and takes onnxruntime.

  Raises:
    ValueError: it is neither, or damaged, or calls what isn't known.
  """
  with open(path, 'rb') as file:
    is_zip = file.read(4) == b'PK\x03\x04'
  try:
    return load_stablehlo(path) if is_zip else load_onnx(path)
  except ImportError:
    raise
  except Exception as error:  # a damaged file makes its reader raise anything
    why = ' '.join(str(error).split()) or type(error).__name__
    raise ValueError(f'{path}: {why:.300}') from error


def load_stablehlo(path: str) -> Exported:
  import jax
  import safetensors.numpy
  from jax import export

  with zipfile.ZipFile(path) as file:
    size = sum(info.file_size for info in file.infolist())
    if size > os.path.getsize(path):
      raise ValueError('its parts are compressed; scripts.export leaves them')
    description = json.loads(file.read('network.json'))
    program = export.deserialize(bytearray(file.read('network.stablehlo')))
    check_calls(program.mlir_module())
    weights = safetensors.numpy.load(file.read('weights.safetensors'))
  weights, call = jax.device_put(weights), jax.jit(program.call)
  return Exported(lambda x: np.asarray(call(weights, x)), description)


def check_calls(program: str) -> None:
  """Raises ValueError where a program calls what it doesn't bring along.

  XLA ends the whole process at such a call.
  """
  called = re.findall(r'custom_call\s*@([\w.$]+)', program)
  called += re.findall(r'call_target_name\s*=\s*"([^"]*)"', program)
  if unknown := sorted(set(called) - KNOWN_CALLS):
    raise ValueError(f'the program calls {unknown[0]!r}, which is unknown here')


def load_onnx(path: str) -> Exported:
  import onnxruntime

  session = onnxruntime.InferenceSession(
    path, providers=['CPUExecutionProvider']
  )
  written = session.get_modelmeta().custom_metadata_map
  description = {key: json.loads(value) for key, value in written.items()}
  return Exported(lambda x: session.run(None, {'images': x})[0], description)


def main(path: str, images: str, logits: str) -> None:
  """Runs every array of one .npz, and writes the results to another."""
  # To show that nothing of it is needed.
  sys.modules['nfnets'] = None
  network = load(path)
  with np.load(images) as file:
    np.savez(logits, **{name: network.run(file[name]) for name in file.files})


if __name__ == '__main__':
  main(*sys.argv[1:])
