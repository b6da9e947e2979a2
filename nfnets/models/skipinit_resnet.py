"""SkipInit ResNets (De & Smith, arXiv 2002.10444), paper B's comparison."""

import functools
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets.models import activations, layers, stages
from nfnets.models import kit as kits
from nfnets.models.nf_resnet import NFResBlock


class SkipInitResNet(hk.Module):
  """Pre-activation ResNet whose branches start at zero; nothing else helps.

  No weight standardization, gamma, alpha or expected std: plain convolutions
  with biases, a plain activation and a scalar gain per block.

  Args:
    num_classes: K.
    variant: a row of `variants.SKIPINIT_RESNET`.
    activation: name in `activations.GAMMAS`, unscaled.
    drop_rate: dropout on the pooled features; None for the variant's, 0.
    stochdepth_rate: rate that the last block approaches; None for 0.1.
    skipinit_gain: initial `skip_gain`, a number or an initializer.
    remat: recompute each block in the backward pass.
    scan: compile equal blocks once, see `stages.run`.
    features: return each stage's output too.
  """

  def __init__(
    self,
    num_classes: int,
    variant: Mapping,
    *,
    activation: str = 'relu',
    drop_rate: float | None = None,
    stochdepth_rate: float | None = None,
    skipinit_gain: float = 0.0,
    remat: bool = False,
    scan: bool = False,
    features: bool = False,
    name: str = 'SkipInit_ResNet',
  ) -> None:
    super().__init__(name)
    self.activation = activations.get(activation, scaled=False)
    self.drop_rate = variant['drop_rate'] if drop_rate is None else drop_rate
    self.remat = remat
    self.scan = scan
    self.features = features
    conv = functools.partial(
      layers.Conv2D, w_init=layers.truncated_fan_in, with_bias=True
    )
    kit = kits.Kit(True, self.activation, conv, kits.identity, self.activation)
    self.initial_conv = layers.Conv2D(
      64, 7, 2, w_init=layers.truncated_fan_in, name='initial_conv'
    )
    block = functools.partial(NFResBlock, kit=kit, skipinit_gain=skipinit_gain)
    depths = variant['depths']
    self.blocks = stages.build(
      block, depths, variant['widths'], 64, strides=(1, 2, 2, 2)
    )
    if stochdepth_rate is None:
      stochdepth_rate = variant['stochdepth_rate']
    self.numbers = stages.numbers(depths, stochdepth_rate)
    self.linear = layers.Linear(num_classes, jnp.zeros, name='linear')

  def __call__(
    self, images: jax.Array, is_training: bool
  ) -> dict[str, jax.Array]:
    """Classifies images `[N, H, W, 3]`, see `nf_resnet.NFResNet`."""
    key = hk.maybe_next_rng_key()
    x = stages.max_pool(self.initial_conv(images))
    x, outputs = stages.run(
      self.blocks, self.numbers, x, key, is_training, self.remat, self.scan
    )
    key = stages.fold_in(key, sum(map(len, self.blocks)))
    result = stages.classify(
      self.activation(x), self.linear, self.drop_rate, key, is_training
    )
    if self.features:
      result['features'] = stages.with_strides(outputs, first=4)
    return result
