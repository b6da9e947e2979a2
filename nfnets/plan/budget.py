"""The cost of a planned run, and changes that make its step fit in memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from nfnets import checks
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


def roofline(config: ConfigDict, pod: pods.Pod, program: Program) -> Roofline:
  """Returns lower bounds on the time of one step."""
  chip = pod.chip
  return Roofline(
    program.flops / getattr(chip, config.precision),
    program.bytes_accessed / chip.bandwidth,
    2 * program.collective_bytes / chip.interconnect,
  )


def host_images_per_second(
  config: ConfigDict, pod: pods.Pod, step_seconds: float
) -> float:
  """Returns how many images each host must prepare a second."""
  if config.data.on_device:
    return 0.0
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  return config.batch_size * fresh / step_seconds / pod.num_hosts


def remedies(
  config: ConfigDict,
  pod: pods.Pod,
  refused: Program,
  is_compiled: bool,
  report: Callable[[str], None] = lambda line: None,
) -> list[tuple[str, Program]]:
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
    All trials in order: the flags that make the change, and the changed step.
    The last one of each kind fits, if any does.
  """
  scale = 1.0
  if refused.method != 'estimated':
    scale = refused.memory / compiled.estimate_step(config, pod).memory
  tried = []
  for kind in _kinds(config, pod):
    for values in kind:
      flags = ' '.join(f'--config.{k}={v}' for k, v in values.items())
      changed = _changed(config, values)
      try:
        checks.check(changed, pod.num_devices)
      except ValueError:  # no remedy for this recipe
        continue
      program = compiled.estimate_step(changed, pod)
      fits = scale * program.memory <= pod.chip.memory
      program = program._replace(fits=fits)
      if is_compiled and fits:
        report(f'compiling {flags}')
        program = compiled.compile_step(changed, pod)
      tried.append((flags, program))
      if program.fits:
        break
  return tried


def _kinds(config: ConfigDict, pod: pods.Pod) -> list[list[dict[str, Any]]]:
  """Returns the changes of each kind, the mildest first."""
  part = config.batch_size // pod.num_devices // config.micro_batches
  factors = [2**n for n in range(1, part.bit_length()) if part % 2**n == 0]
  has_remat = config.model.get('remat', True)
  return [
    [] if has_remat else [{'model.remat': True}],
    [{'micro_batches': config.micro_batches * n} for n in factors],
    [{'batch_size': config.batch_size // n} for n in factors],
  ]


def _changed(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict(values)
  return config
