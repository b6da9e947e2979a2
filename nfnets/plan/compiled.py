"""Cost of a training step on TPUs that are not attached.

`libtpu` can compile the step without a TPU. Without `libtpu` the step is traced
and its cost is estimated from its operations (`plan.abstract`).
"""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)
from ml_collections import ConfigDict

from nfnets import checks, parallel, step
from nfnets.models import layers
from nfnets.plan import abstract, pods

# Temporaries of compiled steps over those that `plan.abstract` counts without
# the compiler's copies and layouts: F0 and F3, results/pod_plan.md.
TEMPORARIES = 1.7
REMAT_TEMPORARIES = 1.2  # the same with `model.remat`: F6
BYTES = (
  'on v3 the compiler counts 0.8 to 1.2 times as many as the estimate, on v4 '
  'and v5e, where it includes copies into on-chip memory, 2.0 to 2.4 times'
)


class Program(NamedTuple):
  """The cost of the training step on one device.

  Attributes:
    method: 'compiled', 'estimated', or 'refused' if the compiler found that it
      needs too much memory; all figures but its memory are then estimates.
    arguments: bytes of the state, the batch and a data set on the device.
    temporaries: bytes of intermediate results.
    code: bytes of the program; None unless compiled.
    flops: a multiply-add counts as two.
    bytes_accessed: in memory. Copies to and from on-chip memory, where the
      compiler makes any, count about four times.
    collective_bytes: that each device passes to collectives.
    state_bytes: of the state, which is what a checkpoint contains.
    fits: whether the compiler accepted the program; for an estimate, whether
      arguments and temporaries are within the chip's memory.
    peak: the compiler's own figure for bytes in use at once, which may be less
      than arguments, temporaries and code; None where it gives none.
  """

  method: str
  arguments: float
  temporaries: float
  code: float | None
  flops: float
  bytes_accessed: float
  collective_bytes: float
  state_bytes: float
  fits: bool
  peak: float | None = None

  @property
  def memory(self) -> float:
    """Arguments, temporaries and code, in bytes."""
    return self.arguments + self.temporaries + (self.code or 0)


def measure(config: ConfigDict, pod: pods.Pod, is_compiled: bool) -> Program:
  """Compiles or estimates the step.

  Raises:
    ValueError: see `checks.check`; or `libtpu` is needed and not installed.
  """
  checks.check(config, pod.num_devices)
  make = compile_step if is_compiled else estimate_step
  return make(config, pod)


def estimate_step(config: ConfigDict, pod: pods.Pod) -> Program:
  """Estimates the step from shapes (`jax.eval_shape`, `jax.make_jaxpr`)."""
  train_step, shapes = step_of(config)
  mesh = AbstractMesh(
    (pod.num_devices,), (parallel.AXIS,), axis_types=(AxisType.Auto,)
  )
  with layers.traced_for('tpu'):
    traced = jax.make_jaxpr(_mapped(train_step, mesh))(*shapes)
  work = abstract.work(traced)
  state_bytes, arguments = _argument_bytes(shapes, pod)
  arguments += held_bytes(config)
  remat = config.model.get('remat', False)
  scale = REMAT_TEMPORARIES if remat else TEMPORARIES
  temporaries = scale * work.temporaries
  return Program(
    method='estimated',
    arguments=arguments,
    temporaries=temporaries,
    code=None,
    flops=work.flops,
    bytes_accessed=work.bytes_accessed,
    collective_bytes=work.collective_bytes,
    state_bytes=state_bytes,
    fits=arguments + temporaries <= pod.chip.memory,
  )


def compile_step(config: ConfigDict, pod: pods.Pod) -> Program:
  """Compiles the step with XLA's TPU compiler, for the pod's devices.

  Collectives are still estimates, and so are FLOPs and bytes of a step with
  loops (over micro-batches, SAM's groups or blocks).

  Raises:
    ValueError: if `libtpu` isn't installed.
  """
  estimate = estimate_step(config, pod)
  train_step, shapes = step_of(config)
  held = held_bytes(config)
  mesh = Mesh(np.array(devices(pod)), (parallel.AXIS,))
  try:
    made = lower(train_step, shapes, mesh).compile()
  except jax.errors.JaxRuntimeError as error:
    needed = needed_memory(str(error))
    if needed is None:
      raise
    return estimate._replace(
      method='refused',
      temporaries=max(needed + held - estimate.arguments, 0.0),
      fits=False,
    )
  memory = made.memory_analysis()
  # Results overwrite the donated arguments.
  new_results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  peak = getattr(memory, 'peak_memory_in_bytes', 0)
  program = estimate._replace(
    method='compiled',
    arguments=float(memory.argument_size_in_bytes + new_results + held),
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    fits=True,
    peak=peak + held if peak else None,
  )
  if has_loops(config):  # the compiler's cost analysis counts a body once
    return program
  cost = made.cost_analysis()
  return program._replace(
    flops=cost['flops'], bytes_accessed=cost['bytes accessed']
  )


