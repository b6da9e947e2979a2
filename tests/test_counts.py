"""Counts equal the papers' printed digits and a whole evaluation's."""

import golden_lib
import pytest

from experiments._published import SIZES
from nfnets import variants
from nfnets.analysis import counts

QUICK = ('nfnet_f0', 'nfnet_f6', 'nf_regnet_b0', 'nf_resnet_600', 'resnet_50')


@pytest.mark.parametrize(
  'name',
  [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in SIZES
  ],
)
def test_counts_are_the_published_ones(name):
  parts = counts.parts(name)
  params = sum(part.params for part in parts) / 1e6
  macs = sum(part.published_macs for part in parts) / 1e9
  for got, printed in zip((params, macs), SIZES[name]):
    decimals = len(printed.partition('.')[2])
    assert f'{got:.{decimals}f}' == printed


def test_training_sizes_count_too():
  # PAPER_FACTS 1.3
  size = variants.NFNET['nfnet_f1']['train_image_size']
  parts = counts.parts('nfnet_f1', size)
  assert round(sum(part.macs for part in parts) / 1e9, 2) == 17.44


def test_the_ablation_of_f0_has_the_published_cost():
  parts = counts.parts('nfnet_f0', widths='default', use_two_convs=False)
  assert round(sum(part.macs for part in parts) / 1e9, 2) == 7.68


def test_f4_plus_as_the_paper_counts_it():
  parts = counts.parts('nfnet_f4_plus', exact_width=True)
  assert round(sum(part.params for part in parts) / 1e6, 2) == 527.03
  assert round(sum(part.macs for part in parts) / 1e9, 2) == 367.41


@pytest.mark.parametrize(
  'name, overrides',
  [
    ('nfnet_f0', {}),
    ('fixup_resnet_50', {}),
    ('cifar_resnet_20', {'normalizer': 'nf'}),
    pytest.param(
      'nf_regnet_b1', {'normalizer': 'batch'}, marks=pytest.mark.slow
    ),
  ],
)
def test_parameters_are_those_of_the_initialized_network(name, overrides):
  whole = golden_lib.count(name, 10, **overrides)
  parts = counts.parts(name, num_classes=10, **overrides)
  assert sum(part.params for part in parts) == whole


def test_one_convolution_is_counted_by_hand():
  stem = counts.parts('nf_resnet_50', 224)[0]
  assert stem.macs == 112 * 112 * 64 * 7 * 7 * 3
  assert stem.params == 64 * (7 * 7 * 3 + 2)


def test_a_stages_blocks_are_counted_one_by_one():
  blocks = [part.blocks for part in counts.parts('nfnet_f0')]
  assert blocks == [0, 1, 2, 6, 3, 0]
