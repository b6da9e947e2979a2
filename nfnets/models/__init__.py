"""Every network by name."""

import difflib
import inspect
from typing import Any

import haiku as hk
import jax

from nfnets import variants
from nfnets.models import activations, layers
from nfnets.models.cifar_resnet import CIFARResNet
from nfnets.models.fixup_resnet import FixUpResNet
from nfnets.models.nf_regnet import NFRegNet
from nfnets.models.nf_resnet import NFResNet
from nfnets.models.nfnet import NFNet
from nfnets.models.resnet import ResNet
from nfnets.models.skipinit_resnet import SkipInitResNet

_NETWORKS = {
  **dict.fromkeys(variants.NFNET, NFNet),
  **dict.fromkeys(variants.NF_RESNET, NFResNet),
  **dict.fromkeys(variants.NF_REGNET, NFRegNet),
  **dict.fromkeys(variants.RESNET, ResNet),
  **dict.fromkeys(variants.SKIPINIT_RESNET, SkipInitResNet),
  **dict.fromkeys(variants.FIXUP_RESNET, FixUpResNet),
  **dict.fromkeys(variants.CIFAR_RESNET, CIFARResNet),
  **dict.fromkeys(variants.TIMM_NFNET, NFNet),
  **dict.fromkeys(variants.TIMM_NF_RESNET, NFResNet),
  **dict.fromkeys(variants.TIMM_NF_REGNET, NFRegNet),
}
# What every network takes beside its own arguments.
_SWITCHES = ('remat', 'scan', 'features', 'folded')
_COMMON = ('depths', 'widths', 'drop_rate', 'stochdepth_rate', *_SWITCHES)


def create(
  name: str, num_classes: int = 1000, **overrides: object
) -> hk.TransformedWithState:
  """Returns a network whose own dropout and stochastic depth apply.

  `apply(params, state, key, images, is_training)` takes images `[N, H, W, 3]`
  and returns `({'logits': [N, K], 'pool': [N, C], ...}, state)`; the key may be
  None where nothing draws. `init(key, images, is_training)` wants
  `is_training=True`. The computation follows the images' type; parameters and
  logits are float32.

  Args:
    name: such as 'nfnet_f0', see `variants.find`.
    num_classes: K; 0 for no head: the logits are the pooled features then.
    **overrides: arguments of the family's network, documented there, and for
      every network:
      depths, widths: blocks and channels per stage.
      drop_rate: dropout on the pooled features.
      stochdepth_rate: rate that the last block approaches.
      remat: recompute each block in the backward pass.
      scan: compile a stage's equal blocks once, see `network.Stages`.
      features: return each stage's output too.
      folded: run weights by `nfnets.weights.fold`; inference only.

  Raises:
    ValueError: for an unknown name or override, with the nearest known one.
  """
  if num_classes < 0:
    raise ValueError(f'num_classes={num_classes}: give 0 (no head) or more.')
  values, own = arguments(name, **overrides), own_arguments(name)
  variant = {key: value for key, value in values.items() if key not in own}
  settings = {key: values[key] for key in own}
  network = _NETWORKS[variants.canonical(name)]

  def forward(images: jax.Array, is_training: bool) -> dict:
    with layers.folded(bool(values['folded'])):
      return network(num_classes, variant, **settings)(images, is_training)

  return hk.transform_with_state(forward)


def arguments(name: str, **overrides: object) -> dict[str, Any]:
  """A network's row of `variants`, its arguments' defaults, and the overrides.

  An override of None is none.

  Raises:
    ValueError: as `create`.
  """
  row, own = variants.find(name), own_arguments(name)
  known = sorted({*own, *_COMMON})
  for key in overrides.keys() - known:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f'did you mean {near[0]}?' if near else f'known: {", ".join(known)}.'
    raise ValueError(f'{name} has no override {key!r}: {hint}')
  given = {key: value for key, value in overrides.items() if value is not None}
  values = dict.fromkeys(_SWITCHES, False) | row | own | given
  for key in ('depths', 'widths'):
    if not isinstance(values[key], str):
      values[key] = tuple(values[key])
  activations.get(values['activation'])
  return values


def own_arguments(name: str) -> dict[str, Any]:
  """What the family's network alone takes, and the variant's values of it."""
  row = variants.find(name)
  network = _NETWORKS[variants.canonical(name)]
  return {
    key: row.get(key, parameter.default)
    for key, parameter in inspect.signature(network.__init__).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and key != 'name'
  }
