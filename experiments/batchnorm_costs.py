"""What batch normalization costs besides accuracy; nothing is trained.

ResNet-20 with batch normalization and normalizer-free, both untrained, on the
first 1,024 test images of CIFAR-10, with one row for each drawback that has
been held against batch normalization. The normalizer-free network's skip gains
are 1: at 0, where its recipe starts them, its branches would add nothing to the
logits. Time and memory of a step are measured with the recipe's 0 and on random
pixels, neither of which changes what is computed. Differences of logits are
relative to how much they differ between images. This shows whether a network
has a drawback, not how large the drawback is after training. Which network is
faster depends on the network, the image size and the device: see
figure_latency.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

from experiments import _figures, _resnet20
from experiments.study import FULL, Experiment, Row, Rows, Scale
from nfnets import factory, step
from nfnets.bench import clock, pieces, programs
from nfnets.data import augment, pipeline, sources

NAMES = {'batch': 'batch normalization', 'nf': 'normalizer-free'}
GAIN = {'model.skipinit_gain': 1.0}
ROUNDING = 1e-4  # relative; below it nothing but the order of sums differs
EXPERIMENT = Experiment(
  title='What batch normalization costs',
  claim='Batch normalization takes time and memory, lets predictions depend on '
  'batch mates, differs between training and inference, and depends on the '
  'number of devices; a normalizer-free network has none of these.',
  rows={
    'step_cost': {'drawback': 'step_cost'},
    'batch_mates': {'drawback': 'batch_mates', **GAIN},
    'train_eval_gap': {'drawback': 'train_eval_gap', **GAIN},
    'device_count': {'drawback': 'device_count', **GAIN},
  },
  checks={
    'a step of BN takes more time, by the quartiles': lambda rows: beyond(
      rows['step_cost'].measured['batch']['ratio']
    ),
    'a step of BN takes over 1 % more memory': lambda rows: (
      memory(rows, 'batch') > 1.01 * memory(rows, 'nf')
    ),
    'batch mates change the logits with BN only': lambda rows: only_batch(
      rows['batch_mates'], 'logits'
    ),
    'training and inference differ with BN only': lambda rows: only_batch(
      rows['train_eval_gap'], 'logits'
    ),
    'the device count changes the gradient with BN only': lambda rows: (
      only_batch(rows['device_count'], 'gradient')
    ),
  },
  labels={
    'step_cost': 'a training step at batch 128: quartiles of its time, and of '
    "its ratio to the normalizer-free one's; memory beside state and batch",
    'batch_mates': 'in training mode at batch 16, each of 32 images among 8 '
    'sets of 15 others: images whose class changes, change of the logits',
    'train_eval_gap': 'training against inference at batch 4, 16 and 64, '
    'averages over 50 batches: images whose class differs, logits',
    'device_count': "difference from one device's gradient of a batch of 64 "
    'that is split among 1, 2, 8 and 32',
  },
  scales={
    FULL: Scale(
      '32 pixels, float32, 1,024 images', {'data.eval_split': 'test[:1024]'}
    )
  },
  columns={
    label: lambda row, name=name: cell(row, row.measured[name])
    for name, label in NAMES.items()
  },
  config=lambda row: recipe(),
  measure=lambda config: measure(config),
  plot=lambda experiment, rows: panels(rows),
)
get_config = EXPERIMENT.get_config


def recipe() -> ConfigDict:
  """The study's ResNet-20, and which drawback a row measures."""
  config = _resnet20.recipe()
  with config.unlocked():
    config.drawback = ''
  return config


def measure(config: ConfigDict) -> dict[str, dict[str, Any]]:
  """Measures `config.drawback` of both networks, by their names.

  Logits are centered over images, because an untrained head prefers one class.
  """
  configs = {}
  for name in NAMES:
    configs[name] = config.copy_and_resolve_references()
    configs[name].model.normalizer = name
  if config.drawback == 'step_cost':
    return step_cost(configs)
  of_one = {
    'batch_mates': batch_mates,
    'train_eval_gap': train_eval_gap,
    'device_count': device_count,
  }[config.drawback]
  return {name: of_one(each) for name, each in configs.items()}


