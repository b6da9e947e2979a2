"""Another batch size's numbers by the papers' rules."""

import pytest

from nfnets.analysis import rules


def values(name, batch_size, num_epochs=360):
  found = rules.for_batch_size(name, batch_size, 1281167, num_epochs)
  assert all(rule.rule for rule in found)
  return {rule.quantity: rule.value for rule in found}


def test_the_published_batch_gives_the_published_recipe():
  got = values('nfnet_f0', 4096)
  # PAPER_FACTS 2.1.
  assert got['learning rate'] == '1.6'
  assert got['warm-up steps'] == '1,564 of 112,602'
  assert got['lambda (AGC)'] == '0.01'
  assert got['EMA decay'] == '0.999920 at the end'


def test_the_learning_rate_follows_the_batch_but_not_for_regnets():
  assert values('nfnet_f0', 1024)['learning rate'] == '0.4'
  assert values('nf_resnet_50', 256, 90)['learning rate'] == '0.1'
  for batch_size in (256, 1024):
    assert values('nf_regnet_b0', batch_size)['learning rate'] == '0.4'


def test_small_batches_bear_a_larger_lambda_and_large_ones_a_smaller():
  assert values('nfnet_f0', 256)['lambda (AGC)'] == '0.01 to 0.08'
  assert values('nfnet_f0', 8192)['lambda (AGC)'] == 'below 0.01'
  assert values('nf_regnet_b0', 1024)['lambda (AGC)'] == 'none'


@pytest.mark.parametrize('batch_size', [0, 1281168])
def test_an_impossible_batch_is_one_clear_line(batch_size):
  with pytest.raises(ValueError, match=f'batch_size={batch_size}: choose'):
    rules.for_batch_size('nfnet_f0', batch_size, 1281167, 360)
