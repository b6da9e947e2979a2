"""Reports: what they show of records, and that records alone make them."""

import pathlib
import re
import shutil

import pytest
from invented import record, records, small

from experiments import _figures, _sentences, report, study
from experiments import records as recording
from experiments.study import Above, Scale

ROOT = pathlib.Path(__file__).parents[1]
MADE = small(
  scales={
    'full': Scale('all of it'),
    'tiny': Scale('little', smoke=True, rows=('a', 'b')),
  },
  spread=(1.6, 22),
  checks={'a is better': Above('a', 'b')},
  published={'a': (76.8, 'P', 'x'), 'Other': (70, 'M')},
)


def test_a_check_holds_or_does_not_at_the_fullest_scale_that_has_its_rows():
  say = lambda *found: report.checks(MADE, MADE.gather(found))
  assert say() == '- **not run**: a is better'
  assert say(record('a', 0.9)) == '- **not run**: a is better'
  told = say(record('a', 0.9), record('b', 0.5))
  assert told.startswith('- **holds**: a is better (a - b = +40.0 ± 4.7')
  assert "doesn't hold" in say(record('a', 0.5), record('b', 0.9))
  assert 'undecided' in say(record('a', 0.5), record('b', 0.51))
  smoke = [record(row, 0.9, scale='tiny') for row in 'ab']
  assert say(*smoke) == '- **not run**: a is better'


def test_the_table_has_rows_with_a_record_or_a_published_number():
  found = MADE.gather([record('b', 0.5), record('b', 0.52, seed=1)])
  lines = report.table(MADE, found).splitlines()
  assert [line.split('|')[1].strip() for line in lines[2:5]] == [
    '`a`', '`b`', 'Other',
  ]  # fmt: skip
  assert '76.8 [P]' in lines[2] and '51.00 ± 1.41' in lines[3]
  assert 'Published: [M] from memory' in lines[-1]
  gone = record('a', 0.1, seed=1, status='diverged')
  text = report.table(MADE, MADE.gather([record('a', 0.5), gone]))
  assert re.search(r'\| +50\.00 \| +2, diverged after 1,000 \|', text)


def test_the_table_names_the_images_that_judged_the_rows():
  for split, images in (('test', 'test'), ('train[:9]', 'held-out')):
    data = {'num_classes': 10, 'eval_split': split}
    found = MADE.gather([record('b', 0.5, data=data)])
    assert f'| {images} top-1, % |' in re.sub(
      ' +', ' ', report.table(MADE, found)
    )


@pytest.mark.parametrize('name', study.names())
def test_any_experiment_reports_what_its_rows_may_end_as(name, tmp_path):
  made = study.load(name)
  if made.measure:
    pytest.skip('nothing is trained')
  scale = list(made.scales)[-1]
  rows = made.rows_at(scale)
  failing = rows[-1] if len(rows) > 1 else ''
  for one in records(made, scale, lambda row, seed: 0.4 + len(row) / 100):
    if one['row'] == failing:
      one |= {'status': 'diverged', 'curve': []}  # before an evaluation
    recording.write(tmp_path, one | {'experiment': name})
  text = report.write(name, tmp_path).read_text()
  assert all(f'`{row}`' in text for row in rows)
  assert text.count('diverged after') == bool(failing)
  assert (tmp_path / name / 'plot.png').exists() == ('(plot.png)' in text)


def test_the_commands_repeat_rows_with_the_flags_of_their_records():
  found = []
  for row, factor in (('a', ''), ('b', ' --config.rate=2'), ('c', '')):
    command = f'python -m scripts.train --config=f --config.seed=0{factor}'
    found.append(record(row, 0.5) | {'command': command})
  text = report.commands('x', MADE, MADE.gather(found))
  data = '-- --config.data.data_dir=DATA'
  start = 'python -m scripts.experiment run --experiment=x'
  assert f'{start} --only=a,c {data}\n' in text
  assert f'{start} --only=b {data} --config.rate=2\n' in text
  assert f'{start} {data}\n' in report.commands('x', MADE, {})


