"""How a network's pictures are prepared, and what its classes are called."""

import pathlib
from typing import Any

from nfnets import variants
from nfnets.data import augment
from nfnets.weights import files

_IMAGENET = pathlib.Path(__file__).with_name('imagenet_classes.txt')
# What each of `images.preparation` does with an image and a size s; timm's have
# a share c of their own in the name.
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
  """The name of the preparation that the network was tested with."""
  # Paper A's evaluation; its predecessors crop first.
  usual = 'resize_crop_32' if weights.model in variants.NFNET else 'crop_resize'
  return _told(weights, 'eval_preprocessing', usual)


def image_size(weights: files.Weights) -> int:
  """Side in pixels that the network was tested at."""
  return int(_told(weights, 'eval_image_size'))


def statistics(weights: files.Weights) -> dict[str, list[float]]:
  """'mean' and 'std', `[3]` each, in grey levels 0..255 of R, G, B."""
  usual = {'mean': augment.IMAGENET_MEAN, 'std': augment.IMAGENET_STD}
  return {
    key: [float(x) for x in _told(weights, key, value)]
    for key, value in usual.items()
  }


def _told(weights: files.Weights, key: str, usual: Any = None) -> Any:
  """What the weights say, or else their network's row of `variants`."""
  row = variants.find(weights.model)
  return weights.data.get(key, row.get(key, usual))


def preparation(weights: files.Weights, size: int | None) -> dict[str, Any]:
  """All of it as JSON values, for those who prepare pictures elsewhere."""
  name = crop_name(weights)
  return {
    'image_size': size or image_size(weights),
    'resize': name,
    'resize_rule': RULES.get(name) or RULES[name.split('_')[0]] + _PILLOW,
    **statistics(weights),
    'formula': 'images = (pixels - mean) / std, pixels RGB from 0 to 255',
  }


def class_names(weights: files.Weights) -> list[str]:
  """The classes' names: the weights' own, or ImageNet's, or numbers."""
  names = weights.data.get('class_names')
  if names is not None:
    return list(names)
  if weights.num_classes == 1000:
    return imagenet_classes()
  return [f'class {index}' for index in range(weights.num_classes)]


def imagenet_classes() -> list[str]:
  """Names of ImageNet's 1,000 classes, such as 'tabby, tabby cat', by label."""
  lines = _IMAGENET.read_text(encoding='utf-8').splitlines()
  # A line is a WordNet identifier and the names.
  return [line.split('\t')[1] for line in lines if not line.startswith('#')]
