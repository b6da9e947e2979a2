"""Chips are found by the names that JAX gives their devices."""

import pytest

from nfnets import chips


@pytest.mark.parametrize(
  ('device_kind', 'tera'),
  [
    ('NVIDIA H100 80GB HBM3', 989),
    ('NVIDIA H100 PCIe', 756),
    ('NVIDIA A100-SXM4-40GB', 312),
    ('Tesla V100-SXM2-16GB', 125),
    ('TPU v3', 61.5),
    ('TPU v5 lite', 197),
    ('TPU v5p', 459),
  ],
)
def test_the_longest_fitting_name_is_the_chips(device_kind, tera):
  assert chips.find(device_kind).bfloat16 == tera * 1e12


def test_a_cpu_has_no_published_peak():
  assert chips.find('cpu') is None
  assert chips.peak_flops('cpu', 'float32') is None


def test_the_peak_is_that_of_the_precision():
  assert chips.peak_flops('NVIDIA H200', 'bfloat16') == 989e12
  assert chips.peak_flops('NVIDIA H200', 'float32') == 494e12
  assert chips.peak_flops('NVIDIA GeForce RTX 3090', 'bfloat16') == 71e12


def test_float32_is_never_faster_than_bfloat16():
  for chip in chips.CHIPS.values():
    assert 0 < chip.float32 <= chip.bfloat16 and chip.source


def test_a_tpu_core_of_v3_is_half_a_chip():
  core = chips.find('TPU v3')
  assert core.bfloat16 == 123e12 / 2 and core.bandwidth == 900e9 / 2
  assert 15 * 2**30 < core.memory < 16 * 2**30
  assert core.interconnect == pytest.approx(340e12 / 1024 / 2, rel=0.01)


def test_every_tpu_has_its_memory_and_bandwidths():
  for name, chip in chips.CHIPS.items():
    if name.startswith('TPU'):
      assert chip.memory > 7 * 2**30
      assert chip.bandwidth > chip.interconnect > 0
