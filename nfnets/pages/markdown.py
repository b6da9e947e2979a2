"""The little markdown that reports are written in, as HTML.

Headings, paragraphs, tables, lists, fenced code, pictures on a line of their
own; in a line `code`, **bold**, *emphasis* and links, of which only the text
stays, since the page refers to nothing outside of itself.
"""

import html
import re
from collections.abc import Callable, Sequence


def to_html(
  text: str, picture: Callable[[str], str], top_level: int = 3
) -> str:
  """Renders markdown.

  Args:
    text: markdown.
    picture: from a picture's path to what `src` says of it.
    top_level: of the headings `#` and `##`; deeper ones follow.
  """
  out: list[str] = []
  lines = text.splitlines()
  index = 0
  while index < len(lines):
    line = lines[index]
    if not line.strip():
      index += 1
    elif line.startswith('```'):
      end = _until(lines, index + 1, lambda x: x.startswith('```'))
      code = '\n'.join(lines[index + 1 : end])
      out.append(f'<pre>{html.escape(code)}</pre>')
      index = end + 1
    elif heading := re.match(r'(#+) (.*)', line):
      level = min(6, top_level + max(0, len(heading[1]) - 2))
      out.append(f'<h{level}>{inline(heading[2])}</h{level}>')
      index += 1
    elif image := re.fullmatch(r'!\[(.*?)\]\((.*?)\)\s*', line):
      alt = html.escape(image[1])
      src = picture(image[2])
      out.append(f'<div class="picture"><img alt="{alt}" src="{src}"></div>')
      index += 1
    elif line.startswith('|'):
      end = _until(lines, index, lambda x: not x.startswith('|'))
      out.append(_table(lines[index:end]))
      index = end
    elif re.match(r'[-*] ', line):
      end = _until(lines, index, lambda x: not re.match(r'[-*] |\s+\S', x))
      out.append(_list(lines[index:end]))
      index = end
    else:
      end = _until(lines, index, _ends_paragraph)
      out.append(f'<p>{inline(" ".join(lines[index:end]))}</p>')
      index = end
  return '\n'.join(out)


def inline(text: str) -> str:
  """What may stand in a line, escaped."""
  parts = re.split(r'(`[^`]+`)', text)
  return ''.join(
    f'<code>{html.escape(part[1:-1])}</code>'
    if part.startswith('`') and part.endswith('`') and len(part) > 2
    else _emphasis(html.escape(part, quote=False))
    for part in parts
  )


def _emphasis(text: str) -> str:
  text = re.sub(r'\[([^\]]+)\]\([^)]+\)', r'\1', text)
  text = re.sub(r'\*\*(\S.*?)\*\*', r'<strong>\1</strong>', text)
  return re.sub(r'(?<![\w*])\*(\S[^*]*?)\*(?!\w)', r'<em>\1</em>', text)


def _until(
  lines: Sequence[str], start: int, stops: Callable[[str], object]
) -> int:
  return next(
    (i for i in range(start, len(lines)) if stops(lines[i])), len(lines)
  )


def _ends_paragraph(line: str) -> bool:
  return not line.strip() or bool(re.match(r'```|#+ |\||!\[|[-*] ', line))


def _list(lines: Sequence[str]) -> str:
  items: list[str] = []
  for line in lines:
    if re.match(r'[-*] ', line):
      items.append(line[2:])
    else:
      items[-1] += ' ' + line.strip()
  return '<ul>' + ''.join(f'<li>{inline(i)}</li>' for i in items) + '</ul>'


def _table(lines: Sequence[str]) -> str:
  rows = [_cells(line) for line in lines]
  if any(len(row) != len(rows[0]) for row in rows):
    raise ValueError(f'a table has rows of unequal length: {lines[0]}')
  right = [False] * len(rows[0])
  if len(rows) > 1 and all(re.fullmatch(r':?-+:?', c) for c in rows[1]):
    right = [_is_right(rows, column) for column in range(len(rows[0]))]
    del rows[1]
  head, *body = rows
  return (
    '<div class="table"><table><thead>'
    + _row(head, right, 'th')
    + '</thead><tbody>'
    + ''.join(_row(row, right, 'td') for row in body)
    + '</tbody></table></div>'
  )


def _is_right(rows: Sequence[Sequence[str]], column: int) -> bool:
  """Aligned so, or without alignment and numbers all the way."""
  if rows[1][column].endswith(':'):
    return True
  cells = [row[column] for row in rows[2:] if row[column]]
  return bool(cells) and all(re.match(r'[-+–]?\d|–$', cell) for cell in cells)


def _row(cells: Sequence[str], right: Sequence[bool], tag: str) -> str:
  done = [
    f'<{tag}{" class=n" if is_right else ""}>{inline(cell)}</{tag}>'
    for cell, is_right in zip(cells, right, strict=True)
  ]
  return f'<tr>{"".join(done)}</tr>'


def _cells(line: str) -> list[str]:
  inner = line.strip().removeprefix('|').removesuffix('|')
  return [cell.strip() for cell in re.split(r'(?<!\\)\|', inner)]
