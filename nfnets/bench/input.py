"""What the input costs, stage by stage, beside what the model takes.

Host stages and pipelines, augmentation on the device and the train step are
subjects of one `clock.alternate`, and so are tf.data's if a peer is given.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from nfnets import factory
from nfnets.bench import clock, device, host, report, verdict
from nfnets.bench.peer import Peer
from nfnets.data import sources


class Options(NamedTuple):
  """How to measure.

  Attributes:
    count: examples held in memory.
    rounds: measurements of each subject.
    seconds: of one measurement.
    device_batch_size: of augmentation and step; 0: the config's, 64 at most.
    model: whether to build and time the train step.
    photo_size: of `host.Held`.
  """

  count: int = 512
  rounds: int = 5
  seconds: float = 1.0
  device_batch_size: int = 0
  model: bool = True
  photo_size: tuple[int, int] = (0, 0)


def measure(
  config: ConfigDict, options: Options, peer: Sequence[str] = ()
) -> dict[str, Any]:
  """Measures a recipe's input on its own data.

  Args:
    config: a recipe (configs/), resolved.
    options: how.
    peer: command that starts tf.data's side (scripts/tf_input.py).

  Returns:
    `rates` by subject, `ratios`, `bottleneck`, `notes`, and where and what.

  Raises:
    ValueError, OSError: the config, its data or the peer is refused.
  """
  where = report.circumstances()
  factory.check(config, 1, 1)
  source = sources.create(
    config.data.name,
    config.data.train_split,
    config.data.data_dir or None,
    config.data.num_classes,
  )
  held = host.Held(
    source, options.count, options.photo_size, config.data.on_error
  )
  notes: list[str] = []
  subjects = host.stages(config, source, held)
  subjects |= host.pipelines(config, source, held)
  batch = device.batch_of(config, held, options.device_batch_size)
  subjects |= device.augmentations(config, batch)
  if options.model:
    subjects['train step'] = device.train_step(config, held, batch)
  with contextlib.ExitStack() as stack:
    if peer and (why := _incomparable(config, held)):
      notes.append(f'tf.data was not measured: {why}.')
    elif peer:
      job = _job(config, held)
      other = stack.enter_context(Peer(peer, held.files, held.labels, job))
      where['versions'] |= other.about
      subjects |= _of_peer(config, other)
    samples = clock.alternate(subjects, options.rounds, options.seconds)
  where |= options._asdict() | {'device_batch_size': len(batch['labels'])}
  return verdict.summary(config, samples, held.shapes, where, notes)


def _incomparable(config: ConfigDict, held: host.Held) -> str:
  if not isinstance(held.files[0], bytes):
    return f'{config.data.name} holds no encoded images'
  if config.data.crop not in ('inception', 'none'):
    return f'it has no counterpart of crop {config.data.crop!r} here'
  if config.data.on_device:
    return 'the set is held on the device'
  return ''


def _job(config: ConfigDict, held: host.Held) -> dict[str, Any]:
  data, spec = config.data, config.augment
  is_cropped = data.crop == 'inception'
  return {
    'image_size': data.train_image_size,
    'crop': data.crop,
    'flip': data.flip,
    'resize': is_cropped or bool((held.shapes != data.train_image_size).any()),
    'cache': data.cache,
    'batch_size': host.BATCH,
    'num_classes': data.num_classes,
    'layers': spec.randaugment_layers,
    'magnitude': spec.randaugment_magnitude,
    'mean': list(data.mean),
    'std': list(data.std),
  }


def _of_peer(config: ConfigDict, peer: Peer) -> dict[str, clock.Subject]:
  threads = sorted({1, config.data.num_threads})
  subjects = {verdict.tf_data(t): peer.subject('decode', t) for t in threads}
  if config.data.crop == 'inception' and config.augment.randaugment_layers:
    subjects[verdict.PUBLISHED] = peer.subject('published', 1)
  return subjects
