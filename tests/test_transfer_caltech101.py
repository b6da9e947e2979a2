"""The transfer's verdict and report, on invented records."""

import pytest

from experiments import transfer_caltech101 as transfer

TOP_1 = {
  'scratch': (0.10, 0.11, 0.12),
  'probe': (0.20, 0.20, 0.20),
  'finetune': (0.30, 0.31, 0.29),
  'finetune_stage_3': (0.27, 0.28, 0.27),
}


def invented(num_steps=1020, **others):
  return [
    {
      'row': row,
      'seed': seed,
      'scale': 'cpu',
      'status': 'finished',
      'config': {'num_steps': 0 if row == 'probe' else num_steps},
      'summary': {'eval/top_1': top_1},
      'curve': [
        {'step': step, 'train/loss': 1.0, 'eval/top_1': top_1 * step / 100}
        for step in (50, 100)
      ],
    }
    for row, values in (TOP_1 | others).items()
    for seed, top_1 in enumerate(values)
  ]


def test_the_claim_needs_every_row():
  records = [r for r in invented() if r['row'] != 'probe']
  word, why = transfer.verdict(records)
  assert word == 'not run' and 'probe: no record yet' in why


@pytest.mark.parametrize(
  'others, word',
  [
    ({}, 'borne out'),
    ({'finetune': (0.19, 0.20, 0.21)}, 'undecided'),
    ({'finetune': (0.16, 0.16, 0.17)}, 'mixed'),
    ({'scratch': (0.4, 0.41, 0.4), 'finetune': (0.1, 0.1, 0.11)},
     'not borne out'),
  ],
)  # fmt: skip
def test_the_verdict_follows_the_three_starts(others, word):
  found, why = transfer.verdict(invented(**others))
  assert found == word
  assert 'probe (20.00' in why


def test_few_updates_of_training_are_too_short_but_the_probe_has_none():
  assert transfer.verdict(invented(num_steps=100))[0] == 'too short to tell'


def test_the_report_names_every_row_and_draws_one_picture(tmp_path):
  text = transfer.report(invented(), tmp_path)
  assert all(f'`{row}`' in text for row in transfer.RUNS)
  assert '30.00 ± 1.00' in text and (tmp_path / 'transfer_cpu.png').exists()


def test_all_rows_train_alike_but_for_start_and_freezing():
  recipes = [transfer.get_config(row).to_dict() for row in transfer.RUNS]
  for recipe in recipes:
    recipe.pop('weights')
    recipe['optimizer'].pop('frozen')
  assert all(recipe == recipes[0] for recipe in recipes)
