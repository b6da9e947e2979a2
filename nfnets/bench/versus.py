"""Our step and another's of the same network, alternately in one run."""

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from nfnets import variants
from nfnets.bench import clock, programs, published, step_time
from nfnets.bench.peer import Worker
from nfnets.weights import timm

REST = 0.2  # seconds between two turns, for the other's threads to come to rest


def compare(
  model: str,
  batch_size: int,
  image_size: int = 0,
  precision: str = 'float32',
  mode: str = 'train',
  *,
  command: Sequence[str],
  compiler: str = 'none',
  rounds: int = 5,
  seconds: float = 2.0,
  config: ConfigDict | None = None,
  clip: str = '',
) -> dict[str, Any]:
  """Times ours and PyTorch's in turn, every second time the other first.

  Args:
    model, batch_size, image_size, precision, mode, config, clip: as
      `step_time.measure` takes them. The network is made as timm's is (its
      activation, epsilon and padding). PyTorch has no folded network: its
      plain inference stands beside ours.
    command: starts `scripts/torch_step.py`.
    compiler: torch.compile's mode, or 'none' for eager.
    rounds: turns of each side.
    seconds: of each turn.

  Returns:
    `ours` and `theirs`: seconds of a step in each round; `ratio` {median, low,
    high}: ours to theirs over the rounds, below 1 where ours is faster; `peer`
    and what the other process says of itself.

  Raises:
    ValueError: there is no such network there, or the process fails.
  """
  peer, overrides = counterpart(model)
  image_size = image_size or step_time.default_size(model, mode)
  clip = clip or step_time.default_clip(model, {})
  job = {
    'peer': peer,
    'depths': variants.find(model)['depths'],
    'batch_size': batch_size,
    'image_size': image_size,
    'precision': precision,
    'mode': 'train' if mode == 'train' else 'eval',
    'clip': clip,
    'compile': compiler,
  }
  program = programs.prepare(
    model,
    batch_size,
    image_size,
    precision,
    mode,
    config=config,
    clip=clip,
    overrides=overrides,
  )
  question = {'seconds': seconds, 'chunk_seconds': step_time.CHUNK_SECONDS}
  with Worker(command, job) as worker:
    turns = {
      'ours': lambda: _seconds(program, seconds),
      'theirs': lambda: worker.ask(question)['seconds'],
    }
    taken = _alternate(turns, rounds)
    about = worker.about
  return {
    'model': model,
    'batch_size': batch_size,
    'image_size': image_size,
    'precision': precision,
    'mode': mode,
    'clip': clip if mode == 'train' else 'none',
    'overrides': overrides,
    'peer': peer,
    'peer_about': about,
    'ours_compile_seconds': program.trace_seconds + program.compile_seconds,
    **taken,
  }


def compare_published(
  model: str,
  batch_size: int,
  image_size: int = 0,
  precision: str = 'float32',
  mode: str = 'train',
  clip: str = 'none',
  *,
  folder: str,
  rounds: int = 5,
  seconds: float = 2.0,
  config: ConfigDict | None = None,
) -> dict[str, Any]:
  """Times our plain training step and the published one's, in one process.

  Args:
    model, batch_size, image_size, precision, config: as `step_time.measure`
      takes them.
    mode, clip: 'train' and 'none', which is all that there is.
    folder: see `published.network`.
    rounds, seconds: see `compare`.

  Returns:
    As `compare`.

  Raises:
    ValueError: see `published.network`; or another mode or clip is asked for.
  """
  check_published(model, mode, clip)
  image_size = image_size or step_time.default_size(model, 'train')
  asked = (model, batch_size, image_size, precision)
  theirs = published.prepare(folder, *asked)
  ours = programs.prepare(*asked, 'train', config=config, clip='none')
  turns = {
    'ours': lambda: _seconds(ours, seconds),
    'theirs': lambda: _seconds(theirs, seconds),
  }
  packages = ('jax', 'dm-haiku')
  versions = {name: importlib.metadata.version(name) for name in packages}
  return {
    'model': model,
    'batch_size': batch_size,
    'image_size': image_size,
    'precision': precision,
    'mode': 'train',
    'clip': 'none',
    'overrides': {},
    'peer': 'the published step',
    'peer_about': {
      'compile': 'XLA',
      'versions': versions,
      'files': published.fingerprints(folder),
    },
    'ours_compile_seconds': ours.trace_seconds + ours.compile_seconds,
    'theirs_compile_seconds': theirs.trace_seconds + theirs.compile_seconds,
    **_alternate(turns, rounds),
  }


def check_published(model: str, mode: str, clip: str) -> None:
  """Refuses what the published step isn't compared in."""
  if (mode, clip) != ('train', 'none') or model not in variants.NFNET:
    raise ValueError(
      f'{model}, mode {mode}, clip {clip}: the published step is compared for '
      'NFNets alone, in training, without clipping'
    )


def _seconds(program: programs.Program, seconds: float) -> float:
  times, _ = step_time.time_chunks(program.run, 10**9, seconds, 1)
  return clock.median(times)


def _alternate(
  turns: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, Any]:
  """Each side's seconds by round, and the ratio of the first to the second."""
  taken: dict[str, list[float]] = {name: [] for name in turns}
  for number in range(rounds):
    for name in list(turns)[:: -1 if number % 2 else 1]:
      time.sleep(REST)
      taken[name].append(turns[name]())
  ratios = [a / b for a, b in zip(*taken.values())]
  return taken | {
    'ratio': {
      'median': clock.median(ratios),
      'low': min(ratios),
      'high': max(ratios),
    }
  }


def counterpart(model: str) -> tuple[str, dict[str, Any]]:
  """The other side's name of a network, and our overrides that make it."""
  if model in variants.CIFAR_RESNET:
    return 'cifar_resnet', {'normalizer': 'batch'}
  found = {name: p for name, p in timm.PEERS.items() if p.model == model}
  if not found:
    raise ValueError(f'{model} has no counterpart in timm')
  name = min(found, key=lambda name: not name.startswith('dm_'))
  return name, dict(found[name].overrides)
