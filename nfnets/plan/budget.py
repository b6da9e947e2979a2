"""The cost of a planned run, and changes that make its step fit in memory."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from nfnets.plan import compiled, pods
from nfnets.plan.compiled import Program


class Roofline(NamedTuple):
  """Lower bounds on the seconds of a step, from the chip's published peaks.

  Attributes:
    arithmetic: FLOPs over peak FLOP/s at the recipe's precision.
    memory: bytes accessed over memory bandwidth.
    collectives: bytes to reduce and to gather over interconnect bandwidth.
  """

  arithmetic: float
  memory: float
  collectives: float

  @property
  def seconds(self) -> float:
    """The largest of the three: no step is faster."""
    return max(self)


class Run(NamedTuple):
  """The totals of a run at a given step time.

  Attributes:
    hours: of training, without evaluations.
    chip_hours: hours times the number of chips.
    host_images_per_second: images that each host must prepare.
  """

  hours: float
  chip_hours: float
  host_images_per_second: float


class Remedy(NamedTuple):
  """A change to the recipe that was tried.

  Attributes:
    flags: command-line flags that make the change.
    program: the changed step.
  """

  flags: str
  program: Program


def roofline(config: ConfigDict, pod: pods.Pod, program: Program) -> Roofline:
  """Returns lower bounds on the time of one step."""
  chip = pod.chip
  return Roofline(
    program.flops / getattr(chip, config.precision),
    program.bytes_accessed / chip.bandwidth,
    2 * program.collective_bytes / chip.interconnect,
  )


def run(config: ConfigDict, pod: pods.Pod, step_seconds: float) -> Run:
  """Returns the totals of a recipe's run on a pod at that step time."""
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  hours = config.num_steps * step_seconds / 3600
  images = config.batch_size * fresh / step_seconds / pod.num_hosts
  return Run(
    hours=hours,
    chip_hours=hours * pod.num_chips,
    host_images_per_second=0.0 if config.data.on_device else images,
  )


def remedies(
  config: ConfigDict,
  pod: pods.Pod,
  refused: Program,
  is_compiled: bool,
  report: Callable[[str], None] = lambda line: None,
) -> list[Remedy]:
  """Tries rematerialization, micro-batches and smaller batches per device.

  Changes of each kind are tried from the mildest one on, until one fits. With
  `is_compiled`, those that fit by their estimate are also compiled.

  Args:
    config: a recipe whose step doesn't fit.
    pod: where it doesn't fit.
    refused: the step that doesn't fit.
    is_compiled: whether to compile the trials.
    report: called with a line of progress before each compilation.

  Returns:
    All trials in order; the last one of each kind fits, if any does.
  """
  whole = refused
  if refused.method != 'estimated':
    whole = compiled.estimate_step(config, pod)
  scale = refused.memory / whole.memory
  tried = []
  for kind in _kinds(config, pod, whole):
    for values, program in kind:
      flags = ' '.join(f'--config.{k}={v}' for k, v in values.items())
      fits = scale * program.memory <= pod.chip.memory
      program = program._replace(fits=fits)
      if is_compiled and fits:
        report(f'compiling {flags}')
        program = compiled.compile_step(_changed(config, values), pod)
      tried.append(Remedy(flags, program))
      if program.fits:
        break
  return tried


Trials = Iterator[tuple[dict[str, Any], Program]]


def _kinds(
  config: ConfigDict, pod: pods.Pod, whole: Program
) -> Iterator[Trials]:
  """Yields the changes of each kind, mildest first, with estimated steps."""
  if not config.model.get('remat', True):
    values = {'model.remat': True}
    changed = _changed(config, values)
    yield iter([(values, compiled.estimate_step(changed, pod))])
  device_batch = config.batch_size // pod.num_devices
  if device_batch % (2 * config.micro_batches):
    return
  values = {'batch_size': config.batch_size // 2}
  half = compiled.estimate_step(_changed(config, values), pod)
  parts = [
    2**power
    for power in range(1, device_batch.bit_length())
    if device_batch % (2**power * config.micro_batches) == 0
  ]
  yield (
    (
      {'micro_batches': config.micro_batches * part},
      # The summed gradients need memory too.
      whole._replace(
        temporaries=_part(whole, half, part).temporaries
        + whole.collective_bytes
      ),
    )
    for part in parts
  )
  yield (
    ({'batch_size': config.batch_size // part}, _part(whole, half, part))
    for part in parts
  )


def _part(whole: Program, half: Program, part: int) -> Program:
  """Extrapolates to 1/part of the images from the whole and half of them."""
  place = 2 / part - 1  # 0 at half, 1 at the whole
  numbers = ['arguments', 'temporaries', 'flops', 'bytes_accessed']
  return whole._replace(
    **{
      name: getattr(half, name)
      + place * (getattr(whole, name) - getattr(half, name))
      for name in numbers
    }
  )


def _changed(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict(values)
  return config
