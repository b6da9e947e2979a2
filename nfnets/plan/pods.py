"""TPU topologies by name: devices, hosts and chips; imports no jax."""

import math
import re
from typing import NamedTuple

from nfnets import chips


class Generation(NamedTuple):
  """One generation of TPUs.

  Attributes:
    device_kind: JAX's name for a device.
    largest: sides of the largest slice, in chips.
    devices_per_chip: as JAX counts them.
    cores: TensorCores of a device.
    host_cores: virtual CPUs of a host of four chips, from Google Cloud's
      machine types.
  """

  device_kind: str
  largest: tuple[int, ...]
  devices_per_chip: int
  cores: int
  host_cores: int


class Pod(NamedTuple):
  """A slice of a TPU pod.

  Attributes:
    name: as libtpu has it, for instance 'v3:8x8'.
    generation: of its TPUs.
    chip: peaks and memory of one device.
    num_chips: product of the sides in the name.
  """

  name: str
  generation: Generation
  chip: chips.Chip
  num_chips: int

  @property
  def num_devices(self) -> int:
    """Cores of v2 and v3, chiplets of TPU7x, chips of the others."""
    return self.num_chips * self.generation.devices_per_chip

  @property
  def num_hosts(self) -> int:
    """One process each."""
    return self.num_chips // math.prod(HOST_SIDES)

  @property
  def unit(self) -> str:
    """What one device is: a 'core' (half a chip) or a 'chip'."""
    return 'core' if self.generation.devices_per_chip > 1 else 'chip'


# Largest slices, from Google Cloud's documentation (cloud.google.com/tpu/docs,
# pages v2 to tpu7x): 256, 1,024, 4,096, 256, 256 and 9,216 chips a pod; a job
# may have 6,144 of a v5p pod's 8,960.
GENERATIONS = {
  'v2': Generation('TPU v2', (16, 16), 2, 1, 96),
  'v3': Generation('TPU v3', (32, 32), 2, 1, 96),
  # Two cores that JAX drives as one ("megacore").
  'v4': Generation('TPU v4', (16, 16, 16), 1, 2, 240),
  'v5e': Generation('TPU v5 lite', (16, 16), 1, 1, 112),
  'v5p': Generation('TPU v5', (16, 16, 24), 1, 2, 208),
  'v6e': Generation('TPU v6 lite', (16, 16), 1, 1, 180),
  # Two chiplets, each a device of its own.
  'tpu7x': Generation('TPU7x', (16, 24, 24), 2, 1, 224),
}
ALIASES = {'v7x': 'tpu7x'}
HOST_SIDES = (2, 2, 1)  # chips of one host, of every generation


def find(name: str) -> Pod:
  """Returns the slice with a name such as 'v3:8x8' or 'v4:4x4x4'.

  Raises:
    ValueError: for an unknown generation, or an impossible slice of one.
  """
  match = re.fullmatch(r'((?:tpu|v)\d\w*):(\d+(?:x\d+)*)', name)
  if not match:
    raise ValueError(
      f'topology {name!r}: give a generation and its chips, such as v3:8x8, '
      'v4:4x4x4 or v6e:16x16'
    )
  kind = ALIASES.get(match[1], match[1])
  if kind not in GENERATIONS:
    raise ValueError(
      f'topology {name!r}: no TPU {kind}; choose from {", ".join(GENERATIONS)}'
    )
  generation = GENERATIONS[kind]
  sides = tuple(int(side) for side in match[2].split('x'))
  _check_sides(name, generation, sides)
  chip = chips.find(generation.device_kind)
  return Pod(f'{kind}:{match[2]}', generation, chip, math.prod(sides))


def _check_sides(
  name: str, generation: Generation, sides: tuple[int, ...]
) -> None:
  largest, example = generation.largest, 'x'.join('4' * len(generation.largest))
  # Optical links join cubes of 4x4x4 in any shape; flat pods are wired.
  in_cubes = len(largest) == 3
  unit = (4, 4, 4) if in_cubes and max(sides) > 4 else HOST_SIDES
  if len(sides) != len(largest) or any(
    side == 0 or side % one for side, one in zip(sides, unit)
  ):
    raise ValueError(
      f'topology {name!r}: {generation.device_kind} has {len(largest)} sides, '
      f'multiples of a host of 2x2 chips and beyond 4x4x4 of 4; take {example}'
    )
  is_long = any(side > end for side, end in zip(sides, largest))
  if math.prod(sides) > math.prod(largest) or (is_long and not in_cubes):
    raise ValueError(
      f'topology {name!r}: the largest slice of this generation is '
      f'{name.split(":")[0]}:{"x".join(map(str, largest))}, '
      f'{math.prod(largest):,} chips'
    )
