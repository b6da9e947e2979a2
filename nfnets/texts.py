"""Text that anybody may have written: JSON to read, names to print."""

import json
from typing import Any


def parse_json(
  text: str | bytes, where: str, remedy: str, kind: type = dict
) -> Any:
  """The value that the text holds, of that kind.

  Raises:
    ValueError: it holds no such value; in one line, with where it stands and
      what to do.
  """
  try:
    found = json.loads(text)
    if not isinstance(found, kind):
      raise ValueError(f'no JSON {"object" if kind is dict else kind.__name__}')
    return found
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{where} is damaged ({error}); {remedy}') from error


def printable(text: object) -> str:
  """The text without what would move a terminal's cursor or colour it."""
  return ''.join(x if x.isprintable() else ascii(x)[1:-1] for x in str(text))
