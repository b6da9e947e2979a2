"""The functions of timm's networks and ours agree, stage by stage."""

import numpy as np
import pytest

from nfnets.weights import certificate, timm


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'size'),
  [
    ('dm_nfnet_f0', 64),
    ('dm_nfnet_f0', 75),  # Odd sizes: padding and pooling at the borders.
    ('nfnet_f0', 64),
    ('nf_resnet50', 64),
    ('nf_resnet50', 75),
    ('nf_regnet_b1', 64),
    ('nf_regnet_b1', 75),
  ],
)
def test_every_stage_agrees_with_timm(name, size):
  if certificate.python_with_timm() is None:
    pytest.skip('timm is not importable; NFNETS_TIMM_PYTHON names a Python')
  weights = certificate.random_weights(name, num_classes=10)
  shape = (1, size, size, 3)
  image = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
  rows = certificate.compare(weights, name, image)
  assert [row.name for row in rows] == [
    'stage 1',
    'stage 2',
    'stage 3',
    'stage 4',
    'logits',
  ]
  for row in rows:
    assert row.norm > 0.1
    assert row.error < 1e-5, row


@pytest.mark.slow
def test_random_weights_hide_nothing():
  """No leaf is constant, so a gain left out or doubled changes the outputs."""
  params = certificate.random_weights('dm_nfnet_f0', num_classes=3).params
  peer = timm.PEERS['dm_nfnet_f0']
  assert peer.model == 'nfnet_f0'
  for leaves in params.values():
    for name, leaf in leaves.items():
      assert leaf.dtype == np.float32
      assert leaf.ndim == 0 or leaf.std() > 0.02, name


def test_without_timm_the_remedy_is_named(monkeypatch):
  monkeypatch.setenv('NFNETS_TIMM_PYTHON', '/nonexistent/python')
  assert certificate.python_with_timm() is None
  with pytest.raises(RuntimeError, match='NFNETS_TIMM_PYTHON'):
    certificate.compare(None, 'dm_nfnet_f0', np.zeros((1, 8, 8, 3)))


def test_the_table_has_a_line_per_row():
  rows = [certificate.Row('stage 1', (1, 4, 4, 8), 3.5, 1.5e-6)]
  lines = certificate.table(rows).splitlines()
  assert len(lines) == 2
  assert '1.50e-06' in lines[1]
  assert '(1, 4, 4, 8)' in lines[1]
