"""scripts.report: every number from a record, the same bytes from a clone."""

import importlib.metadata
import json
import pathlib
import re
import shutil
import subprocess

import pytest
from absl import flags

from experiments import _papers, _study, figure_batch_size
from scripts import report

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ('cifar10_first_runs', 'sam_imagenet', 'signal_propagation')
PLOTTERS = ('matplotlib', 'pillow', 'numpy')


@pytest.fixture
def root(tmp_path, monkeypatch):
  """A copy of the committed records, and a flag that points at it."""
  monkeypatch.chdir(ROOT)
  flags.FLAGS.mark_as_parsed()
  for runs in (ROOT / 'results').glob('*/runs'):
    shutil.copytree(runs, tmp_path / runs.parent.name / 'runs')
  return tmp_path


def record(row, top_1, status='finished', scale='full', seed=0):
  return {
    'experiment': 'figure_batch_size',
    'row': row,
    'scale': scale,
    'seed': seed,
    'command': 'python …',
    'status': status,
    'updates': 1015,
    'config': {'num_steps': 1015},
    'curve': [],
    'summary': {'eval/top_1': top_1} if status == 'finished' else {},
    'hardware': {'device': 'cpu', 'device_count': 1, 'cpu': 'x', 'cores': 2},
    'versions': {'jax': '0.10.2'},
  }


def write(root, *found):
  folder = root / 'figure_batch_size/runs'
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  for one in found:
    name = f'{one["row"]}@{one["scale"]}_seed{one["seed"]}.json'
    (folder / name).write_text(json.dumps(one))


def test_without_a_record_no_number_of_ours_gets_in(root):
  write(root)
  section = report.section_of('figure_batch_size', root)
  assert section.verdict[0] == 'not run'
  rows = [x for x in section.body.splitlines() if x.startswith('| bn_')]
  assert len(rows) == 10
  published = '[0-9.]+ \\[D\\]|below 70 \\[D\\]'
  assert all(
    re.fullmatch(rf'\| \w+ \| ({published}) \| not run \| \d+ \|', row)
    for row in rows
  )


def test_seeds_become_mean_and_spread_and_a_diverged_run_is_never_in_it(root):
  write(
    root,
    record('bn_50_bs4096', 0.70, seed=0),
    record('bn_50_bs4096', 0.72, seed=1),
    record('nf_50_bs4096', 0.0, 'diverged', seed=0),
    record('nf_agc_50_bs4096', 0.70, seed=0),
    record('nf_agc_50_bs4096', 0.0, 'diverged', seed=1),
  )
  section = report.section_of('figure_batch_size', root)
  line = {x.split(' | ')[0]: x for x in section.body.splitlines()}
  assert '| 71.00 ± 1.41 |' in line['| bn_50_bs4096']
  assert '| 76.8 [D] |' in line['| bn_50_bs4096']
  assert '| diverged |' in line['| nf_50_bs4096']
  assert 'diverged in 1 of 2; else 70.00' in line['| nf_agc_50_bs4096']
  assert section.verdict[0] == 'mixed'  # NF collapses, AGC doesn't keep up
  text = (root / 'figure_batch_size/README.md').read_text()
  assert '**Verdict: mixed.**' in text and 'Seeds: 0, 1.' in text


def test_scaled_down_runs_decide_nothing_and_say_what_they_are(root):
  write(
    root,
    *(
      record(f'{arm}_50_bs4096', 0.5, scale='cifar')
      for arm in figure_batch_size.ARMS
    ),
  )
  word, why = report.section_of('figure_batch_size', root).verdict
  assert word == 'not run' and 'Not run on ImageNet. Scaled down, ' in why
  assert 'BN 50.00' in why
  body = report.section_of('figure_batch_size', root).body
  assert figure_batch_size.SCALES['cifar']['note'] in body


def test_the_key_above_the_table_has_every_verdict_once(root):
  assert set(report.MEANINGS) == set(_study.VERDICTS)
  report.write_all(NAMES, root)
  text = (root / 'index.html').read_text()
  above, table, _ = text.partition('<table>')
  for word in _study.VERDICTS:
    assert above.count(f'<strong>{word}</strong>') == 1 and table
  seeds = '<span class="basis">scale full, 1 seed</span>'
  assert seeds in text  # cifar10_first_runs
  assert '<span class="basis">scale full</span>' in text  # signal_propagation


def test_the_averaged_parameters_accuracy_is_the_reported_one():
  one = record('f0', 0.5)
  one['summary']['eval_ema/top_1'] = 0.6
  assert _papers.rows_at([one], 'full')['f0'].text == '60.00'


