"""A training step compiled for an NVIDIA GPU that isn't there.

JAX's CUDA plugin compiles without a GPU and without CUDA. Nothing is tuned
then: which kernel cuDNN takes for a convolution, and its workspace, are decided
on a GPU. What is decided here is the rest: layouts, fusions, what is kept.
"""

import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from nfnets import compiler_words, parallel
from nfnets.plan import compiled as plan

# An H100 SXM5 as CUDA describes it (NVIDIA's H100 data sheet and the tables of
# the CUDA C++ programming guide for compute capability 9.0).
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  memory_bandwidth: 3350000000000
  device_memory_size: 84929347584
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
PLUGIN = 'jax_plugins.xla_cuda12'


class Account(NamedTuple):
  """A compiled step on one GPU.

  Attributes:
    kernels: launches by kind, see `compiler_words.kernels`.
    bytes_accessed: what they read and write, by kind.
    temporaries: bytes besides the state and the batch, without workspaces.
    arguments: bytes of the state and the batch.
    seconds: that compiling took.
  """

  kernels: dict[str, int]
  bytes_accessed: dict[str, float]
  temporaries: float
  arguments: float
  seconds: float


def has_compiler() -> bool:
  """Whether JAX's CUDA plugin is installed."""
  try:
    return importlib.util.find_spec(PLUGIN) is not None
  except ModuleNotFoundError:
    return False


def device() -> Any:
  """The H100 that isn't there.

  Raises:
    ValueError: the plugin isn't installed, or is another version's.
  """
  if not has_compiler():
    raise ValueError(
      "JAX's CUDA plugin is not installed: pip install "
      f'jax-cuda12-plugin=={jax.__version__}'
    )
  jax.devices()  # finds the plugin
  try:
    found = topologies.get_topology_desc(
      platform='cuda', target_config=H100, topology='1x1x1'
    )
  except NotImplementedError as error:
    raise ValueError(
      f"JAX's CUDA plugin doesn't compile here ({error}): its version must be "
      f"jax's, {jax.__version__}"
    ) from error
  return found.devices[0]


def account(train_step: Any, shapes: Sequence[Any]) -> Account:
  """Compiles a step for one H100.

  Args:
    train_step: of (state, batch, key), as `parallel.map_step` takes it.
    shapes: of the three.

  Raises:
    ValueError: see `device`.
  """
  mesh = Mesh(np.array([device()]), (parallel.AXIS,))
  start = time.perf_counter()
  made = plan.lower(train_step, tuple(shapes), mesh).compile()
  seconds = time.perf_counter() - start
  memory = made.memory_analysis()
  counts: dict[str, int] = {}
  amounts: dict[str, float] = {}
  for kind, amount in compiler_words.kernels(made.as_text()):
    counts[kind] = counts.get(kind, 0) + 1
    amounts[kind] = amounts.get(kind, 0.0) + amount
  return Account(
    counts,
    amounts,
    float(memory.temp_size_in_bytes),
    plan.held_bytes(memory),
    seconds,
  )


def page(entries: Mapping[str, Mapping[str, Any]], commands: str) -> str:
  """The text of results/gpu_program.md.

  Args:
    entries: by name; each an `Account`'s fields with 'step', 'model',
      'batch_size', 'image_size', 'jax', and maybe 'note'.
    commands: that made them.
  """
  versions = ' and '.join(sorted({entry['jax'] for entry in entries.values()}))
  lines = [
    '# Training steps compiled for an H100 that is not there',
    '',
    "What XLA's GPU backend makes of a step in bfloat16: kernels that a step "
    'launches, and bytes that they read and write, counted in the compiled '
    "program; a loop and a branch (the recipe's augmentation has them) count "
    'once. Nothing is tuned and nothing ran: no time follows from it, and '
    "cuDNN's workspaces come on top of the memory. `plain` is SGD with "
    'momentum and weight decay, `recipe` all of the configuration, `published` '
    'the network of google-deepmind/deepmind-research in the plain step '
    '(`nfnets/bench/published.py`; FOLDER is `nfnets` of a checkout). Its '
    'images are float32 and ours uint8.',
    '',
    f'With jax {versions}, by',
    '',
    '```bash',
    commands,
    '```',
    '',
    '| step | model | images of pixels | kernels | convolutions | '
    'transpositions, copies | bytes, GB | of convolutions | of transpositions, '
    'copies | of the rest | temporary, GiB | state and batch, GiB |',
    '|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|',
  ]
  return '\n'.join(lines + [_row(entry) for entry in entries.values()]) + '\n'


def _row(entry: Mapping[str, Any]) -> str:
  counts, amounts = entry['kernels'], entry['bytes_accessed']
  shown = ('convolution', 'transposition')
  rest = sum(amount for kind, amount in amounts.items() if kind not in shown)
  note = f', {entry["note"]}' if 'note' in entry else ''
  columns = [
    entry['step'] + note,
    entry['model'],
    f'{entry["batch_size"]:,} of {entry["image_size"]}',
    f'{sum(counts.values()):,}',
    *(f'{counts.get(kind, 0):,}' for kind in shown),
    f'{sum(amounts.values()) / 1e9:.2f}',
    *(f'{amounts.get(kind, 0.0) / 1e9:.2f}' for kind in shown),
    f'{rest / 1e9:.2f}',
    f'{entry["temporaries"] / 2**30:.2f}',
    f'{entry["arguments"] / 2**30:.2f}',
  ]
  return '| ' + ' | '.join(columns) + ' |'
