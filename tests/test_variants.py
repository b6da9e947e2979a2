"""The tables: every row complete, and a lookup that helps."""

import subprocess
import sys

import pytest

from nfnets import variants


@pytest.mark.parametrize('name', variants.ALL)
def test_a_row_has_all_that_models_and_configs_read(name):
  row = variants.ALL[name]
  assert len(row['depths']) == len(row['widths'])
  assert 0 < row['train_image_size'] <= row['eval_image_size']
  assert 0 <= row['drop_rate'] < 1 and 0 <= row['stochdepth_rate'] < 1


def test_depths_of_nfnets_are_multiples_of_f0():
  for index in range(8):
    depths = variants.NFNET[f'nfnet_f{index}']['depths']
    assert depths == tuple((index + 1) * depth for depth in (1, 2, 6, 3))
    assert variants.NFNET[f'nfnet_f{index}_plus']['depths'] == depths


def test_the_tables_import_no_jax():
  code = 'import sys, nfnets.variants; sys.exit("jax" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


@pytest.mark.parametrize(
  'asked, hint',
  [
    ('nfnet_fo', 'did you mean nfnet_f0 or'),
    ('resnet20', 'did you mean cifar_resnet_20'),
    ('F0', 'did you mean nfnet_f0'),
    ('NF-F1', 'did you mean nfnet_f1'),
    ('zzz', r'nfnets.list_models\(\) names all'),
  ],
)
def test_an_unknown_name_gets_one_line_with_the_nearest(asked, hint):
  with pytest.raises(ValueError, match=hint) as error:
    variants.find(asked)
  assert '\n' not in str(error.value)
