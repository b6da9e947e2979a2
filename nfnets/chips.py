"""Accelerators' published peaks, by JAX's `device_kind`; imports no jax."""

import re
from typing import NamedTuple


class Chip(NamedTuple):
  """One JAX device; on TPU v2, v3 and TPU7x, a chip is two devices.

  Attributes:
    bfloat16: dense FLOP/s (a multiply-add counts as two); float16 on chips
      without bfloat16.
    float32: FLOP/s of the format that XLA computes float32 products and
      convolutions in by default: TF32 on NVIDIA since Ampere, one bfloat16 pass
      on TPUs.
    memory: bytes of HBM that a program can use: on TPUs, the published size
      less what the compiler (libtpu 0.0.42) reserves; 0 if unknown.
    bandwidth: bytes/s of HBM; 0 if unknown.
    interconnect: bytes/s to the neighboring chips, in one direction: a pod's
      published all-reduce bandwidth per chip, or half the bidirectional
      bandwidth; 0 if unknown.
  """

  bfloat16: float
  float32: float
  memory: float = 0
  bandwidth: float = 0
  interconnect: float = 0


def _gpu(bfloat16: float, float32: float) -> Chip:
  return Chip(bfloat16 * 1e12, float32 * 1e12)


def _tpu(
  bfloat16: float, memory: float, bandwidth: float, interconnect: float
) -> Chip:
  peak = bfloat16 * 1e12
  return Chip(peak, peak, memory * 2**30, bandwidth * 1e9, interconnect * 1e9)


# By `device_kind`, less what `SAME` matches. From the makers' data sheets and
# Google Cloud's TPU documentation; without sparsity.
CHIPS = {
  'NVIDIA GB300': _gpu(2500, 1250),  # an NVL72's, divided by 72
  'NVIDIA GB200': _gpu(2500, 1250),  # likewise
  'NVIDIA B300': _gpu(2250, 1125),  # an HGX B300's, divided by 8
  'NVIDIA B200': _gpu(2250, 1125),
  'NVIDIA GH200': _gpu(989, 494),
  'NVIDIA H200': _gpu(989, 494),
  'NVIDIA H100': _gpu(989, 494),
  'NVIDIA H100 PCIe': _gpu(756, 378),
  'NVIDIA H100 NVL': _gpu(835, 417),
  'NVIDIA H20': _gpu(148, 74),
  'NVIDIA A100': _gpu(312, 156),
  'NVIDIA A100-PCIE': _gpu(312, 156),
  'NVIDIA A100 80GB PCIe': _gpu(312, 156),
  'NVIDIA A10G': _gpu(70, 35),
  'NVIDIA L4': _gpu(121, 60),
  'NVIDIA L40S': _gpu(362, 183),
  'Tesla V100-SXM2': _gpu(125, 15.7),
  'Tesla V100-PCIE': _gpu(112, 14),
  'Tesla T4': _gpu(65, 8.1),
  'NVIDIA GeForce RTX 3090': _gpu(71, 35.6),  # accumulating in float32
  'NVIDIA GeForce RTX 4090': _gpu(165.2, 82.6),
  # On ROCm XLA doesn't choose TF32 by default.
  'AMD Instinct MI300X': _gpu(1307.4, 163.4),
  'TPU v2': _tpu(22.5, 7.48, 350, 124),
  'TPU v3': _tpu(61.5, 15.48, 450, 166),
  'TPU v4': _tpu(275, 30.75, 1200, 268),
  'TPU v5': _tpu(459, 95.74, 2765, 600),
  'TPU v5p': _tpu(459, 95.74, 2765, 600),
  'TPU v5 lite': _tpu(197, 15.75, 819, 200),
  'TPU v5e': _tpu(197, 15.75, 819, 200),
  'TPU v6 lite': _tpu(918, 31.25, 1638, 400),
  'TPU v6e': _tpu(918, 31.25, 1638, 400),
  'TPU7x': _tpu(1153.5, 94.75, 3690, 300),
}

# What may follow a name in the table: memory and module. Any other word makes
# another product (Ti, NVL, X, lite), or a part of one (MIG).
SAME = r'([ -](\d+GB?|HBM3e?|SXM\d|AC|OAM))*'


def find(device_kind: str) -> Chip | None:
  """The chip of a `device_kind`, or None if it isn't in the table."""
  for name, chip in CHIPS.items():
    if re.fullmatch(re.escape(name) + SAME, device_kind):
      return chip
  return None


def peak_flops(device_kind: str, precision: str) -> float | None:
  """FLOP/s in 'bfloat16' or 'float32'; None for an unknown device."""
  chip = find(device_kind)
  return getattr(chip, precision) if chip else None
