"""Markdown tables; leaves with the last who reads it."""

from collections.abc import Iterable, Sequence

from tabulate import tabulate


def markdown(header: Sequence[str], rows: Iterable[Sequence]) -> str:
  """A table whose columns line up as plain text too."""
  return tabulate(rows, header, 'github', disable_numparse=True) + '\n'
