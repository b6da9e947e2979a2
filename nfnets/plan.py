"""The train step compiled for TPUs that aren't there, or estimated.

`libtpu` compiles without a TPU; without `libtpu` the step is traced and its
operations are counted (`analysis.abstract`).
"""

import functools
import importlib.util
import math
import os
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from nfnets import compiler_words, factory, parallel, pods, step, traffic
from nfnets.analysis import abstract

GIB = 2**30
# Compiled temporaries over those of `analysis.abstract`, which keeps fewer
# copies and layouts than the compiler does; see results/pod_plan.md.
TEMPORARIES = 1.7
REMAT_TEMPORARIES = 1.2  # of steps with `model.remat`, which keep less: F6's
# Compiled bytes over those of `analysis.abstract`, of the compiled cells of
# results/pod_plan.json.
BYTES = (
  'the compiler counts 0.8 to 1.2 times as many as an estimate on v3, and on '
  'v4 and v5e, where copies into on-chip memory count too, 2.0 to 2.4 times'
)


class Program(NamedTuple):
  """The train step on one device.

  Attributes:
    method: 'compiled', 'estimated', or 'refused' by the compiler for its
      memory; all figures but that memory are then estimates.
    arguments: bytes of the state and the batch.
    temporaries: bytes besides.
    code: bytes of the program itself; None where it wasn't compiled.
    flops: a multiply-add is two.
    bytes_accessed: of memory; where the compiler has copies to and from on-chip
      memory, those too, each about four times.
    collective_bytes: that each device hands to collectives.
    state_bytes: of the state, which is what a checkpoint holds.
    seconds: that compiling took; 0 for an estimate.
    fits: whether arguments, temporaries and code are within the chip's memory.
    operation_bytes: see `traffic.Traffic`; None for an estimate, and of a
      program with loops or branches.
    hbm_bytes: likewise.
  """

  method: str
  arguments: float
  temporaries: float
  code: float | None
  flops: float
  bytes_accessed: float
  collective_bytes: float
  state_bytes: float
  seconds: float
  fits: bool
  operation_bytes: float | None = None
  hbm_bytes: float | None = None

  @property
  def memory(self) -> float:
    """All bytes that the step needs."""
    return self.arguments + self.temporaries + (self.code or 0)


def check(config: ConfigDict, pod: pods.Pod) -> None:
  """Refuses what couldn't be trained or evaluated whole on the pod.

  Raises:
    ValueError: names the key, its value and the remedy.
  """
  factory.check(config, pod.num_devices, pod.num_hosts)
  if not config.data.eval_split:
    raise ValueError(
      "config.data.eval_split='': the evaluation set would be dropped; name a "
      'split'
    )
  size, devices = config.eval_batch_size, pod.num_devices
  if size % devices:
    above = -(-size // devices) * devices
    raise ValueError(
      f'config.eval_batch_size={size} does not divide among {devices} devices: '
      f'the rest of each batch of the evaluation set would be dropped or '
      f'padded; take {above}'
    )


def measure(config: ConfigDict, pod: pods.Pod, compiled: bool) -> Program:
  """The step's figures, compiled or estimated.

  Raises:
    ValueError: see `check`, or `libtpu` is asked for and not installed.
  """
  check(config, pod)
  return compile_step(config, pod) if compiled else estimate_step(config, pod)


def has_compiler() -> bool:
  """Whether `libtpu` is installed."""
  return importlib.util.find_spec('libtpu') is not None


def estimate_step(config: ConfigDict, pod: pods.Pod) -> Program:
  """From shapes alone (`jax.eval_shape`, `jax.make_jaxpr`)."""
  train_step, shapes = step_of(config)
  mesh = AbstractMesh((pod.num_devices,), (parallel.AXIS,))
  work = abstract.work(jax.make_jaxpr(_mapped(train_step, mesh))(*shapes))
  state_bytes, arguments = _argument_bytes(shapes, pod)
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
    seconds=0.0,
    fits=arguments + temporaries <= pod.chip.memory,
  )


def compile_step(config: ConfigDict, pod: pods.Pod) -> Program:
  """By XLA's TPU compiler, for the pod's own devices.

  FLOPs and bytes of a step that loops (over micro-batches, SAM's groups or
  blocks) are estimates all the same.
  """
  start = time.perf_counter()
  try:
    program = account(*step_of(config), pod)
  except jax.errors.JaxRuntimeError as error:
    needed = compiler_words.needed_memory(str(error))
    if needed is None:
      raise
    estimate = estimate_step(config, pod)
    return estimate._replace(
      method='refused',
      temporaries=max(needed - estimate.arguments, 0.0),
      seconds=time.perf_counter() - start,
      fits=False,
    )
  if loops(config):  # whose body the compiler's account has but once
    estimate = estimate_step(config, pod)
    program = program._replace(
      flops=estimate.flops, bytes_accessed=estimate.bytes_accessed
    )
  return program