def test_the_page_is_a_function_of_the_records(root, tmp_path_factory):
  again = tmp_path_factory.mktemp('again')
  for name in NAMES:
    if (root / name).exists():
      shutil.copytree(root / name, again / name)
  report.write_all(NAMES, root)
  first = (root / 'index.html').read_bytes()
  report.write_all(NAMES, root)
  assert (root / 'index.html').read_bytes() == first
  report.write_all(NAMES, again)
  assert (again / 'index.html').read_bytes() == first
  assert b'Out of reach' in first and b'JFT-300M is private' in first


def test_unknown_names_and_missing_records_are_refused(root):
  names = ['table_family']
  with pytest.raises(ValueError, match='--experiment=tabel: choose one of tab'):
    report.write_one('tabel', names, root)
  shutil.rmtree(root / 'table_family')
  with pytest.raises(ValueError, match='holds no records'):
    report.write_one('table_family', names, root)


def without_pictures(path):
  return re.sub(r'base64,[^"]*', '', path.read_text())


@pytest.mark.slow
def test_a_clone_regenerates_what_is_committed(root):
  names = sorted(p.stem for p in (ROOT / 'experiments').glob('[!_]*.py'))
  report.write_all(names, root)
  pinned = dict(
    line.split('==')
    for line in (ROOT / 'constraints.txt').read_text().splitlines()
    if '==' in line
  )
  same_plots = all(
    importlib.metadata.version(name) == pinned[name] for name in PLOTTERS
  )
  outdated = []
  for path in [root / 'index.html', *root.glob('*/README.md')]:
    committed = ROOT / 'results' / path.relative_to(root)
    read = pathlib.Path.read_bytes if same_plots else without_pictures
    if not committed.exists() or read(committed) != read(path):
      outdated.append(str(path.relative_to(root)))
  assert not outdated, f'run python -m scripts.report: {outdated} are outdated'
  assert (ROOT / 'results/index.html').stat().st_size < 2e6


def opened(page, profile, *flags):
  """A browser's run that prints the page as it is in the end."""
  said = subprocess.run(
    [
      'chromium', '--headless', '--no-sandbox', '--disable-gpu', *flags,
      f'--user-data-dir={profile}', '--dump-dom', page.as_uri(),
    ],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert said.returncode == 0 and '</html>' in said.stdout, said.stderr
  return said


def in_browser(path, profile):
  """What the page logs, and the addresses that it asks for."""
  profile.mkdir()
  said = opened(
    path, profile / 'data', '--enable-logging=stderr', '--v=0',
    '--window-size=390,800', f'--log-net-log={profile / "net.json"}',
  )  # fmt: skip
  logged = [line for line in said.stderr.splitlines() if 'CONSOLE' in line]
  asked = re.findall(r'"url":"([^"]*)"', (profile / 'net.json').read_text())
  browser_s_own = r'https?://([\w.-]+\.)?(google|googleapis|gvt1)\.com/'
  return logged, [url for url in asked if not re.match(browser_s_own, url)]


@pytest.mark.slow
@pytest.mark.skipif(
  not shutil.which('chromium'), reason='no chromium to open the page with'
)
def test_a_browser_opens_the_page_without_an_error_or_a_request(tmp_path):
  bad = tmp_path / 'bad.html'
  bad.write_text(
    '<html><img src="http://example.invalid/x.png">'
    '<script>console.error("wrong")</script></html>'
  )
  logged, asked = in_browser(bad, tmp_path / 'first')
  assert 'wrong' in logged[0] and set(asked) == {'http://example.invalid/x.png'}
  assert in_browser(ROOT / 'results/index.html', tmp_path / 'second') == (
    [],
    [],
  )


@pytest.mark.slow
@pytest.mark.skipif(
  not shutil.which('chromium'), reason='no chromium to open the page with'
)
def test_on_a_phone_the_page_is_no_wider_than_its_screen(tmp_path):
  frame = tmp_path / 'frame.html'
  page = (ROOT / 'results/index.html').as_uri()
  frame.write_text(
    f'<html><body><iframe width=390 height=800 src="{page}"></iframe><script>'
    'document.querySelector("iframe").onload = function() {'
    'const root = this.contentDocument.documentElement;'
    'document.title = `widths ${root.scrollWidth} ${root.clientWidth} end`; };'
    '</script></body></html>'
  )
  said = opened(
    frame, tmp_path / 'data', '--allow-file-access-from-files',
    '--virtual-time-budget=5000',
  )  # fmt: skip
  whole, shown = re.search(r'widths (\d+) (\d+) end', said.stdout).groups()
  assert 300 < int(whole) <= int(shown)
