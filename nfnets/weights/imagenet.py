"""The names of ImageNet's 1,000 classes, in the order of their labels."""

import pathlib

_FILE = pathlib.Path(__file__).with_name('imagenet_classes.txt')


def imagenet_classes() -> list[str]:
  """Names such as 'tabby, tabby cat', of labels 0 to 999."""
  return [words for _, words in _rows()]


def imagenet_synsets() -> list[str]:
  """WordNet identifiers such as 'n02123045', of labels 0 to 999."""
  return [synset for synset, _ in _rows()]


def _rows() -> list[list[str]]:
  lines = _FILE.read_text(encoding='utf-8').splitlines()
  return [line.split('\t') for line in lines if not line.startswith('#')]
