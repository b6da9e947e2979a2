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


@pytest.mark.slow
@pytest.mark.skipif(not plan.has_compiler(), reason='libtpu is not installed')
@pytest.mark.parametrize(
  'name', ['v2:2x2', 'v3:8x8', 'v4:4x4x4', 'v5e:16x16', 'v5p:4x4x4', 'v6e:4x4']
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
  ],
)
def test_an_unknown_topology_is_refused_in_one_line(name, says):
  with pytest.raises(ValueError, match=says) as error:
    pods.find(name)
  assert '\n' not in str(error.value) and name in str(error.value)