def account(train_step: Any, shapes: tuple, pod: pods.Pod) -> Program:
  """Any step's figures by XLA's TPU compiler, for the pod's own devices.

  Args:
    train_step: of (state, batch, key), as `parallel.map_step` takes it.
    shapes: of the three, the batch whole.
    pod: its devices.

  Raises:
    ValueError: `libtpu` isn't installed.
    jax.errors.JaxRuntimeError: the compiler refuses, for its memory perhaps.
  """
  mesh = Mesh(np.array(devices(pod)), (parallel.AXIS,))
  start = time.perf_counter()
  made = lower(train_step, shapes, mesh).compile()
  seconds = time.perf_counter() - start
  cost, memory = made.cost_analysis(), made.memory_analysis()
  moved = traffic.of(text := made.as_text())
  state_bytes, _ = _argument_bytes(shapes, pod)
  return Program(
    method='compiled',
    arguments=held_bytes(memory),
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    flops=cost['flops'],
    bytes_accessed=cost['bytes accessed'],
    collective_bytes=compiler_words.collective_bytes(text),
    state_bytes=state_bytes,
    seconds=seconds,
    fits=True,  # the compiler refuses what doesn't
    operation_bytes=moved and moved.operations,
    hbm_bytes=moved and moved.hbm,
  )


def held_bytes(memory: Any) -> float:
  """Of the state and the batch, by a program's `memory_analysis()`."""
  # Results take the arguments' place, but for what isn't donated.
  return float(
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
  )


def loops(config: ConfigDict) -> bool:
  """Whether the step loops: its FLOPs and bytes are estimates then."""
  turns = config.micro_batches > 1 or (config.sam.rho and config.sam.m)
  return bool(turns or config.model.scan)


def lower(train_step: Any, shapes: tuple, mesh: Mesh) -> jax.stages.Lowered:
  """The step lowered for the mesh: state and key whole, the batch split."""
  whole = NamedSharding(mesh, PartitionSpec())
  split = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
  placed = [
    jax.tree.map(
      lambda x, place=place: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=place
      ),
      tree,
    )
    for tree, place in zip(shapes, (whole, split, whole))
  ]
  return jax.jit(_mapped(train_step, mesh), donate_argnums=0).lower(*placed)


def devices(pod: pods.Pod) -> list[Any]:
  """The pod's devices, of which none is there.

  Raises:
    ValueError: `libtpu` isn't installed.
  """
  if not has_compiler():
    raise ValueError(
      'libtpu is not installed: pip install -r requirements-plan.txt, or pass '
      '--abstract'
    )
  # There is no TPU: don't ask the network for one, don't lock it, don't warn.
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
      f'hosts, nfnets.pods {pod.num_devices} on {pod.num_hosts}'
    )
  return found


def step_of(config: ConfigDict) -> tuple[Any, tuple]:
  """The train step, and shapes of its state, whole batch and key."""
  network, optimizer = factory.network_of(config), factory.optimizer_of(config)
  key = jax.eval_shape(lambda: jax.random.key(0))
  init = functools.partial(step.init_state, config, network, optimizer)
  size = config.data.train_image_size
  count = config.batch_size * (2 if config.augment.pairs == 'fresh' else 1)
  batch = {
    'images': jax.ShapeDtypeStruct((count, size, size, 3), np.uint8),
    'labels': jax.ShapeDtypeStruct((count,), np.int32),
  }
  train_step = step.make_train_step(
    config, network, optimizer, factory.schedule_of(config)
  )
  state = factory.looped(config, jax.eval_shape(init, key))
  return train_step, (state, batch, key)


def _mapped(train_step: Any, mesh: Mesh | AbstractMesh) -> Any:
  return jax.shard_map(
    train_step,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec(parallel.AXIS), PartitionSpec()),
    out_specs=PartitionSpec(),
    check_vma=False,  # the step reduces by itself
  )


def _argument_bytes(shapes: tuple, pod: pods.Pod) -> tuple[float, float]:
  """Of the state, and of all that one device is given."""
  state, batch = (
    sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
    for tree in shapes[:2]
  )
  return float(state), state + batch / pod.num_devices
