"""What the papers' experiments share, and how each of them judges."""

import math

import pytest

from configs import nfnet_f0
from experiments import (
  _papers,
  _study,
  _trust,
  figure_batch_size,
  figure_clipping,
  sam_imagenet,
  section_where_to_clip,
  table_ablation,
  table_depth,
  table_imagenet,
  table_small_batch,
)
from nfnets.analysis import counts

PUBLISHED = (table_ablation, table_imagenet, table_small_batch)


def row(*values, diverged=0):
  return _study.Row(values, diverged, 100_000)


def test_a_scale_shrinks_the_network_the_data_and_the_batch():
  scales = _papers.scales(['a'], width=8, depth=2, clipping=16)
  whole, small = (
    _papers.configure(
      nfnet_f0.get_config(), {'a': {}}, scales, run
    ).copy_and_resolve_references()
    for run in ('a', 'a@cifar')
  )
  assert whole.data.name == 'imagenet2012' and small.data.name == 'cifar10'
  assert (whole.batch_size, small.batch_size) == (4096, 64)
  assert (whole.learning_rate, small.learning_rate) == (1.6, 0.2)
  assert small.model.widths == (32, 64, 192, 192)
  assert small.model.depths == (1, 1, 3, 2)
  assert small.num_steps == 1015 >= _study.ENOUGH_UPDATES
  assert small.schedule.warmup_steps == 50
  assert (whole.optimizer.clipping, small.optimizer.clipping) == (0.01, 0.16)
  assert 'lambda x 16' in scales['cifar']['note']


def test_an_unknown_row_or_scale_is_named():
  scales = _papers.scales(['a'])
  check = lambda run: _papers.check({'a': {}, 'b': {}}, scales, run)
  assert check('b') == ('b', 'full')
  with pytest.raises(ValueError, match="no row 'c': choose one of a, b"):
    check('c')
  with pytest.raises(ValueError, match="no scale 'x': choose one of full"):
    check('a@x')
  with pytest.raises(ValueError, match="scale 'cifar' has no row 'b'"):
    check('b@cifar')


def test_chip_hours_of_the_paper_s_own_step_agree_both_ways():
  by_time = _papers.hours_of_steps(73.3, 112_602)
  images = 112_602 * 4096
  gmacs = counts.multiply_adds('nfnet_f0', 192) / 1e9
  by_macs = _papers.hours_of_macs(gmacs, images)
  assert by_time == pytest.approx(147, abs=1)  # 2.3 hours of 64 chips
  assert by_macs == pytest.approx(by_time, rel=0.02)  # 30 %: from this row
  assert _papers.hours_of_macs(1, 1, 2) == 2 * _papers.hours_of_macs(1, 1)


@pytest.mark.parametrize(
  ('module', 'depth'),
  [(figure_batch_size, '50'), (table_depth, '101'), (sam_imagenet, '152')],
)
def test_the_multiply_adds_behind_a_cost_are_the_networks_own(module, depth):
  counted = counts.multiply_adds(f'nf_resnet_{depth}') / 1e9
  assert module.GMACS[depth] == pytest.approx(counted, abs=0.006)


def test_a_published_number_is_shown_as_printed_with_its_tag():
  assert _trust.shown((86.0, 'P', 'Table 3')) == '86.0 [P]'
  assert _trust.shown(('below 70', 'D', 'x')) == 'below 70 [D]'
  assert _trust.shown(None) == '–'


def test_no_two_tags_mean_the_same_and_each_is_explained_once():
  assert len(set(_trust.TRUST.values())) == len(_trust.TRUST)
  said = _trust.tags(sam_imagenet.PAPER, sam_imagenet.RUNS)
  assert said == (
    "Published: [P] paper's text or table; [R] another paper's text or table."
  )
  assert _trust.legend(()) == ''


@pytest.mark.parametrize('module', PUBLISHED)
def test_the_published_numbers_themselves_bear_the_claim_out(module):
  rows = {
    name: row(entry[0])
    for name, entry in module.PAPER.items()
    if entry[1] != 'M'
  }
  assert module._full(rows)[0] == 'borne out'


def test_digitised_figures_bear_their_claim_out_and_a_flat_one_does_not():
  published = {
    name: row(60.0 if entry[0] == 'below 70' else entry[0])
    for name, entry in figure_batch_size.PAPER.items()
  }
  judge = figure_batch_size._full
  assert judge(published)[0] == 'borne out'
  assert judge({name: row(75.0) for name in published})[0] == 'mixed'
  published['nf_50_bs4096'] = row(diverged=5)
  assert judge(published)[0] == 'borne out'
  published['nf_agc_50_bs4096'] = row(76.0, diverged=1)
  assert judge(published)[0] == 'mixed'
  del published['bn_50_bs4096']
  assert judge(published)[0] == 'not run'


def test_the_best_lambda_must_fall_as_the_batch_grows():
  best = lambda batch, clipping: {
    f'bs{batch}_clip{c}': row(76.0 if c == clipping else 75.0)
    for c in figure_clipping.CLIPPINGS
  }
  judge = figure_clipping._full
  assert judge(best(256, 0.08) | best(4096, 0.01))[0] == 'borne out'
  assert judge(best(256, 0.01) | best(4096, 0.01))[0] == 'not borne out'
  assert judge(best(256, 0.08))[0] == 'not run'
  rows = best(4096, 0.16) | {'bs4096_clip0.16': row(diverged=1)}
  assert not math.isclose(figure_clipping._best(rows, 4096)[0], 0.16)


