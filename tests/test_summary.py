"""scripts.summary as a user runs it."""


def test_a_model_prints_parts_and_the_papers_digits(run_script):
  done = run_script('scripts.summary', '--model=nfnet_f0')
  assert done.code == 0, done.stderr
  assert '71,489,284' in done.stdout
  assert '12.384 G' in done.stdout and '6.977 G' in done.stdout
  assert '| stage 3 | 6 ' in done.stdout


def test_a_recipe_alone_prints_its_own_network(run_script):
  flags = (
    '--config=configs/quickstart.py',
    '--config.model.depths=1,2,1',
    '--config.model.widths=8,8,16',
    '--config.model.scan=True',
  )
  done = run_script('scripts.summary', *flags)
  assert done.code == 0, done.stderr
  assert done.stdout.startswith('cifar_resnet_20 at 8 x 8 pixels\n')
  rows = [line.strip('|').split('|') for line in done.stdout.splitlines()]
  found = {row[0].strip(): row[1:3] for row in rows if len(row) == 5}
  assert found['stage 2'][0].strip() == '2'
  assert found['stage 3'][1].strip() == '2 x 2 x 16'
  assert found['head'][1].strip() == '10'
  done = run_script('scripts.summary', flags[0], '--image_size=16')
  assert 'at 16 x 16 pixels' in done.stdout, done.stderr


def test_a_model_and_a_recipes_optimizer_are_printed_together(run_script):
  flags = '--model=cifar_resnet_20', '--config=configs/quickstart.py'
  done = run_script('scripts.summary', *flags, '--optimizer')
  assert done.code == 0 and '| stage 3 ' in done.stdout, done.stderr
  assert 'gain_or_bias' in done.stdout


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
