"""A network's preprocessing of pictures, and the names of its classes."""

import pathlib
from typing import Any

from nfnets import variants
from nfnets.data import augment
from nfnets.weights import files

_IMAGENET = pathlib.Path(__file__).with_name('imagenet_classes.txt')
# The rules of `images.preparation` in words, for an image size s; the names of
# timm's contain a share c.
RULES = {
  'resize_crop_32': (
    'Resize to (s + 32, s + 32), aspect ratio not kept; cut out the centre '
    's x s. Bicubic (a = -0.5), half-pixel centres, no antialias, rounded to '
    'whole grey levels.'
  ),
  'crop_resize': (
    'Cut out the centre square of side s / (s + 32) of the short side; resize '
    'it to (s, s). Bicubic (a = -0.5), half-pixel centres, no antialias, '
    'rounded to whole grey levels.'
  ),
  'none': (
    'Resize to (s, s), unless it is that large. Bicubic (a = -0.5), '
    'half-pixel centres, no antialias, rounded to whole grey levels.'
  ),
  'squash': (
    'Resize to (s / c, s / c), aspect ratio not kept; cut out the centre s x s.'
  ),
  'center': (
    'Resize the short side to s / c, aspect ratio kept; cut out the centre '
    's x s.'
  ),
}
_PILLOW = (
  ' c is the number in the name. By Pillow with antialias, bicubic unless the '
  'name says another filter; sizes rounded down.'
)


def crop_name(weights: files.Weights) -> str:
  """The name of the rule by which the network's evaluation crops pictures."""
  # Paper A resizes before it crops, its predecessors after.
  usual = 'resize_crop_32' if weights.model in variants.NFNET else 'crop_resize'
  return _told(weights, 'eval_preprocessing', usual)


def crop_words(name: str) -> str:
  """The rule `name` in a few words, for messages."""
  return 'without a crop' if name == 'none' else f'cropped by {name}'


def image_size(weights: files.Weights) -> int:
  """Side in pixels of the images that the network was evaluated on."""
  return int(_told(weights, 'eval_image_size'))


def statistics(weights: files.Weights) -> dict[str, list[float]]:
  """'mean' and 'std' of R, G and B, `[3]` each, in grey levels (0 to 255)."""
  usual = {'mean': augment.IMAGENET_MEAN, 'std': augment.IMAGENET_STD}
  return {
    key: [float(x) for x in _told(weights, key, value)]
    for key, value in usual.items()
  }


def _told(weights: files.Weights, key: str, usual: Any = None) -> Any:
  """The value in the weights' metadata, else in their network's variant."""
  row = variants.find(weights.model)
  return weights.data.get(key, row.get(key, usual))


def preparation(weights: files.Weights, size: int | None) -> dict[str, Any]:
  """The whole preprocessing as JSON values, for use in other programs."""
  name = crop_name(weights)
  return {
    'image_size': size or image_size(weights),
    'resize': name,
    'resize_rule': RULES.get(name) or RULES[name.split('_')[0]] + _PILLOW,
    **statistics(weights),
    'formula': 'images = (pixels - mean) / std, pixels RGB from 0 to 255',
  }


def class_names(weights: files.Weights) -> list[str]:
  """Names of the classes: the weights' own, ImageNet's, or 'class 0' and on."""
  names = weights.data.get('class_names')
  if names is not None:
    return list(names)
  if weights.num_classes == 1000:
    return imagenet_classes()
  return [f'class {index}' for index in range(weights.num_classes)]


def imagenet_classes() -> list[str]:
  """Names of ImageNet's 1,000 classes, such as 'tabby, tabby cat', by label."""
  lines = _IMAGENET.read_text(encoding='utf-8').splitlines()
  # A line has a WordNet identifier, a tab and the names.
  return [line.split('\t')[1] for line in lines if not line.startswith('#')]
