"""NF-RegNets equal the published function, counts and twin."""

import golden_lib
import pytest

# PAPER_FACTS 1.4, millions.
PUBLISHED = {'b0': 8.60, 'b1': 10.02, 'b2': 13.79}
DEEP = {
  'b3': 18.14,
  'b4': 29.32,
  'b5': 48.71,
  'b6': 70.05,
  'b7': 101.74,
  'b8': 142.31,
}


def test_b0_equals_the_golden_numbers():
  want = golden_lib.load('nf_regnet_b0')
  assert golden_lib.difference('nf_regnet_b0', want) < 1e-4


@pytest.mark.parametrize('variant, millions', PUBLISHED.items())
def test_parameters_are_the_published_count(variant, millions):
  count = golden_lib.count(f'nf_regnet_{variant}')
  assert round(count / 1e6, 2) == millions


@pytest.mark.slow
@pytest.mark.parametrize('variant, millions', DEEP.items())
def test_parameters_of_deep_variants_are_the_published_count(variant, millions):
  count = golden_lib.count(f'nf_regnet_{variant}')
  assert round(count / 1e6, 2) == millions


def test_the_first_block_alone_does_not_expand():
  shapes, _ = golden_lib.shapes('nf_regnet_b0')
  first = shapes['NF_RegNet/~/nf_block/~/conv1']['w']
  second = shapes['NF_RegNet/~/nf_block_1/~/conv1']['w']
  assert first.shape == (3, 3, 8, 32) and second.shape == (3, 3, 8, 80)


def test_the_batch_normalized_twin_has_bn_before_every_activation():
  shapes, state = golden_lib.shapes('nf_regnet_b0', normalizer='batch')
  assert not any('skip_gain' in leaves for leaves in shapes.values())
  norms = [path for path in shapes if '/bn' in path or 'final_bn' in path]
  assert len(norms) == 3 * 16 + 1 and state
