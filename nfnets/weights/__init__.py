"""Weights in and out: published files, files of ours, timm, folding."""

from nfnets.weights.files import Weights as Weights
from nfnets.weights.files import write as write
from nfnets.weights.folding import fold as fold
from nfnets.weights.folding import fold_if_possible as fold_if_possible
from nfnets.weights.folding import fold_weights as fold_weights
from nfnets.weights.pictures import imagenet_classes as imagenet_classes
from nfnets.weights.pretrained import load as load
from nfnets.weights.pretrained import of_run as of_run
from nfnets.weights.pretrained import read as read
from nfnets.weights.stacked import stack_like as stack_like
from nfnets.weights.stacked import unstack as unstack
