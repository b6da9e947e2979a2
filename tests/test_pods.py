"""Names of TPU slices: devices, chips, hosts; refusals in one line."""

import pytest

from nfnets import plan, pods


@pytest.mark.parametrize(
  ('name', 'chips', 'devices', 'hosts', 'kind'),
  [
    ('v3:8x8', 64, 128, 16, 'TPU v3'),  # the paper's 128 cores
    ('v3:2x2', 4, 8, 1, 'TPU v3'),
    ('v4:4x4x4', 64, 64, 16, 'TPU v4'),
    ('v5e:16x16', 256, 256, 64, 'TPU v5 lite'),
    ('v5p:4x4x4', 64, 64, 16, 'TPU v5'),
    ('v6e:16x16', 256, 256, 64, 'TPU v6 lite'),
  ],
)
def test_a_name_resolves_with_its_hosts(name, chips, devices, hosts, kind):
  pod = pods.find(name)
  assert (pod.num_chips, pod.num_devices, pod.num_hosts) == (
    chips, devices, hosts,
  )  # fmt: skip
  assert pod.device_kind == kind
  assert pod.chip.memory > 0


# Google Cloud's documentation: v3's 2,048 cores, v5p's largest job.
@pytest.mark.parametrize(
  ('name', 'chips'),
  [
    ('v2:16x16', 256),
    ('v3:32x32', 1024),
    ('v4:16x16x16', 4096),
    ('v4:12x12x24', 3456),
    ('v5p:16x16x24', 6144),
  ],
)
def test_the_largest_slices_resolve(name, chips):
  assert pods.find(name).num_chips == chips


@pytest.mark.parametrize(
  ('name', 'unit', 'cores'),
  [
    ('v2:2x2', 'core', 1),
    ('v3:8x8', 'core', 1),
    ('v4:4x4x4', 'chip', 2),
    ('v5e:4x4', 'chip', 1),
    ('v5p:4x4x4', 'chip', 2),
    ('v6e:4x4', 'chip', 1),
  ],
)
def test_a_device_is_a_core_or_a_chip(name, unit, cores):
  pod = pods.find(name)
  assert (pod.unit, pod.cores) == (unit, cores)


@pytest.mark.slow
@pytest.mark.skipif(not plan.has_compiler(), reason='libtpu is not installed')
@pytest.mark.parametrize(
  'name',
  [
    'v2:16x16',
    'v3:8x8',
    'v3:32x32',
    'v4:16x16x16',
    'v5e:16x16',
    'v5p:16x16x24',
    'v6e:16x16',
  ],
)
def test_devices_and_hosts_are_those_of_the_compiler(name):
  pod = pods.find(name)
  found = plan.devices(pod)  # which compares the numbers
  assert {d.device_kind for d in found} == {pod.device_kind}


@pytest.mark.parametrize(
  ('name', 'says'),
  [
    ('v9:2x2', 'no TPU v9'),
    ('v5:4x4', 'did you mean v5'),
    ('8x8', 'name a generation'),
    ('v3', 'name a generation'),
    ('v3:8x8x8', 'has 2 axes'),
    ('v4:8x8', 'has 3 axes'),
    ('v3:8x7', 'does not hold whole'),
    ('v3:0x2', 'does not hold whole'),
    ('v2:16x32', 'largest slice of its kind is v2:16x16, 256 chips'),
    ('v3:200x200', 'is v3:32x32, 1,024 chips'),
    ('v3:2x64', 'is v3:32x32, 1,024 chips'),
    ('v4:16x16x20', 'is v4:16x16x16, 4,096 chips'),
    ('v5e:32x32', 'is v5e:16x16, 256 chips'),
    ('v5p:16x24x24', 'is v5p:16x16x24, 6,144 chips'),
    ('v6e:16x18', 'is v6e:16x16, 256 chips'),
    ('v4:2x2x8', 'every side is a multiple of 4'),
  ],
)
def test_an_unknown_topology_is_refused_in_one_line(name, says):
  with pytest.raises(ValueError, match=says) as error:
    pods.find(name)
  assert '\n' not in str(error.value) and name in str(error.value)
