"""Every network by name."""

import difflib
import inspect

import haiku as hk
import jax

from nfnets import variants
from nfnets.models import activations
from nfnets.models.cifar_resnet import CIFARResNet
from nfnets.models.fixup_resnet import FixUpResNet
from nfnets.models.nf_regnet import NFRegNet
from nfnets.models.nf_resnet import NFResNet
from nfnets.models.nfnet import NFNet
from nfnets.models.resnet import ResNet
from nfnets.models.skipinit_resnet import SkipInitResNet

FAMILIES = {
  'nfnet': (NFNet, variants.NFNET),
  'nf_resnet': (NFResNet, variants.NF_RESNET),
  'nf_regnet': (NFRegNet, variants.NF_REGNET),
  'resnet': (ResNet, variants.RESNET),
  'skipinit_resnet': (SkipInitResNet, variants.SKIPINIT_RESNET),
  'fixup_resnet': (FixUpResNet, variants.FIXUP_RESNET),
  'cifar_resnet': (CIFARResNet, variants.CIFAR_RESNET),
}


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
    name: a key of `variants.ALL`, such as 'nfnet_f0'.
    num_classes: K.
    **overrides: arguments of the family's network, documented there; besides,
      for every family, `depths` (blocks per stage) and `widths` (channels per
      stage) in the place of the published ones.

  Raises:
    ValueError: for an unknown name or override, with the nearest known one.
  """
  row = variants.find(name)
  if num_classes < 1:
    raise ValueError(
      f'num_classes={num_classes}: a network needs at least one.'
    )
  network = network_class(name)
  overrides = dict(overrides)
  row = row | shape_overrides(network, overrides)
  _check(name, network, overrides)

  def forward(images: jax.Array, is_training: bool) -> dict:
    return network(num_classes, row, **overrides)(images, is_training)

  return hk.transform_with_state(forward)


def shape_overrides(network: type, overrides: dict) -> dict:
  """Takes out `depths` and `widths`, unless the network reads them itself."""
  own = inspect.signature(network.__init__).parameters
  keys = [k for k in ('depths', 'widths') if k in overrides and k not in own]
  return {key: tuple(overrides.pop(key)) for key in keys}


def network_class(name: str) -> type[hk.Module]:
  """The class whose instances `create(name)` transforms."""
  return next(cls for cls, rows in FAMILIES.values() if name in rows)


def _check(name: str, network: type, overrides: dict) -> None:
  parameters = inspect.signature(network.__init__).parameters
  known = [
    key
    for key, value in parameters.items()
    if value.kind is value.KEYWORD_ONLY and key != 'name'
  ]
  for key in overrides:
    if key not in known:
      near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
      hint = (
        f'did you mean {near[0]}?' if near else f'known: {", ".join(known)}.'
      )
      raise ValueError(f'{name} has no override {key!r}: {hint}')
  if 'activation' in overrides:
    activations.get(overrides['activation'])
