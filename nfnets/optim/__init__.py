"""Optimization: adaptive gradient clipping, the chain around it, schedules."""

from nfnets.optim.agc import adaptive_grad_clip as adaptive_grad_clip
from nfnets.optim.agc import unitwise_norm as unitwise_norm
from nfnets.optim.optimizer import Settings as Settings
from nfnets.optim.optimizer import create as create
from nfnets.optim.optimizer import sgd as sgd
from nfnets.optim.optimizer import table as table
from nfnets.optim.parameters import labels as labels
from nfnets.optim.parameters import stages as stages
from nfnets.optim.sam import sharpness_aware as sharpness_aware
from nfnets.optim.schedules import constant as constant
from nfnets.optim.schedules import piecewise as piecewise
from nfnets.optim.schedules import warmup_cosine as warmup_cosine
from nfnets.optim.schedules import warmup_exponential as warmup_exponential
