"""The data-parallel axis; the only file that uses `jax.pmap`.

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
    step: per-device code. It gets the whole state, its `[N, ...]` of the batch
      and the whole key. What it returns must be equal on all devices (use
      `mean`): `out_axes=None` doesn't check.
    devices: all by default.

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


def map_eval(step: Callable[..., Any]) -> Callable[..., Any]:
  """Maps `step(variables, batch)` over devices; donates nothing."""
  return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)


def mean(tree: Any) -> Any:
  """The mean of every leaf over devices, with the leaf's dtype.

  Integer leaves are counters, equal on all devices, and stay as they are.
  """

  def of_leaf(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.integer):
      return jax.lax.pmax(x, AXIS)
    return jax.lax.pmean(x, AXIS)

  return jax.tree.map(of_leaf, tree)


def total(tree: Any) -> Any:
  """The sum of every leaf over devices, added in the order of devices.

  The order of a `psum` depends on which process owns which device.
  """
  return jax.tree.map(
    lambda x: jnp.sum(jax.lax.all_gather(x, AXIS), axis=0), tree
  )


def device_key(key: jax.Array) -> jax.Array:
  """Derives this device's key from the key that all devices share."""
  return jax.random.fold_in(key, jax.lax.axis_index(AXIS))


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
  """Copies every leaf to each local device."""
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
