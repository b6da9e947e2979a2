"""Creates any network by name; imports only the family it belongs to."""

import difflib
import importlib
import inspect
from typing import Any

import haiku as hk
import jax

from nfnets import variants
from nfnets.models import activations, layers

# The file and the class of each variant's network.
_NETWORKS = {
  **dict.fromkeys(variants.NFNET, 'nfnet.NFNet'),
  **dict.fromkeys(variants.NF_RESNET, 'nf_resnet.NFResNet'),
  **dict.fromkeys(variants.NF_REGNET, 'nf_regnet.NFRegNet'),
  **dict.fromkeys(variants.RESNET, 'resnet.ResNet'),
  **dict.fromkeys(variants.SKIPINIT_RESNET, 'skipinit_resnet.SkipInitResNet'),
  **dict.fromkeys(variants.FIXUP_RESNET, 'fixup_resnet.FixUpResNet'),
  **dict.fromkeys(variants.CIFAR_RESNET, 'cifar_resnet.CIFARResNet'),
  **dict.fromkeys(variants.TIMM_NFNET, 'nfnet.NFNet'),
  **dict.fromkeys(variants.TIMM_NF_RESNET, 'nf_resnet.NFResNet'),
  **dict.fromkeys(variants.TIMM_NF_REGNET, 'nf_regnet.NFRegNet'),
}
# Arguments of every network, besides those of its family.
_SWITCHES = ('remat', 'scan', 'features', 'folded')
_POSITIVE = {'depths', 'widths', 'group_size', 'channel_divisor'}
_COMMON = ('depths', 'widths', 'drop_rate', 'stochdepth_rate', *_SWITCHES)


def create(
  name: str, num_classes: int = 1000, **overrides: object
) -> hk.TransformedWithState:
  """Creates a network with its variant's dropout and stochastic depth.

  `apply(params, state, key, images, is_training)` takes images `[N, H, W, 3]`
  and returns `({'logits': [N, K], 'pool': [N, C], ...}, state)`; the key may be
  None if no random numbers are drawn. Call `init(key, images, is_training)`
  with `is_training=True`. The computation uses the type of the images;
  parameters and logits are float32.

  Args:
    name: a variant such as 'nfnet_f0', see `variants.find`.
    num_classes: K; with 0 there is no head, and logits are the pooled features.
    **overrides: arguments of the family's network, which documents them, and
      for every network:
      depths, widths: blocks and channels of each stage.
      drop_rate: dropout rate of the pooled features.
      stochdepth_rate: stochastic depth rate that the last block approaches.
      remat: recompute each block in the backward pass.
      scan: compile the equal blocks of a stage once, see `network.Network`.
      features: also return each stage's output.
      folded: use weights made by `nfnets.weights.fold`; inference only.

  Raises:
    ValueError: if a name or an override is unknown (suggests the nearest), or a
      size is below 1. `apply` and `init` refuse images that aren't floats.
  """
  if num_classes < 0:
    raise ValueError(f'num_classes={num_classes}: give 0 (no head) or more.')
  values, network = arguments(name, **overrides), _network(name)
  own = {key: values[key] for key in own_arguments(name)}

  def transformed(own: dict[str, Any]) -> hk.TransformedWithState:
    def forward(images: jax.Array, is_training: bool) -> dict:
      with layers.folded(bool(values['folded'])):
        return network(num_classes, values, **own)(images, is_training)

    return hk.transform_with_state(forward)

  # `init` runs outside the mapped axis, which no parameter depends on.
  unmapped = {k: v for k, v in own.items() if k != 'cross_replica_axis'}
  init, apply = transformed(unmapped).init, transformed(own).apply
  return hk.TransformedWithState(init, apply)


def arguments(name: str, **overrides: object) -> dict[str, Any]:
  """All arguments of a network: its variant's, its defaults, the overrides.

  Overrides of None are ignored; lists, as JSON has them, become tuples.

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
  values = {key: as_tuples(value) for key, value in values.items()}
  activations.get(values['activation'])  # refuses an unknown name early
  for key in _POSITIVE & values.keys():
    sizes = values[key] if isinstance(values[key], tuple) else (values[key],)
    if any(isinstance(size, int | float) and size < 1 for size in sizes):
      raise ValueError(f'{name}: {key}={values[key]}: give 1 or more.')
  return values


def as_tuples(value: Any) -> Any:
  """The value with its lists, and the lists in them, made tuples."""
  if isinstance(value, list | tuple):
    return tuple(map(as_tuples, value))
  return value


def own_arguments(name: str) -> dict[str, Any]:
  """The arguments that only this family takes, with the variant's values."""
  row = variants.find(name)
  parameters = inspect.signature(_network(name)).parameters
  return {
    key: row.get(key, parameter.default)
    for key, parameter in parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and key != 'name'
  }


def _network(name: str) -> type[hk.Module]:
  file, _, network = _NETWORKS[variants.canonical(name)].partition('.')
  return getattr(importlib.import_module(f'nfnets.models.{file}'), network)
