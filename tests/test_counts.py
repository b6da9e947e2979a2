"""Counts equal the papers' printed digits and a whole evaluation's."""

import golden_lib
import pytest

from nfnets import variants
from nfnets.analysis import counts, tables

QUICK = ('nfnet_f0', 'nfnet_f6', 'nf_regnet_b0', 'nf_resnet_600', 'resnet_50')


def agree(name, figure):
  parts = counts.parts(name)
  params = sum(part.params for part in parts) / 1e6
  macs = sum(part.published_macs for part in parts) / 1e9
  for got, want in zip((params, macs), figure):
    decimals = len(str(want).partition('.')[2])
    assert round(got, decimals) == want, name


@pytest.mark.parametrize('name', QUICK)
def test_counts_are_the_published_ones(name):
  agree(name, (tables.PUBLISHED | tables.RELEASED)[name])


@pytest.mark.slow
@pytest.mark.parametrize('name', tables.PUBLISHED | tables.RELEASED)
def test_all_counts_are_the_published_ones(name):
  agree(name, (tables.PUBLISHED | tables.RELEASED)[name])


# PAPER_FACTS 1.3: at the training size.
@pytest.mark.parametrize('name, billions', [('nfnet_f1', 17.44)])
def test_training_sizes_count_too(name, billions):
  size = variants.NFNET[name]['train_image_size']
  assert round(counts.multiply_adds(name, size) / 1e9, 2) == billions


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
def test_two_blocks_stand_for_a_whole_stage(name, overrides):
  whole = golden_lib.count(name, 10, **overrides)
  assert counts.parameters(name, 10, **overrides) == whole


def test_one_convolution_is_counted_by_hand():
  stem = counts.parts('nf_resnet_50', 224)[0]
  assert stem.macs == 112 * 112 * 64 * 7 * 7 * 3
  assert stem.params == 64 * (7 * 7 * 3 + 2)


def test_a_mistake_is_one_clear_line():
  with pytest.raises(ValueError, match='did you mean use_se'):
    counts.parts('nfnet_f0', use_s=False)