def test_the_best_lambda_comes_with_its_margin_over_the_next():
  rows = {
    'bs1024_clip0.16': row(49.94),
    'bs1024_clip0.08': row(49.0, 49.5),
    'bs1024_clip0.04': row(48.2),
  }
  told = '49.94 %, 0.69 points above 0.08, one run against 2'
  assert figure_clipping._best(rows, 1024) == (0.16, told)
  assert told in figure_clipping._scaled(rows)
  rows['bs1024_clip0.16'] = row(49.93, 49.95)
  told = '49.94 %, 0.69 points above 0.08, 2 runs each'
  assert figure_clipping._best(rows, 1024) == (0.16, told)
  alone = {'bs1024_clip0.16': row(49.94)}
  assert figure_clipping._best(alone, 1024) == (0.16, '49.94 %, one run')


def test_other_networks_of_table_3_have_no_number_where_the_paper_has_none(
  tmp_path,
):
  text = table_imagenet.report([], tmp_path)
  assert '| LambdaNet-420 | 84.8 | – | 593.9 |' in text
  assert '| DeiT, 1,000 epochs | 85.2 | – | – |' in text


def test_where_to_clip_wants_every_stage_and_not_the_head():
  place = lambda name: f'bs4096_{name}'
  rows = {place(name): row(70.0) for name in section_where_to_clip.PLACES}
  rows |= {
    place('all'): row(75.0),
    place('all_but_head'): row(76.7),
    place('all_but_head_and_stem'): row(76.5),
  }
  judge = section_where_to_clip._full
  assert judge(rows)[0] == 'borne out'
  rows[place('all_but_head_and_stage_3')] = row(76.8)
  assert judge(rows)[0] == 'mixed'
  rows[place('all_but_head')] = row(diverged=1)
  assert judge(rows)[0] == 'not borne out'


def test_depth_is_judged_by_the_depths_that_are_whole():
  rows = {
    name: row(entry[0])
    for name, entry in table_depth.PAPER.items()
    if name.endswith('_reg')
  }
  assert table_depth._full(rows)[0] == 'borne out'
  rows['nf_101_reg'] = row(70.0)
  assert table_depth._full(rows)[0] == 'mixed'
  assert table_depth._full({'nf_50_reg': row(76.8)})[0] == 'not run'


def test_sam_is_judged_by_complete_pairs():
  rows = {name: row(e[0]) for name, e in sam_imagenet.PAPER.items()}
  assert sam_imagenet._full(rows)[0] == 'borne out'
  rows['f5_sam'] = row(diverged=1)
  assert sam_imagenet._full(rows)[0] == 'mixed'
  assert sam_imagenet._full({'f5': row(86.0)})[0] == 'not run'


def test_a_scaled_down_cell_is_a_number_not_run_or_not_of_that_scale():
  scales = _papers.scales(['a', 'b'])
  run = {
    'row': 'a', 'scale': 'cifar', 'status': 'finished',
    'config': {'num_steps': 1015}, 'summary': {'eval/top_1': 0.5},
  }  # fmt: skip
  text = _papers.comparison('abc', {}, [run], scales, lambda row: 1.0)
  cells = [line.split(' | ')[3] for line in text.splitlines()[2:5]]
  assert cells == ['50.00', 'not run', '–']


def test_a_table_says_how_many_runs_each_number_is_of():
  scales = _papers.scales(['a', 'b'])
  run = lambda row, seed, status, scale: {
    'row': row, 'seed': seed, 'scale': scale, 'status': status,
    'config': {'num_steps': 1015}, 'summary': {'eval/top_1': 0.5},
  }  # fmt: skip
  small = [
    run('a', 0, 'finished', 'cifar'),
    run('a', 1, 'diverged', 'cifar'),
    run('b', 0, 'finished', 'cifar'),
  ]
  rows = lambda records: [
    line.strip('| ').split(' | ')
    for line in _papers.comparison(
      'ab', {}, records, scales, lambda row: 1.0
    ).splitlines()
  ]
  header, _, a, b, *_ = rows(small)
  assert header[4] == 'runs' and (a[4], b[4]) == ('2', '1')
  header, _, a, b, *_ = rows([*small, run('b', 0, 'finished', 'full')])
  assert header[3] == header[5] == 'runs'
  assert (a[3], b[3]) == ('', '1') and (a[5], b[5]) == ('2', '1')


def test_scaled_down_rows_speak_after_the_verdict_not_run():
  one = {
    'row': 'bs4096_all', 'scale': 'cifar', 'status': 'finished',
    'summary': {'eval/top_1': 0.4}, 'config': {'num_steps': 1015},
  }  # fmt: skip
  word, why = section_where_to_clip.verdict([one])
  assert word == 'not run' and 'Scaled down, ' in why and 'all 40.00' in why
  word, why = section_where_to_clip.verdict([one | {'scale': 'full'}])
  assert word == 'not run' and 'not all there' in why
