"""The page: whole, escaped, and asking for no file but itself."""

import html.parser

import pytest
from PIL import Image

from nfnets.pages import page


def section(name='first', **values):
  default = {
    'name': name,
    'title': 'A <b> title',
    'claim': 'It is so.',
    'verdict': ('not borne out', 'It was 3 < 4.'),
    'body': '| a | b |\n|---|---|\n| 1 | 2 |\n\n![seen](p.png)',
    'facts': ['Seeds: 0.'],
    'commands': ['python -m x --y=<z>'],
    'note': 'How it was done.',
  }
  return page.Section(**{**default, **values})


@pytest.fixture
def folder(tmp_path):
  for name in ('first', 'second'):
    (tmp_path / name).mkdir()
    Image.new('RGB', (4, 4)).save(tmp_path / name / 'p.png')
  return tmp_path


class Reader(html.parser.HTMLParser):
  """Tags, balanced, with every reference and id."""

  VOID = {'meta', 'link', 'img', 'br'}

  def __init__(self, text):
    super().__init__()
    self.open, self.references, self.ids, self.tags = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag not in self.VOID:
      self.open.append(tag)
    for key, value in attrs:
      if key in ('src', 'href', 'srcset', 'action', 'data', 'poster'):
        self.references.append(value)
      if key == 'id':
        self.ids.append(value)
      assert not key.startswith('on')

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def make(folder, *sections):
  parts = {'Part': list(sections), 'Nothing': []}
  return page.of('Title', 'A *lead*.', parts, [('JFT', 'private')], folder)


def test_nothing_leaves_the_page_and_every_link_arrives(folder):
  text = make(folder, section(), section('second'))
  found = Reader(text)
  assert found.references and set(found.tags) & {'script', 'iframe'} == set()
  assert 'url(' not in text and '@import' not in text
  for reference in found.references:
    if reference.startswith('#'):
      assert reference[1:] in found.ids
    else:
      assert reference.startswith('data:')
  assert len(found.ids) == len(set(found.ids))
  assert 'Nothing' not in text


def test_a_section_has_claim_verdict_table_picture_facts_and_commands(folder):
  text = make(folder, section())
  for piece in (
    'A &lt;b&gt; title',
    '<p class="claim">It is so.</p>',
    '<span class="verdict not-borne-out">not borne out</span> It was 3 &lt; 4.',
    '<td class=n>1</td>',
    'src="data:image/png;base64,',
    'Seeds: 0.',
    '<pre>python -m x --y=&lt;z&gt;</pre>',
    'How it was done.',
    '<dt><strong>JFT</strong></dt><dd>private</dd>',
  ):
    assert piece in text


def test_the_same_sections_give_the_same_bytes(folder):
  assert make(folder, section()) == make(folder, section())


def test_the_overview_says_beside_a_verdict_what_it_rests_on(folder):
  text = make(folder, section(basis='scale <cpu>, 1 seed'), section('second'))
  beside = (
    'out</span> <span class="basis">scale &lt;cpu&gt;, 1 seed</span></td>'
  )
  assert text.count(beside) == text.count('class="basis"') == 1


def test_a_missing_picture_is_an_error_that_names_it(folder):
  (folder / 'first/p.png').unlink()
  with pytest.raises(OSError, match=r'p\.png'):
    make(folder, section())


def test_markdown_of_one_experiment_has_the_same_pieces():
  text = page.as_markdown(section())
  assert text.startswith('# A <b> title\n\nIt is so.\n\n**Verdict: not borne')
  assert '```\npython -m x --y=<z>\n```' in text
