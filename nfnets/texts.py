"""Text from outside: parsing JSON, and printing names safely."""

import json
from typing import Any


def parse_json(
  text: str | bytes, where: str, remedy: str, kind: type = dict
) -> Any:
  """Parses JSON whose top level must be of the given kind.

  Raises:
    ValueError: it is not; one line with `where` and `remedy`.
  """
  try:
    found = json.loads(text)
    if not isinstance(found, kind):
      raise ValueError(f'no JSON {"object" if kind is dict else kind.__name__}')
    return found
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{where} is damaged ({error}); {remedy}') from error


def printable(text: object) -> str:
  """Escapes characters that would move a terminal's cursor or color it."""
  return ''.join(x if x.isprintable() else ascii(x)[1:-1] for x in str(text))
