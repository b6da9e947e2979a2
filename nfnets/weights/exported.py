"""Runs files from scripts.export. A copy of this file works without nfnets."""

import json
import os
import re
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Custom calls of programs with an open batch size, and of weight
# standardization.
KNOWN_CALLS = frozenset({'shape_assertion', 'LayoutConstraint'})


class Exported(NamedTuple):
  """A network: `run` maps images `[N, H, W, 3]` to logits `[N, K]`, float32.

  `description` has the shapes, the preprocessing and the classes' names.
  """

  run: Callable[[np.ndarray], np.ndarray]
  description: dict[str, Any]


def load(path: str) -> Exported:
  """Reads a file of either format.

  A StableHLO file is a zip of `network.json`, the description;
  `network.stablehlo`, a function of the weights and the images that
  `jax.export` serialized; and `weights.safetensors`, the weights by name. It
  needs jax and safetensors. An ONNX file has the description in its metadata,
  each value as JSON, and needs onnxruntime.

  Raises:
    ValueError: the file is of neither format, is damaged, or makes an unknown
      custom call.
  """
  with open(path, 'rb') as file:
    is_zip = file.read(4) == b'PK\x03\x04'
  try:
    return load_stablehlo(path) if is_zip else load_onnx(path)
  except ImportError:
    raise
  except Exception as error:  # readers of damaged files may raise anything
    why = ' '.join(str(error).split()) or type(error).__name__
    raise ValueError(f'{path}: {why:.300}') from error


def load_stablehlo(path: str) -> Exported:
  import jax
  import safetensors.numpy
  from jax import export

  with zipfile.ZipFile(path) as file:
    size = sum(info.file_size for info in file.infolist())
    if size > os.path.getsize(path):
      raise ValueError('its parts are compressed: not by scripts.export')
    description = json.loads(file.read('network.json'))
    program = export.deserialize(bytearray(file.read('network.stablehlo')))
    check_calls(program.mlir_module())
    weights = safetensors.numpy.load(file.read('weights.safetensors'))
  weights, call = jax.device_put(weights), jax.jit(program.call)
  return Exported(lambda x: np.asarray(call(weights, x)), description)


def check_calls(program: str) -> None:
  """Raises ValueError for an unknown custom call, which would crash XLA."""
  called = re.findall(r'custom_call\s*@([\w.$]+)', program)
  called += re.findall(r'call_target_name\s*=\s*"([^"]*)"', program)
  if unknown := sorted(set(called) - KNOWN_CALLS):
    raise ValueError(
      f'the program makes an unknown custom call, {unknown[0]!r}'
    )


def load_onnx(path: str) -> Exported:
  import onnxruntime

  session = onnxruntime.InferenceSession(
    path, providers=['CPUExecutionProvider']
  )
  written = session.get_modelmeta().custom_metadata_map
  description = {key: json.loads(value) for key, value in written.items()}
  return Exported(lambda x: session.run(None, {'images': x})[0], description)
