"""The data-parallel axis. The only file that knows that `jax.pmap` exists.

A step is per-device code with named collectives over `AXIS`. The state is
replicated, never stacked; a batch is `[devices, N, ...]`, split over devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'data'


def map_step(
  step: Callable[..., Any], devices: Sequence[jax.Device] | None = None
) -> Callable[..., Any]:
  """Maps `step(state, batch, key)` over devices; donates the state.

  Args:
    step: per-device code. It sees the whole state, its `[N, ...]` of the batch
      and the whole key. All it returns must be equal on all devices (`mean`):
      `out_axes=None` checks nothing.
    devices: default: all.

  Returns:
    A function of (state, batch `[local devices, N, ...]`, key).
  """
  return jax.pmap(
    step,
    axis_name=AXIS,
    in_axes=(None, 0, None),
    out_axes=None,
    donate_argnums=0,
    devices=devices,
  )


def map_eval(
  step: Callable[..., Any], devices: Sequence[jax.Device] | None = None
) -> Callable[..., Any]:
  """Maps `step(variables, batch)` over devices and keeps the variables."""
  return jax.pmap(
    step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices
  )


def mean(tree: Any) -> Any:
  """The mean over devices of every leaf, of its own type.

  Integers, which are counters and equal everywhere, stay integers.
  """

  def of_leaf(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.integer):
      return jax.lax.pmax(x, AXIS)
    return jax.lax.pmean(x, AXIS)

  return jax.tree.map(of_leaf, tree)


def total(tree: Any) -> Any:
  """The sum over devices of every leaf, in the devices' order.

  A `psum`'s order depends on how devices are spread over processes.
  """
  return jax.tree.map(
    lambda x: jnp.sum(jax.lax.all_gather(x, AXIS), axis=0), tree
  )


def device_key(key: jax.Array) -> jax.Array:
  """A key of this device's own, from the step's common key."""
  return jax.random.fold_in(key, jax.lax.axis_index(AXIS))


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
  """Puts every leaf, whole, onto each local device."""
  return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def shard(batch: Any, devices: Sequence[jax.Device] | None = None) -> Any:
  """Splits host arrays `[local devices * N, ...]` into `[devices, N, ...]`."""
  mesh = _mesh(devices)
  count = mesh.devices.size

  def split(x: np.ndarray) -> np.ndarray:
    if x.shape[0] % count:
      raise ValueError(
        f'{x.shape[0]} examples do not divide among {count} devices'
      )
    return np.reshape(x, (count, x.shape[0] // count) + x.shape[1:])

  return jax.device_put(
    jax.tree.map(split, batch), NamedSharding(mesh, PartitionSpec(AXIS))
  )


def to_host(tree: Any) -> Any:
  """NumPy copies of a replicated tree; waits until they are computed."""
  return jax.tree.map(np.asarray, jax.device_get(tree))


def _mesh(devices: Sequence[jax.Device] | None) -> Mesh:
  return Mesh(np.array(devices or jax.local_devices()), (AXIS,))
