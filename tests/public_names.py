"""The public names in use, for the type checker of scripts/test.sh; not run."""

from typing import assert_type

import haiku as hk
import jax
import numpy as np
import optax

import nfnets
from nfnets.hub import Network


def use() -> None:
  network = nfnets.load('dm_nfnet_f0.dm_in1k', num_classes=9, dtype='bfloat16')
  assert_type(network, Network)
  images = network.preprocess(['a.jpg', b'', np.zeros((9, 9, 3), np.uint8)])
  assert_type(network(images), jax.Array)
  assert_type(network.pool(images), jax.Array)
  assert_type(network.features(images), dict[int, jax.Array])
  assert_type(nfnets.list_models(pretrained=True), list[str])
  assert_type(nfnets.create('nfnet_f0', 10), hk.TransformedWithState)
  assert_type(nfnets.sgd(0.1, clipping=0.01), optax.GradientTransformation)
  clip = nfnets.adaptive_grad_clip(0.01)
  assert_type(clip, optax.GradientTransformation)
  nfnets.sharpness_aware(jax.grad(lambda params: params), 0.05)
