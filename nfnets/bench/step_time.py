"""Times training steps and inference on one device, alone or beside PyTorch."""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from nfnets import chips, variants
from nfnets.analysis import counts
from nfnets.bench import clock, programs
from nfnets.weights import timm

MIN_CHUNKS = 3
REST = 0.2  # seconds before each turn, so that the other's threads stop
ROOT = pathlib.Path(__file__).parents[2]


def measure(
  config: ConfigDict, mode: str = 'train', seconds: float = 10.0
) -> dict[str, Any]:
  """Compiles a step for the first device and times it.

  Args:
    config: from `programs.plain`.
    mode: one of `programs.MODES`.
    seconds: duration; at least three chunks of steps are timed.

  Returns:
    The arguments of `programs.plain`, `seconds` per step (`clock.spread`),
    `images_per_second`, `flops_per_second`, `utilization`, which is the share
    of the chip's peak (None where that isn't known), and costs and memory as in
    `programs.Program`.
  """
  program = programs.prepare(config, mode)
  times = clock.step_seconds(program.run, seconds, MIN_CHUNKS)
  return _result(config, mode, program, times)


def compare(
  config: ConfigDict,
  mode: str,
  command: Sequence[str],
  *,
  compiler: str = 'none',
  rounds: int = 5,
  seconds: float = 2.0,
) -> dict[str, Any]:
  """Times this network and PyTorch's in turn.

  Args:
    config: from `programs.plain`, with the overrides of `counterpart`.
    mode: as for `measure`. Mode 'folded' is compared with PyTorch's plain
      inference, which has no folded form.
    command: starts `nfnets.bench.torch_step`.
    compiler: torch.compile's mode, or 'none' for eager execution.
    rounds: number of turns of each side.
    seconds: duration of a turn.

  Returns:
    As `measure`, of the rounds' medians, with PyTorch's seconds (`theirs`), the
    `ratio` of ours to theirs in each round (below 1 where ours is faster), both
    as `clock.spread`, the `peer`'s name and what it says `about` itself.

  Raises:
    ValueError: if PyTorch has no such network, or its process fails.
  """
  peer, _ = counterpart(config.model.name)
  program = programs.prepare(config, mode)
  with worker(command) as ask:
    about = ask(_settings(config, mode) | {'peer': peer, 'compile': compiler})
    turns = {
      'ours': lambda: clock.median_step(program.run, seconds),
      'theirs': lambda: ask({'seconds': seconds})['seconds'],
    }
    taken = clock.alternate(turns, rounds, REST)
  return _result(config, mode, program, taken['ours']) | {
    'theirs': clock.spread(taken['theirs']),
    'ratio': clock.ratio(*taken.values()),
    'peer': peer,
    'about': about | {'compile': compiler},
  }


def counterpart(model: str) -> tuple[str, dict[str, Any]]:
  """Returns PyTorch's name of a network, and the overrides that match it."""
  if model in variants.CIFAR_RESNET:
    return 'cifar_resnet', {'normalizer': 'batch'}
  try:
    name = timm.name_of(model)
  except ValueError as error:
    raise ValueError(f'{model} has no counterpart in timm') from error
  return name.removeprefix('timm/'), timm.changes(name, model, {})


@contextlib.contextmanager
def worker(
  command: Sequence[str],
) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
  """Starts a process that answers lines of JSON; yields a function to ask it.

  Args:
    command: to start, with this checkout on Python's path.

  Raises:
    OSError: if it can't be started.
    ValueError: if it fails, with its error or the last line of its stderr.
  """
  with tempfile.TemporaryFile('w+') as stderr:
    process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=stderr,
      text=True,
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )

    def ask(question: dict[str, Any]) -> dict[str, Any]:
      line = ''
      with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(question) + '\n')
        process.stdin.flush()
        line = process.stdout.readline()
      if line and 'error' not in (answer := json.loads(line)):
        return answer
      if not line:
        process.wait(10)
        stderr.seek(0)
        answer = {'error': stderr.read().strip().rpartition('\n')[2]}
      raise ValueError(f'{" ".join(command)}: {answer["error"]}')

    try:
      yield ask
    finally:
      process.terminate()
      process.communicate()


def _settings(config: ConfigDict, mode: str) -> dict[str, Any]:
  return {
    'model': config.model.name,
    'mode': mode,
    'image_size': config.data.train_image_size,
    'batch_size': config.batch_size,
    'precision': config.precision,
    'clip': config.optimizer.clip,
    'ema': config.ema.mode != 'none',
    'network': {k: v for k, v in config.model.items() if k != 'name'},
    'device': jax.devices()[0].device_kind,
  }


def _result(
  config: ConfigDict,
  mode: str,
  program: programs.Program,
  times: Sequence[float],
) -> dict[str, Any]:
  settings, seconds = _settings(config, mode), clock.spread(times)
  parts = counts.parts(
    settings['model'],
    settings['image_size'],
    config.data.num_classes,
    **settings['network'],
  )
  # A multiply-add is two operations; a backward pass costs two forward passes.
  operations = 2 * (3 if mode == 'train' else 1) * sum(p.macs for p in parts)
  rate = config.batch_size / seconds['median']
  peak = chips.peak_flops(settings['device'], config.precision)
  costs = program._asdict()
  del costs['run']
  return (
    settings
    | costs
    | {
      'seconds': seconds,
      'images_per_second': rate,
      'flops_per_second': operations * rate,
      'utilization': operations * rate / peak if peak else None,
    }
  )
