"""Weights in and out: published files, files of ours, timm, folding."""

from nfnets.weights.files import Weights, write
from nfnets.weights.folding import fold, fold_if_possible, fold_weights
from nfnets.weights.pictures import imagenet_classes
from nfnets.weights.pretrained import load, of_run, read
from nfnets.weights.stacked import stack_like, unstack

__all__ = [
  'Weights',
  'fold',
  'fold_if_possible',
  'fold_weights',
  'imagenet_classes',
  'load',
  'of_run',
  'read',
  'stack_like',
  'unstack',
  'write',
]
