"""scripts.summary as a user runs it."""

import subprocess
import sys


def run(*flags):
  command = [sys.executable, '-m', 'scripts.summary', *flags]
  return subprocess.run(command, capture_output=True, text=True)


def test_a_model_prints_parts_and_the_paper_s_digits():
  result = run('--model=nfnet_f0')
  assert result.returncode == 0, result.stderr
  assert '71,489,284' in result.stdout
  assert '12.384 G' in result.stdout and '6.977 G' in result.stdout
  assert '| stage 3 | 6 ' in result.stdout


def test_another_batch_size_gets_numbers_with_rules(tmp_path):
  output = tmp_path / 'rules.md'
  result = run(
    '--config=configs/nfnet_f0.py', '--batch_size=1024', f'--output={output}'
  )
  assert result.returncode == 0, result.stderr
  assert '0.1 x batch size / 256' in result.stdout
  assert output.read_text() == result.stdout


def test_a_recipe_prints_its_optimizer_groups_with_each_parameter_once():
  done = run('--config=configs/nfnet_f0.py', '--optimizer')
  assert done.returncode == 0, done.stderr
  rows = [line.split() for line in done.stdout.splitlines()]
  counts = {row[0]: int(row[2].replace(',', '')) for row in rows[1:] if row}
  assert counts.pop('all') == sum(counts.values()) == 71_489_284
  assert set(counts) == {'gain_or_bias', 'head', 'weight'}


def test_mistakes_are_one_line():
  result = run('--model=nfnet_g0')
  assert result.returncode == 2
  assert result.stderr.startswith("error: no model 'nfnet_g0': did you mean")
  assert len(result.stderr.splitlines()) == 1
