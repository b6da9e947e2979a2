"""Published peaks of accelerators by JAX's name for them; imports no jax."""

from typing import NamedTuple


class Chip(NamedTuple):
  """One device as JAX counts them: half a chip of TPU v2, v3 and TPU7x.

  Attributes:
    bfloat16: dense FLOP/s (a multiply-add is two); float16's where a chip has
      no bfloat16.
    float32: of what XLA computes float32 products and convolutions with at its
      default precision: TF32 on NVIDIA's since Ampere, one bfloat16 pass on
      TPUs.
    source: of the numbers.
    memory: bytes of HBM that a program may use, of TPUs: what the compiler
      (libtpu 0.0.42) leaves of the published size; 0 where not known.
    bandwidth: bytes/s of HBM; 0 where not known.
    interconnect: bytes/s that leave it for its neighbours; a pod's published
      all-reduce bandwidth over its chips, or half the bidirectional one; 0
      where not known.
  """

  bfloat16: float
  float32: float
  source: str
  memory: float = 0
  bandwidth: float = 0
  interconnect: float = 0


def _gpu(bfloat16: float, float32: float, maker: str = 'NVIDIA') -> Chip:
  return Chip(bfloat16 * 1e12, float32 * 1e12, f"{maker}'s data sheet, dense")


def _tpu(
  bfloat16: float, memory: float, bandwidth: float, interconnect: float
) -> Chip:
  peak, source = bfloat16 * 1e12, "Google Cloud's TPU documentation"
  units = memory * 2**30, bandwidth * 1e9, interconnect * 1e9
  return Chip(peak, peak, source, *units)


# Beginnings of `device_kind`; the longest that fits is taken.
CHIPS = {
  'NVIDIA GB300': _gpu(2500, 1250),  # NVL72 over its 72 GPUs
  'NVIDIA GB200': _gpu(2500, 1250),  # likewise
  'NVIDIA B300': _gpu(2250, 1125),  # HGX B300 over its 8
  'NVIDIA B200': _gpu(2250, 1125),
  'NVIDIA GH200': _gpu(989, 494),
  'NVIDIA H200': _gpu(989, 494),
  'NVIDIA H100': _gpu(989, 494),
  'NVIDIA H100 PCIe': _gpu(756, 378),
  'NVIDIA H100 NVL': _gpu(835, 417),
  'NVIDIA H20': _gpu(148, 74),
  'NVIDIA A100': _gpu(312, 156),
  'NVIDIA A10G': _gpu(70, 35),
  'NVIDIA L4': _gpu(121, 60),
  'NVIDIA L40S': _gpu(362, 183),
  'Tesla V100': _gpu(125, 15.7),
  'Tesla T4': _gpu(65, 8.1),
  'NVIDIA GeForce RTX 3090': _gpu(71, 35.6),  # accumulating in float32
  'NVIDIA GeForce RTX 4090': _gpu(165.2, 82.6),
  # float32 matrices: XLA for ROCm doesn't choose TF32 by itself.
  'AMD Instinct MI300X': _gpu(1307.4, 163.4, 'AMD'),
  'TPU v2': _tpu(22.5, 7.48, 350, 124),
  'TPU v3': _tpu(61.5, 15.48, 450, 166),
  'TPU v4': _tpu(275, 30.75, 1200, 268),
  'TPU v5': _tpu(459, 95.74, 2765, 600),
  'TPU v5 lite': _tpu(197, 15.75, 819, 200),
  'TPU v5e': _tpu(197, 15.75, 819, 200),
  'TPU v6 lite': _tpu(918, 31.25, 1638, 400),
  'TPU v6e': _tpu(918, 31.25, 1638, 400),
  'TPU7x': _tpu(1153.5, 94.75, 3690, 300),
}


def find(device_kind: str) -> Chip | None:
  """The chip that JAX calls so; None where it isn't in the table."""
  fitting = [name for name in CHIPS if device_kind.startswith(name)]
  return CHIPS[max(fitting, key=len)] if fitting else None


def peak_flops(device_kind: str, precision: str) -> float | None:
  """FLOP/s of a device at 'bfloat16' or 'float32'; None where not known."""
  chip = find(device_kind)
  return getattr(chip, precision) if chip else None
