"""How far to trust a published number: the tags, and how they are shown."""

from collections.abc import Iterable, Mapping

TRUST = {
  'P': "paper's text or table",
  'C': 'released code',
  'K': 'computed with the released code',
  'D': "digitised from the paper's figure",
  'R': "another paper's text or table",
  'S': 'second hand: public notes on the paper',
  'M': 'from memory, not verified: never a criterion',
  'T': 'timm',
}


def shown(entry: tuple | None) -> str:
  """A published (number, tag, ...) as printed with its tag; '–' for none."""
  return '–' if entry is None else f'{entry[0]} [{entry[1]}]'


def tags(paper: Mapping[str, tuple], runs: Iterable[str]) -> str:
  """What the published numbers' tags mean; empty without a number."""
  return legend(entry[1] for row in runs if (entry := paper.get(row)))


def legend(found: Iterable[str]) -> str:
  """What these tags mean, as a sentence; empty without any."""
  trust = '; '.join(f'[{tag}] {TRUST[tag]}' for tag in sorted(set(found)))
  return f'Published: {trust}.' if trust else ''
