"""The published NFNets' plain training step, from a checkout of their code.

The code is the folder `nfnets` of google-deepmind/deepmind-research. Of it
`base.py` and `nfnet.py` run on today's JAX and Haiku as they are; its loop and
optimizer need packages that don't, so the step around the network is written
here, by the arithmetic of its experiment.py and optim.py: parameters rounded to
the precision at the start, cross-entropy with label smoothing 0.1, gradients
widened and summed over devices, decay 2e-5 of weights, Nesterov momentum 0.9.
Left out are clipping, averages, the learning rate's schedule (it is constant)
and the turning of images that come as `[H, W, C, N]`.
"""

import hashlib
import importlib.util
import pathlib
import sys
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

import nfnets
from nfnets import parallel, step, variants
from nfnets.bench import programs

NUM_CLASSES = 1000
LEARNING_RATE = 0.1
CHECKOUT = (
  'the folder nfnets of a checkout of google-deepmind/deepmind-research'
)
FILES = ('base', 'nfnet')  # in the order that they need each other


class State(NamedTuple):
  """Parameters and momentum, float32, by Haiku's paths."""

  params: Any
  momentum: Any


def network(folder: str, model: str) -> hk.Transformed:
  """A network of the checkout: images `[N, H, W, 3]` to logits `[N, 1000]`.

  Args:
    folder: the checkout's `nfnets`, with base.py and nfnet.py. Both are run.
    model: such as 'nfnet_f0'.

  Raises:
    ValueError: a file isn't there or isn't the published one, or it has no
      such NFNet.
  """
  if model not in variants.NFNET:
    raise ValueError(f'{model}: the published step is taken of NFNets alone')
  variant = model.removeprefix('nfnet_').replace('_plus', '+').upper()
  if not folder:
    raise ValueError(f'no --published=FOLDER: name {CHECKOUT}')
  source = _load(folder)
  known = getattr(getattr(source, 'NFNet', None), 'variant_dict', {})
  if variant not in known:
    raise ValueError(
      f'{folder}: its NFNet has no variant {variant}, only '
      f'{", ".join(known) or "none"}; name {CHECKOUT}'
    )

  def forward(images: jax.Array) -> jax.Array:
    # The recipe's rate; the class's own default is another.
    made = source.NFNet(NUM_CLASSES, variant, stochdepth_rate=0.25)
    return made(images, is_training=True)['logits']

  return hk.transform(forward)


def step_of(
  folder: str, model: str, batch_size: int, image_size: int, precision: str
) -> tuple[Any, tuple]:
  """The step, for `parallel.map_step`, and shapes of what it takes.

  Args:
    folder, model: see `network`.
    batch_size: images of the whole batch.
    image_size: pixels a side; 0 for the variant's.
    precision: 'float32' or 'bfloat16'.

  Returns:
    The step, and shapes of its `State`, its batch {'images' `[N, H, W, 3]`
    float32, 'labels' `[N]`} and its key.

  Raises:
    ValueError: see `network`; or there is no such precision.
  """
  if precision not in step.DTYPES:
    raise ValueError(
      f'no precision {precision!r}: choose one of {", ".join(step.DTYPES)}'
    )
  made = network(folder, model)
  size = image_size or variants.find(model)['train_image_size']
  images = jax.ShapeDtypeStruct((batch_size, size, size, 3), np.float32)
  labels = jax.ShapeDtypeStruct((batch_size,), np.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(made.init, key, images)
  shapes = (
    State(params, params), {'images': images, 'labels': labels}, key
  )  # fmt: skip
  return _make_step(made, step.DTYPES[precision]), shapes


def prepare(
  folder: str, model: str, batch_size: int, image_size: int, precision: str
) -> programs.Program:
  """Compiles the step for the first device, its data there already."""
  train_step, shapes = step_of(folder, model, batch_size, image_size, precision)
  params = programs.filled(shapes[0].params)
  state = State(params, jax.tree.map(np.zeros_like, params))
  random = np.random.RandomState(0)
  images, labels = shapes[1]['images'], shapes[1]['labels']
  batch = {
    'images': random.randn(*images.shape).astype(images.dtype),
    'labels': random.randint(0, NUM_CLASSES, labels.shape, labels.dtype),
  }
  return programs.training(train_step, state, batch)


def fingerprints(folder: str) -> dict[str, str]:
  """The first digits of each file's SHA-256: which code was run."""
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    for path in _files(folder)
  }


def _make_step(made: hk.Transformed, dtype: jnp.dtype) -> Any:
  def loss_of(params: Any, batch: Any, key: jax.Array) -> tuple:
    logits = made.apply(params, key, batch['images'].astype(dtype))
    logits, labels = logits.astype(jnp.float32), batch['labels']
    targets = 0.9 * jax.nn.one_hot(labels, NUM_CLASSES) + 0.1 / NUM_CLASSES
    losses = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
    loss = jnp.mean(losses)
    order = jnp.argsort(logits)
    metrics = {
      f'top_{k}': jnp.mean(jnp.any(order[:, -k:] == labels[:, None], axis=-1))
      for k in (1, 5)
    }
    return loss / jax.lax.axis_size(parallel.AXIS), metrics | {'loss': loss}

  def train_step(state: State, batch: Any, key: jax.Array) -> tuple:
    rounded = jax.tree.map(lambda p: p.astype(dtype), state.params)
    found = jax.grad(loss_of, has_aux=True)(rounded, batch, key)
    gradients, metrics = jax.tree.map(lambda x: x.astype(jnp.float32), found)
    gradients = jax.lax.psum(gradients, parallel.AXIS)
    decayed = jax.tree_util.tree_map_with_path(
      lambda path, g, p: g + 2e-5 * p if path[-1].key == 'w' else g,
      gradients,
      state.params,
    )
    momentum = jax.tree.map(lambda g, m: 0.9 * m + g, decayed, state.momentum)
    params = jax.tree.map(
      lambda p, g, m: p - LEARNING_RATE * (g + 0.9 * m),
      state.params,
      decayed,
      momentum,
    )
    return State(params, momentum), parallel.mean(metrics)

  return train_step


def _files(folder: str) -> list[pathlib.Path]:
  paths = [pathlib.Path(folder) / f'{name}.py' for name in FILES]
  for path in paths:
    if not path.is_file():
      raise ValueError(f'no {path}: name {CHECKOUT}')
  return paths


def _load(folder: str) -> Any:
  """Runs the files under their package's name, which is ours too."""
  missing = object()
  before = {
    name: (sys.modules.get(f'nfnets.{name}'), vars(nfnets).get(name, missing))
    for name in FILES
  }
  try:
    for path in _files(folder):
      name = f'nfnets.{path.stem}'
      spec = importlib.util.spec_from_file_location(name, path)
      module = importlib.util.module_from_spec(spec)
      sys.modules[name] = module
      setattr(nfnets, path.stem, module)
      spec.loader.exec_module(module)
    return module
  finally:
    for name, (module, attribute) in before.items():
      sys.modules.pop(f'nfnets.{name}', None)
      vars(nfnets).pop(name, None)
      if module is not None:
        sys.modules[f'nfnets.{name}'] = module
      if attribute is not missing:
        setattr(nfnets, name, attribute)
