"""timm's networks here compute the same as in timm, stage by stage."""

import numpy as np
import pytest

from nfnets import variants
from nfnets.weights import certificate

ODD = 75  # where paddings and poolings differ at the borders


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, size',
  [(name, 64) for name in variants.TIMM]
  + [(name, ODD) for name in ('dm_nfnet_f0', 'nf_resnet50', 'nf_regnet_b1')],
)
@pytest.mark.usefixtures('python_with_timm')
def test_every_stage_agrees_with_timm(name, size):
  weights = certificate.random_weights(name, num_classes=10)
  for leaves in weights.params.values():  # nothing is hidden by a constant
    assert all(leaf.ndim == 0 or leaf.std() > 0.02 for leaf in leaves.values())
  shape = (1, size, size, 3)
  image = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
  rows = certificate.compare(weights, name, image)
  maps = [f'stride {stride}' for stride in (2, 4, 8, 16, 32)]
  assert [row.name for row in rows] == [*maps, 'logits']
  for row in rows:
    assert row.norm > 0.1
    assert row.error < 1e-5, row


def test_without_timm_the_remedy_is_named(monkeypatch, run_script):
  monkeypatch.setenv('NFNETS_TIMM_PYTHON', '/nonexistent/python')
  flags = '--certify', '--timm=nf_regnet_b0', '--image_size=32'
  code, _, err = run_script('scripts.convert', *flags)
  assert code == 2 and 'NFNETS_TIMM_PYTHON' in err
