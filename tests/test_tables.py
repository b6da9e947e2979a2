"""Tables are Markdown and tell the papers' figures from the code's."""

from nfnets import variants
from nfnets.analysis import counts, tables


def test_markdown_lines_up():
  text = tables.markdown(('a', 'bb'), [(1, 'x'), (22, 'yyy')])
  lines = text.splitlines()
  assert lines[0] == '| a  | bb  |' and lines[3] == '| 22 | yyy |'
  assert len({len(line) for line in lines}) == 1


def test_a_network_s_table_ends_with_its_total():
  part = counts.Part('stem', 0, (4, 4, 8), 10, 2_000_000_000, 2e9)
  last = tables.of_parts('net', 32, [part, part]).splitlines()[-1]
  assert last.split() == [
    '|',
    'total',
    '|',
    '|',
    '|',
    '20',
    '|',
    '4.000',
    'G',
    '|',
  ]


def test_figures_belong_to_known_models():
  assert set(tables.PUBLISHED | tables.RELEASED) <= set(variants.ALL)
  assert not set(tables.PUBLISHED) & set(tables.RELEASED)
