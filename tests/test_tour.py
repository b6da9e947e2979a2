"""The guided tour: notebook and script agree, and it shows what it claims."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / 'examples'
SCRIPT = (EXAMPLES / 'tour.py').read_text()
NOTEBOOK = json.loads((EXAMPLES / 'tour.ipynb').read_text())


def cells_of_script():
  """Kind and source of each cell, as jupytext's percent format has them."""
  cells = []
  for part in re.split(r'^# %%', SCRIPT, flags=re.M)[1:]:
    kind, _, source = part.partition('\n')
    source = source.strip('\n')
    if kind.strip() == '[markdown]':
      lines = source.splitlines()
      assert all(line.startswith('#') for line in lines)
      source = '\n'.join(re.sub('^# ?', '', line) for line in lines)
      cells.append(('markdown', source))
    else:
      assert not kind
      cells.append(('code', source))
  return cells


def outputs():
  return [
    output
    for cell in NOTEBOOK['cells']
    if cell['cell_type'] == 'code'
    for output in cell['outputs']
  ]


def test_the_notebook_is_the_script():
  cells = [
    (cell['cell_type'], ''.join(cell['source'])) for cell in NOTEBOOK['cells']
  ]
  assert cells == cells_of_script()


def test_the_notebook_was_run_from_top_to_bottom_and_is_small():
  counts = [
    cell['execution_count']
    for cell in NOTEBOOK['cells']
    if cell['cell_type'] == 'code'
  ]
  assert counts == list(range(1, len(counts) + 1))
  assert all(output['output_type'] != 'error' for output in outputs())
  pictures = [o for o in outputs() if 'image/png' in o.get('data', {})]
  assert len(pictures) == 6
  assert (EXAMPLES / 'tour.ipynb').stat().st_size < 600_000


def test_the_notebook_names_no_place_of_one_machine():
  text = json.dumps([outputs(), NOTEBOOK['metadata']])
  for place in ('/home', '/tmp', '/work', '/usr'):
    assert place not in text


def check(said):
  """What the printed lines say."""
  assert re.search(r'^test_nfnet\S+: (pretrained|random) weights', said, re.M)
  assert 'normalizer-free: keeps its variance' in said
  for broken in ('without gamma', 'without standardization'):
    assert re.search(rf'^{broken}: .*its branch has variance', said, re.M)
  assert re.search(r'after +\[0\.01 0\.03 0\.1 +0\.1 +0\.1 +0\.1', said)
  accuracy = dict(re.findall(r'^(.*): (?:test )?accuracy (\S+)%', said, re.M))
  assert float(accuracy['without AGC']) < 50
  assert float(accuracy['with AGC, 0.04']) > 85
  assert float(accuracy['fine-tuned']) > 60
  assert accuracy['exported'] == accuracy['fine-tuned']


def test_the_notebook_shows_what_it_claims():
  check(''.join(''.join(o.get('text', '')) for o in outputs()))


@pytest.mark.slow
def test_the_script_runs_offline_and_shows_the_same():
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', EXAMPLES / 'tour.py'],
    cwd=EXAMPLES,
    env={
      'MPLBACKEND': 'agg',
      'JAX_PLATFORMS': 'cpu',
      'HF_HUB_OFFLINE': '1',
      'PATH': '',
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  check(done.stdout)
