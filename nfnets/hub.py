"""`nfnets.load`: pretrained networks by name, ready to be called."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nfnets import models, variants
from nfnets import weights as weights_lib
from nfnets.data import images as images_lib
from nfnets.weights import files, match, names, pictures

Picture = str | pathlib.Path | bytes | np.ndarray


def load(
  source: str | pathlib.Path,
  *,
  model: str | None = None,
  num_classes: int | None = None,
  in_channels: int | None = None,
  image_size: int | None = None,
  dtype: str = 'float32',
) -> 'Network':
  """Loads a network with weights, for inference or as a start for training.

  Args:
    source: a name from `list_models(pretrained=True)` or 'hf-hub:OWNER/NAME',
      which is downloaded once; a file of weights; a run's folder.
    model: the network's name, for a file that doesn't say it.
    num_classes: a number other than the weights' gives a new head, 0 none.
    in_channels: of the images; the stem's weights are adapted as in timm.
    image_size: side of the images that `preprocess` returns, in pixels; None
      for the size at which the network was evaluated.
    dtype: of the computation, 'float32' or 'bfloat16'.

  Raises:
    ValueError, FileNotFoundError: the weights can't be read or used; a message
      of one line says why and, if a package is missing, its name.
  """
  _check_whole('num_classes', num_classes, 0, 2**20)
  _check_whole('in_channels', in_channels, 1, 2**16)
  _check_whole('image_size', image_size, 1, 4096)
  found = weights_lib.load(source, model=model)
  if num_classes is not None and num_classes != found.num_classes:
    found = with_head(found, num_classes)
  if in_channels is not None:
    found = with_channels(found, in_channels)
  return Network(found, image_size=image_size, dtype=dtype)


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
  if value is None or (type(value) is int and least <= value <= most):
    return
  raise ValueError(
    f'{name}={value!r}: must be a whole number from {least} to {most}'
  )


def list_models(pretrained: bool = False) -> list[str]:
  """The names that `create` takes or, if `pretrained`, those of `load`."""
  return list(names.PUBLISHED if pretrained else variants.ALL)


class Network:
  """A network with weights, folded and compiled at the first call.

  Attributes:
    params: the trained parameters `{module: {name: array}}`, not folded: for
      `transformed.apply`, fine-tuning or conversion.
    state: statistics of batch normalization, `{}` without it.
    transformed: the same network from `nfnets.create`, for training.
    class_names: one for each logit.
    config: the model's name and arguments and the preprocessing, as JSON
      values.
  """

  def __init__(
    self,
    weights: files.Weights,
    *,
    image_size: int | None = None,
    dtype: str = 'float32',
  ) -> None:
    if dtype not in ('float32', 'bfloat16'):
      raise ValueError(f"dtype={dtype!r}: use 'float32' or 'bfloat16'")
    self.params, self.state = weights.params, weights.state
    self.image_size = image_size or pictures.image_size(weights)
    self.class_names = pictures.class_names(weights)
    self.config = {
      'model': weights.model,
      'num_classes': weights.num_classes,
      'overrides': dict(weights.overrides),
      'in_channels': files.channels(weights.params),
      'preprocessing': pictures.preparation(weights, self.image_size),
      'dtype': dtype,
    }
    self._weights, self._dtype = weights, dtype

  def __repr__(self) -> str:
    config, size = self.config, self.image_size
    return (
      f'<Network {config["model"]}: {size} x {size} pixels, '
      f'{config["num_classes"]} classes>'
    )

  def __call__(self, images: jax.Array | np.ndarray) -> jax.Array:
    """Maps images `[N, H, W, C]` from `preprocess` to logits `[N, K]`.

    A network without a head (0 classes) returns what `pool` returns.
    """
    return self._run(images, 'logits')

  def pool(self, images: jax.Array | np.ndarray) -> jax.Array:
    """Maps images `[N, H, W, C]` to pooled features `[N, F]`, float32."""
    return self._run(images, 'pool')

  def features(self, images: jax.Array | np.ndarray) -> dict[int, jax.Array]:
    """Maps images to feature maps `{stride: [N, H/stride, W/stride, F]}`."""
    return self._run(images, 'features')

  def preprocess(self, pictures: Picture | Sequence[Picture]) -> np.ndarray:
    """Prepares pictures as the network was evaluated: `[N, S, S, C]` float32.

    Args:
      pictures: paths, encoded bytes or uint8 arrays `[H, W, 3]`; a single one
        becomes a batch of one.

    Raises:
      ValueError: a picture can't be read (the message has its index, if there
        are several), or the network takes neither grey nor RGB images.
    """
    channels = self.config['in_channels']
    if channels not in (1, 3):
      raise ValueError(
        f'the network takes {channels} channels: preprocess images yourself'
      )
    is_single = isinstance(pictures, str | pathlib.Path | bytes) or (
      isinstance(pictures, np.ndarray) and pictures.ndim < 4
    )
    if is_single:
      return self._prepared(pictures)[None]
    prepared = []
    for index, picture in enumerate(pictures):
      try:
        prepared.append(self._prepared(picture))
      except ValueError as error:
        is_path = isinstance(picture, str | pathlib.Path)
        where = f'picture {index}' + (f' ({picture})' if is_path else '')
        raise ValueError(f'{where}: {error}') from error
    if not prepared:
      raise ValueError('give at least one picture')
    return np.stack(prepared)

  @functools.cached_property
  def transformed(self) -> hk.TransformedWithState:
    config = self.config
    return models.create(
      config['model'], config['num_classes'], **config['overrides']
    )

  @functools.cached_property
  def _folded(self) -> files.Weights:
    with jax.ensure_compile_time_eval():  # the first call may be under jit
      weights = weights_lib.fold_if_possible(self._weights)
      params, state = jax.device_put((weights.params, weights.state))
    return weights._replace(params=params, state=state)

  @functools.cached_property
  def _apply(self) -> Any:
    weights = self._folded
    overrides = {**weights.overrides, 'features': True}
    network = models.create(weights.model, weights.num_classes, **overrides)

    @functools.partial(jax.jit, static_argnums=3)
    def apply(params: Any, state: Any, images: jax.Array, key: str) -> Any:
      output, _ = network.apply(
        params, state, None, images.astype(self._dtype), False
      )
      return jax.tree.map(lambda x: x.astype(jnp.float32), output[key])

    return apply

  def _run(self, images: jax.Array | np.ndarray, key: str) -> Any:
    channels, shape = self.config['in_channels'], getattr(images, 'shape', ())
    dtype = getattr(images, 'dtype', None)  # None of what is no array
    is_float = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    if len(shape) != 4 or shape[-1] != channels or not is_float:
      kind = type(images).__name__ if dtype is None else dtype
      raise ValueError(
        f'images are {kind} {list(shape)}, must be float [N, H, W, '
        f'{channels}], as `preprocess` returns them'
      )
    weights = self._folded
    return self._apply(weights.params, weights.state, images, key)

  def _prepared(self, picture: Picture) -> np.ndarray:
    how, channels = self.config['preprocessing'], self.config['in_channels']
    if isinstance(picture, str | pathlib.Path):
      picture = images_lib.read(pathlib.Path(picture).expanduser())
    crop = images_lib.preparation(how['resize'])
    pixels = crop(images_lib.decode(picture), self.image_size)
    mean, std = (np.float32(how[key]) for key in ('mean', 'std'))
    image = (pixels - mean) / std
    return image.mean(-1, keepdims=True) if channels == 1 else image


def with_head(weights: files.Weights, num_classes: int) -> files.Weights:
  """Replaces the head by a new one, drawn from N(0, 0.01^2), or by none."""
  leaves = match.flatten(match.without_head(weights.params))
  if num_classes:
    shapes, _ = files.shapes(
      weights.model,
      num_classes,
      channels=files.channels(weights.params),
      **weights.overrides,
    )
    random = np.random.default_rng(0)
    for path, leaf in match.flatten(shapes).items():
      if match.is_head(path):
        drawn = 0.01 * random.standard_normal(leaf.shape, np.float32)
        leaves[path] = drawn if path.endswith('/w') else 0 * drawn
  data = {k: x for k, x in weights.data.items() if k != 'class_names'}
  return weights._replace(
    params=match.unflatten(leaves), num_classes=num_classes, data=data
  )


def with_channels(weights: files.Weights, channels: int) -> files.Weights:
  """Adapts the stem to images of another number of channels, as timm does.

  A single channel gets the sum of the stem's weights over its inputs; any other
  number repeats them cyclically, scaled by the old number over the new.
  """
  leaves = match.flatten(weights.params)
  path = files.stem_path(weights.params)
  old = leaves[path].shape[2]
  if channels == 1:
    leaves[path] = leaves[path].sum(2, keepdims=True)
  elif channels != old:
    repeated = leaves[path][:, :, np.arange(channels) % old]
    leaves[path] = repeated * np.float32(old / channels)
  return weights._replace(params=match.unflatten(leaves))
