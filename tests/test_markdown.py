"""Markdown as HTML: what reports use, escaped, with no way out of the page."""

import pytest

from nfnets.pages import markdown


def html(text):
  return markdown.to_html(text, lambda src: f'data:{src}')


def test_what_an_author_writes_is_never_html():
  assert html('a < b & `<c>` <script>') == (
    '<p>a &lt; b &amp; <code>&lt;c&gt;</code> &lt;script&gt;</p>'
  )
  assert html('```\n<b>&\n```') == '<pre>&lt;b&gt;&amp;</pre>'


def test_headings_paragraphs_lists_and_emphasis():
  assert html('## One *two*\n\nthree\n**four**') == (
    '<h3>One <em>two</em></h3>\n<p>three <strong>four</strong></p>'
  )
  assert html('- a\n  b\n- c') == '<ul><li>a b</li><li>c</li></ul>'
  assert html('2 * 3 * 4 x 0.1') == '<p>2 * 3 * 4 x 0.1</p>'


def test_a_table_aligns_numbers_to_the_right():
  text = html('| row | n | s |\n|---|---:|---|\n| a_b | 1 | 5 ± 2 |')
  assert text == (
    '<div class="table"><table><thead><tr><th>row</th><th class=n>n</th>'
    '<th class=n>s</th></tr></thead><tbody><tr><td>a_b</td><td class=n>1</td>'
    '<td class=n>5 ± 2</td></tr></tbody></table></div>'
  )
  with pytest.raises(ValueError, match='rows of unequal length'):
    html('| a | b |\n|---|---|\n| 1 |')


def test_pictures_are_embedded_and_links_keep_their_text_alone():
  assert 'src="data:p.png"' in html('![what it shows](p.png)')
  assert html('see [it](https://example.org)') == '<p>see it</p>'


def test_a_block_ends_a_paragraph_without_a_blank_line():
  assert html('a\n| b |\n|---|\n| c |').startswith('<p>a</p>\n<div')
