"""Weights in and out: published files, files of ours, timm, folding."""

from nfnets.weights.files import Weights, load, read, write
from nfnets.weights.folding import can_fold, fold, fold_weights
from nfnets.weights.imagenet import imagenet_classes

__all__ = [
  'Weights',
  'can_fold',
  'fold',
  'fold_weights',
  'imagenet_classes',
  'load',
  'read',
  'write',
]