def step_cost(configs: Mapping[str, ConfigDict], rounds: int = 21) -> dict:
  """The time and memory of a training step, measured in turn.

  Returns:
    For each network the quartiles of `seconds` and of its `ratio` to the
    normalizer-free one in each round, and `temporary`: the bytes that the
    compiler reserves beside state and batch.
  """
  built = {
    name: programs.training(
      pieces.with_piece(config, {'augment.pad': config.augment.pad})
    )
    for name, config in configs.items()
  }
  turns = {
    name: functools.partial(clock.median_step, program.run, 0.3)
    for name, program in built.items()
  }
  times = clock.alternate(turns, rounds)
  quartiles = lambda found: [found[key] for key in ('low', 'median', 'high')]
  return {
    name: {
      'seconds': quartiles(clock.spread(times[name])),
      'ratio': quartiles(clock.ratio(times[name], times['nf'])),
      'temporary': program.memory['temp'],
    }
    for name, program in built.items()
  }


def batch_mates(
  config: ConfigDict, batch_size: int = 16, draws: int = 8
) -> dict[str, float]:
  """How much an image's prediction depends on the others in its batch.

  Returns:
    `changed`, the share of images whose top-1 class differs between sets of
    mates; and `logits`, the root mean square change of the logits with the
    mates, relative to the logits.
  """
  network, random = Untrained(config), np.random.RandomState(0)
  probes, others = network.images[:32], network.images[32:]
  pick = lambda: random.choice(len(others), batch_size - 1, replace=False)
  mates = [pick() for _ in range(draws)]
  of_probe = lambda probe, draw: network(
    np.stack([probe, *others[draw]]), True
  )[0][0]
  logits = np.array([[of_probe(p, draw) for draw in mates] for p in probes])
  logits -= logits.mean((0, 1))  # [probes, draws, K]
  classes = logits.argmax(-1)
  change = logits - logits.mean(1, keepdims=True)
  return {
    'changed': float(np.mean(np.any(classes != classes[:, :1], axis=1))),
    'logits': size(change) / size(logits),
  }


def train_eval_gap(
  config: ConfigDict,
  batches: int = 50,
  batch_sizes: tuple[int, ...] = (4, 16, 64),
) -> dict[str, dict[str, float]]:
  """How much training and inference differ, for equal weights and images.

  Running averages are first computed over that many batches of the images.

  Returns:
    By batch size `changed`, the share of images whose top-1 class differs, and
    `logits`, the difference relative to the logits of inference.
  """
  network = Untrained(config)
  images, found = network.images, {'changed': {}, 'logits': {}}
  for count in batch_sizes:
    state, random = None, np.random.RandomState(0)
    for _ in range(batches):
      seen = images[random.choice(len(images), count)]
      _, state = network(seen, True, state)
    whole = len(images) // count
    parts = np.split(images[: whole * count], whole)
    together, alone = (
      np.concatenate([network(part, mode, state)[0] for part in parts])
      for mode in (True, False)
    )
    together, alone = together - alone.mean(0), alone - alone.mean(0)
    differs = together.argmax(-1) != alone.argmax(-1)
    found['changed'][str(count)] = float(differs.mean())
    found['logits'][str(count)] = size(together - alone) / size(alone)
  return found


def device_count(
  config: ConfigDict,
  batch_size: int = 64,
  counts: tuple[int, ...] = (1, 2, 8, 32),
) -> dict[str, dict[str, float]]:
  """How much the gradient depends on the number of devices.

  Returns:
    `gradient`: by device count, the relative difference from the gradient of
    one device.
  """
  network = Untrained(config)
  batch = network.images[:batch_size], network.labels[:batch_size]
  one, *others = (network.gradient(*batch, count) for count in counts)
  off = [size(grads - one) / size(one) for grads in (one, *others)]
  return {'gradient': dict(zip(map(str, counts), off))}