def test_the_plot_is_of_the_scale_with_most_of_its_rows(tmp_path):
  def at(*scales):
    for row, scale in (('all', 'x16'), *scales):
      one = record(row, 0.5, scale=scale) | {'experiment': 'where_to_clip'}
      recording.write(tmp_path, one)
    made = study.load('where_to_clip')
    found = made.gather(recording.read_all(tmp_path, 'where_to_clip'))
    return _figures.draw(made, found).get_suptitle()

  assert ', 16 x the rate' in at()
  assert ', 8 x the rate' in at(('all', 'x8'))
  assert ', 16 x the rate' in at(('nothing', 'x16'))


def test_a_smoke_test_is_plotted_only_if_there_is_nothing_else():
  made = study.load('table_ablation')
  found = made.gather(records(made, 'cifar'))
  assert 'smoke test' in _figures.draw(made, found).get_suptitle()
  found = made.gather(records(made, 'cifar') + records(made, 'full')[:1])
  assert 'smoke test' not in _figures.draw(made, found).get_suptitle()


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
  """The committed records and notes, without what is made from them."""
  root = tmp_path_factory.mktemp('results')
  ignored = shutil.ignore_patterns('README.md', '*.png')
  shutil.copytree(ROOT / 'results', root, ignore=ignored, dirs_exist_ok=True)
  for name in study.names():
    report.write(name, root)
  report.write_overview(root)
  return root


def test_a_clone_makes_the_committed_reports_from_the_records(copy):
  committed = sorted((ROOT / 'results').glob('*/README.md'))
  outdated = [
    path.parent.name
    for path in committed
    if path.read_text() != (copy / path.parent.name / 'README.md').read_text()
  ]
  assert committed and not outdated, 'scripts.experiment report makes them'
  overview = (copy / 'README.md').read_text()
  assert all(f'({name}/README.md)' in overview for name in study.names())


def test_each_claim_that_was_tested_shows_its_numbers(copy):
  tested = 0
  for checks in _sentences.SENTENCES.values():
    for name, claim in checks:
      made = study.load(name)
      found = made.gather(recording.read_all(copy, name))
      check = (made.checks | made.explored)[claim]
      word, _, numbers = report.answer(check, made, found)
      if word != report.NOT_RUN:
        assert re.search(r'\d', numbers) and '|' not in numbers, claim
        tested += 1
  assert tested > 10


def test_the_page_holds_all_reports_and_their_pictures(copy):
  report.write_html(copy, copy / 'page.html')
  text = (copy / 'page.html').read_text()
  pictures = re.findall(r'src="([^"]*)"', text)
  assert len(set(pictures)) == len(list(copy.glob('*/plot.png'))) > 5
  assert all(p.startswith('data:image/png;base64,') for p in pictures)
  links = re.findall(r'href="#([\w-]+)"', text)
  assert set(links) == set(study.names())
  assert all(f'<section id="{name}">' in text for name in links)
  assert text.count('<table>') > 10 and '<details>' in text
  assert '](' not in re.sub(r'base64,[^"]*', '', text)


def test_in_a_folder_of_ones_own_the_recorded_experiments_come_first(tmp_path):
  name = study.names()[-1]
  made = study.load(name)
  for one in records(made, list(made.scales)[-1]):
    recording.write(tmp_path, one | {'experiment': name})
  for other in (study.names()[0], name):
    report.write(other, tmp_path)
  text = report.write_overview(tmp_path).read_text()
  assert text.index(f'({name}/README.md)') < text.index('<details>')
  report.write_html(tmp_path, tmp_path / 'page.html')
  sections = re.findall(
    '<section id="(.*?)"', (tmp_path / 'page.html').read_text()
  )
  assert sections == [name, study.names()[0]]
