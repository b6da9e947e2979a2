"""What a planned run costs, and what makes a step that doesn't fit fit."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from nfnets import plan, pods


class Roofline(NamedTuple):
  """Seconds of a step, were the chip at its published peak; one bound each.

  Attributes:
    arithmetic: FLOPs over the peak at the recipe's precision.
    memory: bytes accessed over the memory's bandwidth.
    collectives: bytes to reduce and gather again over the interconnect's.
  """

  arithmetic: float
  memory: float
  collectives: float

  @property
  def seconds(self) -> float:
    """No step is faster: the largest of the three."""
    return max(self)


class Run(NamedTuple):
  """A whole run at a given pace.

  Attributes:
    steps: of the recipe.
    hours: of training alone, evaluations apart.
    chip_hours: of all chips.
    checkpoint_bytes: of one checkpoint.
    kept_bytes: of all that are kept.
    host_images_per_second: that each host must prepare.
    host_cores: that this takes.
  """

  steps: int
  hours: float
  chip_hours: float
  checkpoint_bytes: float
  kept_bytes: float
  host_images_per_second: float
  host_cores: float


class Remedy(NamedTuple):
  """A change of the recipe that was tried.

  Attributes:
    flags: of the command line.
    program: the step with it.
  """

  flags: str
  program: plan.Program


def roofline(
  config: ConfigDict, pod: pods.Pod, program: plan.Program
) -> Roofline:
  """The bounds of one step."""
  chip = pod.chip
  return Roofline(
    program.flops / getattr(chip, config.precision),
    program.bytes_accessed / chip.bandwidth,
    2 * program.collective_bytes / chip.interconnect,
  )


def run(
  config: ConfigDict,
  pod: pods.Pod,
  program: plan.Program,
  step_seconds: float,
  images_per_core: float,
) -> Run:
  """The run's totals.

  Args:
    config: a recipe.
    pod: what it runs on.
    program: its step.
    step_seconds: of one step; the roofline's for the least that it can be.
    images_per_core: images/s that one core of a host prepares.
  """
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  hours = config.num_steps * step_seconds / 3600
  images = config.batch_size * fresh / step_seconds / pod.num_hosts
  on_host = 0.0 if config.data.on_device else images
  return Run(
    steps=config.num_steps,
    hours=hours,
    chip_hours=hours * pod.num_chips,
    checkpoint_bytes=program.state_bytes,
    kept_bytes=program.state_bytes * config.keep_checkpoints,
    host_images_per_second=on_host,
    host_cores=on_host / images_per_core,
  )


def remedies(
  config: ConfigDict,
  pod: pods.Pod,
  refused: plan.Program,
  compiled: bool,
  report: Callable[[str], None] = lambda line: None,
) -> list[Remedy]:
  """Tries rematerialization, micro-batches and smaller batches per device.

  Each kind is tried from its mildest until one fits. Where steps are compiled,
  only what the estimates let hope is.

  Args:
    config: a recipe whose step doesn't fit.
    pod: what it doesn't fit on.
    refused: that step.
    compiled: compile each trial rather than estimate it.
    report: is told of each trial.

  Returns:
    All trials, in order; of each kind the last one fits, if any does.
  """
  whole = refused
  if refused.method != 'estimated':
    whole = plan.estimate_step(config, pod)
  scale = refused.memory / whole.memory
  tried = []
  for kind in _kinds(config, pod, whole):
    for values, program in kind:
      flags = ' '.join(f'--config.{k}={v}' for k, v in values.items())
      fits = scale * program.memory <= pod.chip.memory
      program = program._replace(fits=fits)
      if compiled and fits:
        report(f'compiling {flags}')
        program = plan.compile_step(_changed(config, values), pod)
      tried.append(Remedy(flags, program))
      if program.fits:
        break
  return tried


Trials = Iterator[tuple[dict[str, Any], plan.Program]]


def _kinds(
  config: ConfigDict, pod: pods.Pod, whole: plan.Program
) -> Iterator[Trials]:
  """Changes of each kind, the mildest first, with the estimated step."""
  if not config.model.get('remat', True):
    values = {'model.remat': True}
    yield iter([(values, plan.estimate_step(_changed(config, values), pod))])
  device_batch = config.batch_size // pod.num_devices
  if device_batch % (2 * config.micro_batches):
    return
  values = {'batch_size': config.batch_size // 2}
  half = plan.estimate_step(_changed(config, values), pod)
  parts = [
    2**power
    for power in range(1, device_batch.bit_length())
    if device_batch % (2**power * config.micro_batches) == 0
  ]
  yield (
    (
      {'micro_batches': config.micro_batches * part},
      # The sums of gradients are kept besides.
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


def _part(whole: plan.Program, half: plan.Program, part: int) -> plan.Program:
  """The step with one part of the images, on the line through two others."""
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
