"""The page of all experiments: one file that asks for no other."""

import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nfnets.pages import markdown, pictures, style


class Section(NamedTuple):
  """One experiment.

  Attributes:
    name: its file's.
    title, claim: of the module.
    verdict: word and sentence.
    body: its report, as markdown.
    facts: sentences on seeds, hardware and cost.
    commands: to get and to report it.
    note: how it was done, as markdown.
    basis: what the verdict rests on, in a few words; '' for no record.
  """

  name: str
  title: str
  claim: str
  verdict: tuple[str, str]
  body: str
  facts: Sequence[str]
  commands: Sequence[str]
  note: str
  basis: str = ''


def of(
  title: str,
  lead: str,
  parts: Mapping[str, Sequence[Section]],
  out_of_reach: Sequence[tuple[str, str]],
  root: pathlib.Path,
) -> str:
  """The page as HTML.

  Args:
    title, lead: of the page; the lead is markdown.
    parts: heading to its experiments; empty ones are left out.
    out_of_reach: what isn't an experiment here, and why.
    root: the folder whose `NAME/` has the pictures of an experiment.
  """
  parts = {part: sections for part, sections in parts.items() if sections}
  body = [
    f'<h1>{html.escape(title)}</h1>',
    markdown.to_html(lead, _no_picture),
    _overview(parts),
  ]
  for part, sections in parts.items():
    body.append(f'<h2 class="part">{html.escape(part)}</h2>')
    body.extend(_section(section, root / section.name) for section in sections)
  body.append('<h2 class="part" id="out-of-reach">Out of reach</h2><dl>')
  for what, why in out_of_reach:
    body.append(
      f'<dt><strong>{markdown.inline(what)}</strong></dt>'
      f'<dd>{markdown.inline(why)}</dd>'
    )
  body.append('</dl>')
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    # A browser asks for favicon.ico unless it is told of another.
    '<link rel="icon" href="data:,">\n'
    f'<title>{html.escape(title)}</title>\n<style>{style.CSS}</style>\n'
    '</head>\n<body>\n' + '\n'.join(body) + '\n</body>\n</html>\n'
  )


def as_markdown(section: Section) -> str:
  """An experiment alone, for its folder."""
  word, why = section.verdict
  facts = '\n\n'.join(section.facts)
  commands = '\n'.join(section.commands)
  return (
    f'# {section.title}\n\n{section.claim}\n\n**Verdict: {word}.** {why}\n\n'
    f'{section.body.strip()}\n\n{facts}\n\n```\n{commands}\n```\n\n'
    f'{section.note.strip()}\n'
  )


def _overview(parts: Mapping[str, Sequence[Section]]) -> str:
  rows = [
    f'<tr><td><a href="#{section.name}">{html.escape(section.title)}</a></td>'
    f'<td>{_badge(section.verdict[0])}{_beside(section.basis)}</td></tr>'
    for sections in parts.values()
    for section in sections
  ]
  return (
    '<div class="table"><table><thead><tr><th>experiment</th><th>verdict</th>'
    f'</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
  )


def _section(section: Section, folder: pathlib.Path) -> str:
  word, why = section.verdict
  render = lambda text: markdown.to_html(
    text, lambda src: pictures.data_uri(folder / src)
  )
  commands = html.escape('\n'.join(section.commands))
  facts = ''.join(
    f'<p class="facts">{markdown.inline(fact)}</p>' for fact in section.facts
  )
  return (
    f'<section id="{section.name}">\n<h2>{html.escape(section.title)}</h2>\n'
    f'<p class="claim">{markdown.inline(section.claim)}</p>\n'
    f'<p>{_badge(word)} {markdown.inline(why)}</p>\n{render(section.body)}\n'
    f'{facts}\n<pre>{commands}</pre>\n'
    f'<div class="facts">{render(section.note)}</div>\n</section>'
  )


def _badge(word: str) -> str:
  return f'<span class="verdict {word.replace(" ", "-")}">{word}</span>'


def _beside(basis: str) -> str:
  return f' <span class="basis">{html.escape(basis)}</span>' if basis else ''


def _no_picture(src: str) -> str:
  raise ValueError(f'the lead can have no picture: {src}')
