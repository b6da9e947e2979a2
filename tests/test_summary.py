"""scripts.summary as a user runs it."""


def test_a_model_prints_parts_and_the_papers_digits(run_script):
  done = run_script('scripts.summary', '--model=nfnet_f0')
  assert done.code == 0, done.stderr
  assert '71,489,284' in done.stdout
  assert '12.384 G' in done.stdout and '6.977 G' in done.stdout
  assert '| stage 3 | 6 ' in done.stdout


def test_a_recipe_prints_its_optimizer_groups_with_each_parameter_once(
  run_script,
):
  done = run_script(
    'scripts.summary', '--config=configs/nfnet_f0.py', '--optimizer'
  )
  assert done.code == 0, done.stderr
  rows = [line.split() for line in done.stdout.splitlines()]
  counts = {row[0]: int(row[2].replace(',', '')) for row in rows[1:] if row}
  assert counts.pop('all') == sum(counts.values()) == 71_489_284
  assert set(counts) == {'gain_or_bias', 'head', 'weight'}


def test_an_unknown_model_is_refused_with_its_nearest_name(run_script):
  done = run_script('scripts.summary', '--model=nfnet_g0')
  assert done.code == 2
  assert done.stderr.startswith("error: no model 'nfnet_g0': did you mean")
  assert len(done.stderr.splitlines()) == 1