def step_of(config: ConfigDict) -> tuple[Any, tuple]:
  """Returns the training step and shapes of its state, global batch and key.

  The batch consists of images even with `data.on_device`; see `held_bytes`.
  """
  key = jax.eval_shape(lambda: jax.random.key(0))
  size = config.data.train_image_size
  count = config.batch_size * (2 if config.augment.pairs == 'fresh' else 1)
  batch = {
    'images': jax.ShapeDtypeStruct((count, size, size, 3), np.uint8),
    'labels': jax.ShapeDtypeStruct((count,), np.int32),
  }
  shapes = step.state_shapes(config), batch, key
  return step.make_train_step(config), shapes


def held_bytes(config: ConfigDict) -> int:
  """Returns the bytes of the data set that each device holds, if it does."""
  data = config.data
  return data.on_device * data.num_train * (3 * data.train_image_size**2 + 4)


def lower(train_step: Any, shapes: tuple, mesh: Mesh) -> jax.stages.Lowered:
  """Lowers the step for a mesh: state and key replicated, the batch sharded."""
  replicated = NamedSharding(mesh, PartitionSpec())
  sharded = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
  placed = [
    jax.tree.map(
      lambda x, place=place: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=place
      ),
      tree,
    )
    for tree, place in zip(shapes, (replicated, sharded, replicated))
  ]
  mapped = jax.jit(_mapped(train_step, mesh), donate_argnums=0)
  with layers.traced_for(mesh.devices.flat[0].platform):
    return mapped.lower(*placed)


def has_loops(config: ConfigDict) -> bool:
  """Whether the step has loops, so that its FLOPs and bytes are estimates."""
  turns = config.micro_batches > 1 or (config.sam.rho and config.sam.m)
  return bool(turns or config.model.scan)


def has_compiler() -> bool:
  """Whether `libtpu` is installed."""
  return importlib.util.find_spec('libtpu') is not None


def devices(pod: pods.Pod) -> list[Any]:
  """Returns `libtpu`'s descriptions of the pod's devices.

  Raises:
    ValueError: if `libtpu` isn't installed.
  """
  if not has_compiler():
    raise ValueError(
      "libtpu is not installed: pip install 'jax[tpu]', or pass --abstract"
    )
  # Without these, libtpu would look for a TPU on the network, lock it and warn.
  for key, value in {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v4-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_MIN_LOG_LEVEL': '3',
    'TPU_STDERR_LOG_LEVEL': '3',
  }.items():
    os.environ.setdefault(key, value)
  options = {'chip_config_name': 'megacore'} if 'v4' in pod.name else {}
  found = topologies.get_topology_desc(
    platform='tpu', topology_name=pod.name, **options
  ).devices
  hosts = len({device.process_index for device in found})
  if (len(found), hosts) != (pod.num_devices, pod.num_hosts):
    raise ValueError(
      f'topology {pod.name!r}: libtpu has {len(found)} devices on {hosts} '
      f'hosts, but nfnets.plan.pods {pod.num_devices} on {pod.num_hosts}'
    )
  return found


def needed_memory(message: str) -> float | None:
  """Returns the bytes that a compiler error asks for; None for other errors."""
  if 'RESOURCE_EXHAUSTED' not in message:
    return None
  patterns = (r'Used ([\d.]+)([KMGT]?) of', r'\(([\d.]+)([KMGT]?)\) exceeds')
  found = [m for p in patterns if (m := re.search(p, message))]
  if not found:
    return math.inf
  power = ' KMGT'.index(found[0][2] or ' ')
  return float(found[0][1]) * 1024**power


def _mapped(train_step: Any, mesh: Mesh | AbstractMesh) -> Any:
  return jax.shard_map(
    train_step,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec(parallel.AXIS), PartitionSpec()),
    out_specs=PartitionSpec(),
    check_vma=False,  # the step reduces by itself
  )


def _argument_bytes(shapes: tuple, pod: pods.Pod) -> tuple[float, float]:
  """Returns the bytes of the state, and of one device's state and batch."""
  state, batch = (
    sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
    for tree in shapes[:2]
  )
  return float(state), state + batch / pod.num_devices
