"""Names of TPU slices and chips: devices, hosts, peaks; refusals."""

import pytest

from nfnets import chips
from nfnets.plan import compiled, pods


@pytest.mark.parametrize(
  'device_kind',
  [
    'NVIDIA L40',
    'NVIDIA A10',
    'NVIDIA A100X',
    'NVIDIA A100-SXM-64GB',
    'NVIDIA A100-SXM4-40GB MIG 1g.5gb',
    'NVIDIA H20-3e',
    'NVIDIA H200 NVL',
    'NVIDIA GeForce RTX 3090 Ti',
    'NVIDIA GeForce RTX 4090 D',
    'NVIDIA GeForce RTX 4090 Laptop GPU',
    'Tesla V100S-PCIE-32GB',
    'AMD Instinct MI300X VF',
    'TPU v4 lite',
  ],
)
def test_a_chip_whose_name_begins_like_another_s_is_not_taken_for_it(
  device_kind,
):
  assert chips.find(device_kind) is None


# Google Cloud's documentation; v3:8x8 is paper A's, the last are the largest.
@pytest.mark.parametrize(
  ('name', 'shape', 'device', 'kind'),
  [
    ('v3:8x8', (64, 128, 16), ('core', 1), 'TPU v3'),
    ('v4:4x4x4', (64, 64, 16), ('chip', 2), 'TPU v4'),
    ('v4:12x12x24', (3456, 3456, 864), ('chip', 2), 'TPU v4'),
    ('v5e:16x16', (256, 256, 64), ('chip', 1), 'TPU v5 lite'),
    ('v5p:16x16x24', (6144, 6144, 1536), ('chip', 2), 'TPU v5'),
    ('v6e:16x16', (256, 256, 64), ('chip', 1), 'TPU v6 lite'),
    ('v7x:2x2x1', (4, 8, 1), ('core', 1), 'TPU7x'),
    ('tpu7x:16x24x24', (9216, 18432, 2304), ('core', 1), 'TPU7x'),
    ('v2:16x16', (256, 512, 64), ('core', 1), 'TPU v2'),
    ('v3:32x32', (1024, 2048, 256), ('core', 1), 'TPU v3'),
  ],
)
def test_a_name_resolves_with_its_devices_and_hosts(name, shape, device, kind):
  pod = pods.find(name)
  assert (pod.num_chips, pod.num_devices, pod.num_hosts) == shape
  assert (pod.unit, pod.generation.cores) == device
  assert pod.generation.device_kind == kind


@pytest.mark.slow
@pytest.mark.skipif(
  not compiled.has_compiler(), reason='libtpu is not installed'
)
@pytest.mark.parametrize(
  'name',
  [
    'v2:16x16', 'v3:8x8', 'v3:32x32', 'v4:16x16x16', 'v5e:16x16',
    'v5p:16x16x24', 'v6e:16x16', 'v7x:4x4x4',
  ],
)  # fmt: skip
def test_devices_and_hosts_are_those_of_the_compiler(name):
  pod = pods.find(name)
  found = compiled.devices(pod)  # which compares the numbers
  assert {d.device_kind for d in found} == {pod.generation.device_kind}


@pytest.mark.parametrize(
  ('name', 'says'),
  [
    ('v9:2x2', 'no TPU v9'),
    ('v5:4x4', 'choose from .* v5e'),
    ('8x8', 'give a generation'),
    ('v3:8x8x8', 'has 2 sides'),
    ('v4:8x8', 'has 3 sides'),
    ('v3:8x7', 'multiples of a host of 2x2'),
    ('v3:0x2', 'multiples of a host of 2x2'),
    ('v3:2x64', 'is v3:32x32, 1,024 chips'),
    ('v4:16x16x20', 'is v4:16x16x16, 4,096 chips'),
    ('v6e:16x18', 'is v6e:16x16, 256 chips'),
    ('v4:2x2x8', 'beyond 4x4x4 of 4'),
  ],
)
def test_an_unknown_topology_is_refused(name, says):
  with pytest.raises(ValueError, match=says) as error:
    pods.find(name)
  assert name in str(error.value)


@pytest.mark.parametrize(
  ('device_kind', 'tera'),
  [
    ('NVIDIA H100 80GB HBM3', 989),
    ('NVIDIA H100 PCIe', 756),
    ('NVIDIA H20', 148),
    ('NVIDIA H200', 989),
    ('NVIDIA B300 SXM6 AC', 2250),
    ('NVIDIA GB200', 2500),
    ('NVIDIA GH200 144G HBM3e', 989),
    ('NVIDIA L4', 121),
    ('NVIDIA A100-SXM4-40GB', 312),
    ('NVIDIA A100-PCIE-40GB', 312),
    ('NVIDIA A100 80GB PCIe', 312),
    ('Tesla V100-SXM2-16GB', 125),
    ('Tesla V100-PCIE-32GB', 112),
    ('AMD Instinct MI300X', 1307.4),
    ('TPU v3', 61.5),
    ('TPU v5 lite', 197),
    ('TPU v5p', 459),
    ('TPU7x', 2307 / 2),
  ],
)
def test_memory_and_module_in_a_name_do_not_change_the_peak(device_kind, tera):
  assert chips.peak_flops(device_kind, 'bfloat16') == tera * 1e12


def test_a_cpu_has_no_published_peak():
  assert chips.find('cpu') is None
  assert chips.peak_flops('cpu', 'float32') is None


def test_every_chip_has_peaks_and_every_tpu_memory_and_bandwidths():
  for name, chip in chips.CHIPS.items():
    assert 0 < chip.float32 <= chip.bfloat16
    if name.startswith('TPU'):
      assert chip.memory > 7 * 2**30
      assert chip.bandwidth > chip.interconnect > 0


def test_tpus_are_as_jax_knows_them():
  tpu = pytest.importorskip('jax.experimental.pallas.tpu')
  if not hasattr(tpu, 'get_tpu_info_for_chip'):
    pytest.skip('this jax does not tell')
  kinds = {'v3': 'TPU v3', 'v5e': 'TPU v5 lite', 'v6e': 'TPU v6 lite'}
  kinds['7x'] = 'TPU7x'
  for version, kind in kinds.items():
    info = tpu.get_tpu_info_for_chip(tpu.ChipVersion(version), 1)
    chip = chips.find(kind)
    # It rounds, and has v3's arithmetic and bandwidth otherwise.
    assert chip.bfloat16 == pytest.approx(info.bf16_ops_per_second, rel=0.15)
    assert chip.bandwidth == pytest.approx(
      info.mem_bw_bytes_per_second, rel=0.15
    )
    assert chip.memory <= info.hbm_capacity_bytes