class Untrained:
  """A recipe's network at initialization.

  Attributes:
    images: those that the recipe evaluates on, normalized, `[N, H, W, 3]`.
    labels: their classes, `[N]`.
  """

  def __init__(self, config: ConfigDict):
    network = factory.network_of(config)
    data = config.data.copy_and_resolve_references()
    data.eval_image_size = data.train_image_size
    source = sources.of(data, data.eval_split)
    (batch,) = pipeline.eval_batches(source, data, batch_size=len(source))
    images = np.float32(batch['images'])
    self.images = np.asarray(augment.normalize(images, data.mean, data.std))
    self.labels = batch['labels']
    init = jax.jit(functools.partial(network.init, is_training=True))
    self.params, self.state = init(jax.random.key(0), self.images[:2])
    self._apply = jax.jit(network.apply, static_argnums=4)
    self._gradient = jax.jit(step.make_gradient(config))
    self._num_classes = data.num_classes

  def __call__(
    self, images: np.ndarray, is_training: bool, state: Any = None
  ) -> tuple[np.ndarray, Any]:
    """The logits of images `[N, H, W, 3]`, and the next state."""
    state = state or self.state
    outputs, state = self._apply(self.params, state, None, images, is_training)
    return np.asarray(outputs['logits']), state

  def gradient(
    self, images: np.ndarray, labels: np.ndarray, count: int
  ) -> np.ndarray:
    """The flat mean gradient of `count` devices that share the batch."""
    targets = np.eye(self._num_classes, dtype=np.float32)[labels]
    parts = zip(np.split(images, count), np.split(targets, count))
    grads = []
    for part in parts:
      batch = dict(zip(('images', 'targets'), part))
      tree, _ = self._gradient(self.params, self.state, None, batch)
      grads.append(ravel_pytree(tree)[0])
    return np.mean(grads, axis=0)


def size(values: np.ndarray) -> float:
  """The root mean square."""
  return float(np.sqrt(np.mean(np.square(values))))


def beyond(ratio: tuple[float, float, float]) -> bool | None:
  """Whether a ratio's quartiles lie above 1; undecided if they straddle it."""
  low, _, high = ratio
  return True if low > 1 else False if high < 1 else None


def memory(rows: Rows, name: str) -> int:
  """Bytes of a step beside state and batch."""
  return rows['step_cost'].measured[name]['temporary']


def only_batch(row: Row, key: str) -> bool:
  """Whether something changes with batch normalization and not without it."""
  batch, nf = (numbers(row.measured[name][key]) for name in NAMES)
  return max(batch.values()) > ROUNDING > max(nf.values())


def cell(row: Row, found: Mapping[str, Any]) -> str:
  """A row's numbers of one network."""
  if row.name == 'step_cost':
    seconds = ' / '.join(f'{1000 * s:.0f}' for s in found['seconds'])
    ratios = ' / '.join(f'{ratio:.2f}' for ratio in found['ratio'])
    return f'{seconds} ms; {ratios}; {found["temporary"] / 2**20:.0f} MiB'
  keys = ('changed', 'logits', 'gradient')
  return '; '.join(percent(found[key]) for key in keys if key in found)


def numbers(found: float | Mapping[str, float]) -> dict[int, float]:
  """Shares by what is varied, in order; a single one by 0."""
  found = found if isinstance(found, Mapping) else {'0': found}
  return {count: found[str(count)] for count in sorted(map(int, found))}


def percent(found: float | Mapping[str, float]) -> str:
  """'59 %', or '41, 26, 13 %' by what is varied."""
  return ', '.join(f'{100 * x:.2g}' for x in numbers(found).values()) + ' %'


def panels(rows: Rows) -> _figures.Panels:
  """Two of the drawbacks over what they depend on."""
  for row, key, x, y in (
    ('train_eval_gap', 'logits', 'batch size', 'training - inference (%)'),
    ('device_count', 'gradient', 'devices', 'change of the gradient (%)'),
  ):
    found = []
    for name, label in NAMES.items() if row in rows else ():
      values = numbers(rows[row].measured[name][key])
      percents = [100 * value for value in values.values()]
      found.append(_figures.Curve(label, list(values), percents))
    yield _figures.Panel(x, y, found, log='x')
