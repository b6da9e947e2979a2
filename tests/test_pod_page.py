"""The page of pods: one command, and every row says what it is."""

from nfnets import pod_page

ENTRY = {
  'recipe': 'nfnet_f4',
  'topology': 'v3:8x8',
  'method': 'estimated',
  'arguments': 2.0**30,
  'temporaries': 2.0**31,
  'code': None,
  'chip_memory': 16 * 2.0**30,
  'fits': True,
  'flops': 1.234e12,
  'bytes_accessed': 5e9,
  'roofline': {'arithmetic': 0.02, 'memory': 0.0125, 'collectives': 0.001},
}


def row(cell='nfnet_f4@v3', **values):
  text = pod_page.page({cell: ENTRY | values}, {})
  return [
    column.strip() for column in text.splitlines()[-1].strip('| ').split('|')
  ]


def test_a_row_shows_memory_the_roofline_and_the_papers_time():
  assert row(code=2.0**29) == [
    'nfnet_f4', 'v3:8x8', 'estimated', '3.50 of 16.00', '1.00', '2.00', '0.50',
    'yes', '1.23e+12', '5e+09', '20.0', '1,033.3',
  ]  # fmt: skip


def test_the_papers_time_is_of_v3_alone():
  assert '1,033.3' not in row('nfnet_f4@v4')


def test_a_row_names_what_its_recipe_has_changed():
  changes = {'model.scan': True, 'model.remat': True, 'micro_batches': 2}
  assert row(changes=changes)[0] == 'nfnet_f4, remat, 2 micro-batches'
  assert row(changes={})[0] == 'nfnet_f4'


def test_what_does_not_fit_names_each_remedy_or_none():
  remedies = ['model.remat=True', 'micro_batches=2']
  column = row(fits=False, remedies=remedies)[7]
  assert column == 'no; with `model.remat=True` or `micro_batches=2`'
  assert row(fits=False, remedies=[])[7] == 'no; more chips'


def test_one_command_makes_all_that_was_compiled():
  recipes = {
    'nfnet_f3@v3': ENTRY | {'method': 'compiled'},
    'nfnet_f4@v3': ENTRY,
    'nfnet_f6_sam@v3': ENTRY | {'method': 'refused'},
  }
  text = pod_page.page(recipes, {'plain@v3:2x2': ENTRY})
  commands = [line for line in text.splitlines() if 'scripts.plan' in line]
  assert commands == [
    'python -m scripts.plan --table '
    '--compile=nfnet_f3@v3,nfnet_f6_sam@v3,plain@v3:2x2'
  ]
