"""What the input's rates say: ratios, the bottleneck, a page of Markdown."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nfnets.bench import clock, report

AUGMENTATION = 'device: all augmentation'
PUBLISHED = 'published recipe, 1 thread'


def host(threads: int) -> str:
  return f'host pipeline, {_threads(threads)}' if threads else 'host: ids'


def held(threads: int) -> str:
  return f'host pipeline from memory, {_threads(threads)}'


def tf_data(threads: int) -> str:
  return f'tf.data from memory, {_threads(threads)}'


def _threads(count: int) -> str:
  return f'{count} thread' + 's' * (count > 1)


Samples = dict[str, list[clock.Sample]]


def summary(
  config: ConfigDict,
  samples: Samples,
  shapes: np.ndarray,
  where: dict[str, Any],
  notes: list[str],
) -> dict[str, Any]:
  """All that a report needs, as JSON takes it.

  Args:
    config: of the run.
    samples: of every subject, over the same rounds.
    shapes: [n, 2] heights and widths of the photographs.
    where: circumstances and options.
    notes: sentences to add.
  """
  height, width = (int(v) for v in np.median(shapes, 0))
  return {
    'model': config.model.name,
    'data': config.data.name,
    'train_image_size': config.data.train_image_size,
    'median_photo': [height, width],
    'pairs': config.augment.pairs,
    'where': where,
    'rates': {name: _rate(runs) for name, runs in samples.items()},
    'ratios': ratios(config, samples),
    'bottleneck': bottleneck(config, samples),
    'notes': notes,
  }


def _rate(runs: list[clock.Sample]) -> dict[str, float]:
  rates = [run.rate for run in runs]
  return {
    'images_per_second': clock.median(rates),
    'low': min(rates),
    'high': max(rates),
    'per_core': clock.median([run.core_rate for run in runs]),
  }


def ratios(config: ConfigDict, samples: Samples) -> dict[str, float]:
  """Median over the rounds of each comparison that was measured."""
  found = {}
  for threads in sorted({1, config.data.num_threads}):
    if tf_data(threads) in samples:
      pair = samples[held(threads)], samples[tf_data(threads)]
      name = f'host pipeline / tf.data, {_threads(threads)}'
      found[name] = clock.ratio(*pair)
      found[f'{name}, per core'] = clock.ratio(*pair, by='core_rate')
  if PUBLISHED in samples:
    ours, theirs = _training(config, samples[held(1)]), samples[PUBLISHED]
    found['training images per core / published recipe'] = clock.ratio(
      ours, theirs, by='core_rate'
    )
    if jax.default_backend() == 'cpu':
      both = [_in_turn(*pair) for pair in zip(ours, samples[AUGMENTATION])]
      found['the same, augmentation on these cores too'] = clock.ratio(
        both, theirs, by='core_rate'
      )
  switch, stratified = (
    samples.get(f'device: RandAugment, {name}')
    for name in ('switch', 'stratified')
  )
  if switch:
    found['RandAugment, switch / stratified'] = clock.ratio(switch, stratified)
  if 'train step' in samples:
    found["augmentation's share of the train step"] = clock.ratio(
      samples['train step'], samples[AUGMENTATION]
    )
  return found


def _training(
  config: ConfigDict, runs: list[clock.Sample]
) -> list[clock.Sample]:
  """Decoded images to images trained on."""
  decodes = 2 if config.augment.pairs == 'fresh' else 1
  return [run._replace(images=run.images / decodes) for run in runs]


def _in_turn(one: clock.Sample, other: clock.Sample) -> clock.Sample:
  """One image through both, one after the other."""
  return clock.Sample(
    1,
    one.wall / one.images + other.wall / other.images,
    one.cpu / one.images + other.cpu / other.images,
  )


def bottleneck(config: ConfigDict, samples: Samples) -> str:
  """One sentence: what limits the training, and by how much.

  On a CPU the host's work and the device's share the cores, so images per
  second of processor time are compared; elsewhere, rates as they are.
  """
  on_cpu = jax.default_backend() == 'cpu'
  by, unit = ('core_rate', ' a core') if on_cpu else ('rate', '')
  threads = config.data.num_threads
  names = [host(0), host(threads), held(threads)]
  fed = _training(config, samples[next(n for n in names if n in samples)])
  needs = 'train step' if 'train step' in samples else AUGMENTATION
  devices = 1 if on_cpu else jax.local_device_count()
  takes = devices * clock.median([getattr(run, by) for run in samples[needs]])
  feeds = clock.median([getattr(run, by) for run in fed])
  if feeds >= takes:
    return (
      f'{needs}, {report.number(takes)} images/s{unit}; the host feeds '
      f'{report.number(feeds)}, {report.number(feeds / takes)} times that'
    )
  cores = takes / clock.median([run.core_rate for run in fed])
  return (
    f'host, {report.number(feeds)} images/s{unit}; {needs} takes '
    f'{report.number(takes)}, which {report.number(cores)} cores would feed'
  )


def page(result: dict[str, Any], command: str) -> str:
  """The result as a section of Markdown."""
  where = result['where']
  height, width = result['median_photo']
  rows = [
    [
      name,
      report.number(rate['images_per_second']),
      f'{report.number(rate["low"])} to {report.number(rate["high"])}',
      report.number(rate['per_core']) if _is_on_cores(name) else '',
    ]
    for name, rate in result['rates'].items()
  ]
  rates = report.table(
    ['what', 'images/s', 'lowest to highest', 'per core'], rows
  )
  ratios = report.table(
    ['ratio', 'median'],
    [[name, report.number(value)] for name, value in result['ratios'].items()],
  )
  notes = ''.join(f'\n{note}\n' for note in result['notes'])
  return f"""
## {result['model']} on {result['data']}, {result['train_image_size']} px

    {command}

{report.describe(where)}
{where['count']} pictures, {height} x {width} pixels in the median;
{where['rounds']} rounds of {where['seconds']:g} s; device batch \
{where['device_batch_size']}; pairs {result['pairs']!r}.

{rates}

{ratios}

Bottleneck: {result['bottleneck']}.
{notes}"""


def _is_on_cores(name: str) -> bool:
  on_device = name.startswith('device') or name == 'train step'
  return jax.default_backend() == 'cpu' or not on_device
