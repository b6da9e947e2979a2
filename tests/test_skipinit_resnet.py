"""SkipInit ResNets equal the published function."""

import golden_lib
import jax
import numpy as np
import pytest


def test_resnet_50_equals_the_golden_numbers():
  want = golden_lib.load('skipinit_resnet50')
  assert golden_lib.difference('skipinit_resnet_50', want) < 1e-4


@pytest.mark.slow
def test_branches_and_head_start_at_zero():
  net = golden_lib.tiny('skipinit_resnet_50')
  images = golden_lib.images((1, 32, 32, 3))
  params, _ = net.init(jax.random.key(0), images, True)
  gains = [p['skip_gain'] for p in params.values() if 'skip_gain' in p]
  assert len(gains) == 4 and not any(gains)
  assert not np.any(params['SkipInit_ResNet/~/linear']['w'])
